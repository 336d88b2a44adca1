"""A GPU for machines without one: tensors that refuse to meet those of the CPU as on a real one, and compute on the CPU.

They claim to live on `meta`, the device without arithmetic that every build of torch has (on `cuda`, backward asks the driver). Values are real,
so everything runs to its end, and results can be compared with the CPU's. `gpu` also notes what a real GPU would be waited for."""
import contextlib
from unittest import mock

import torch
from torch.optim import optimizer
from torch.utils._foreach_utils import _get_fused_kernels_supported_devices
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "meta")  # what the tests run on
aten = torch.ops.aten
COPIES = {aten._to_copy.default, aten.copy_.default, aten.lift_fresh.default, aten._pin_memory.default}
TAKES_CPU_INDICES = {aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default, aten.index_put.default}
WAITS = {aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default, aten.masked_select.default, aten._unique2.default}


class OnGPU(torch.Tensor):
    "A tensor on the stand-in: `inside` holds its values."
    @staticmethod
    def __new__(cls, inside):
        made = torch.Tensor._make_wrapper_subclass(cls, inside.shape, strides=inside.stride(), storage_offset=inside.storage_offset(),
                                                   dtype=inside.dtype, device=DEVICE, requires_grad=False)
        made.inside = inside
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None): return _run(func, args, kwargs or {}, [])

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self): return self.cpu().tolist()
    def __repr__(self): return f"OnGPU({self.inside})"


def _check(func, tensors):
    "Real GPUs take numbers (tensors without dimensions) from the CPU, and indices; nothing else."
    there = [isinstance(t, OnGPU) for t in tensors]
    strangers = [t for t, gpu in zip(tensors, there) if not gpu and (t.ndim or not any(there))]
    if any(there) and strangers and func not in COPIES and not (func in TAKES_CPU_INDICES and there[0]):
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, but {tuple(strangers[0].shape)} is on the CPU")


def _run(func, args, kwargs, waits):
    flat, spec = tree_flatten((args, kwargs))
    tensors = [t for t in flat if isinstance(t, torch.Tensor)]
    _check(func, tensors)
    wrappers = {id(t.inside): t for t in tensors if isinstance(t, OnGPU)}
    args, kwargs = tree_unflatten([t.inside if isinstance(t, OnGPU) else t for t in flat], spec)
    goal = kwargs.get("device")
    if goal is not None: kwargs = kwargs | {"device": torch.device("cpu")}
    if kwargs.get("pin_memory"): kwargs = kwargs | {"pin_memory": False}
    gpu = torch.device(goal).type == "meta" if goal is not None else (
        isinstance(tensors[0], OnGPU) if func in COPIES else bool(wrappers))
    if wrappers and (func in WAITS or (not gpu and func in COPIES)): waits.append(str(func))
    if gpu and not wrappers and func in COPIES and goal is not None and not kwargs.get("non_blocking"): waits.append(f"{func} to the GPU")
    def outside(t): return wrappers[id(t)] if id(t) in wrappers else OnGPU(t) if gpu else t
    return tree_map_only(torch.Tensor, outside, func(*args, **kwargs))


class _Mode(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None): return _run(func, args, kwargs or {}, self.waits)


class Generator(torch.Generator):
    "A generator that says that it is on `device` and draws on the CPU: the same numbers everywhere."
    def __new__(cls, device="cpu"): return super().__new__(cls, "cpu")
    def __init__(self, device="cpu"): self.where = torch.device(device)

    @property
    def device(self): return self.where


def _autocast(device_type, *args, **kwargs):
    return contextlib.nullcontext() if device_type == "meta" else AUTOCAST(device_type, *args, **kwargs)


def _tensor(data, *, device=None, **kwargs):
    "As `torch.tensor`, which makes no values for `meta`."
    made = TENSOR(data, **kwargs)
    return made if device is None else made.to(device)


def _as_tensor(data, *, device=None, **kwargs):
    made = AS_TENSOR(data, **kwargs)
    return made if device is None else made.to(device)


AUTOCAST, TENSOR, AS_TENSOR, FUSED = torch.autocast, torch.tensor, torch.as_tensor, _get_fused_kernels_supported_devices


@contextlib.contextmanager
def gpu():
    "Within, tensors can be on `DEVICE`; gives the list of what a GPU had to be waited for. Where there is a real GPU, it is the one used (no list)."
    if torch.cuda.is_available():
        yield []
        return
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # a module's parameters become tensors of the stand-in
    places = {"autocast": _autocast, "tensor": _tensor, "as_tensor": _as_tensor, "Generator": Generator}
    fused = {"_get_fused_kernels_supported_devices": lambda: [*FUSED(), "meta"]}
    try:
        with mock.patch.multiple(torch, **places), mock.patch.multiple(optimizer, **fused), _Mode() as mode: yield mode.waits
    finally: torch.__future__.set_overwrite_module_params_on_conversion(overwrites)
