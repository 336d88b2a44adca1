"""A GPU for machines without one: tensors that say they are on `cuda` and are computed on the CPU. Where an operation would find
its tensors, or its generator, on two devices, it stops as CUDA does. Unlike torch's FakeTensorMode it has values, so that what
depends on them (`item`, `nonzero`, the steps of k-means) goes on."""
from contextlib import contextmanager
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
aten = torch.ops.aten
GPU_GENERATORS = set()  # where their state is: a generator loses its class on its way to an operation
MOVES = {aten._to_copy.default, aten.copy_.default}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._unsafe_index.Tensor,
            aten._index_put_impl_.default}


class Mixed(RuntimeError):
    "Tensors on two devices meet."


class OnGPU(torch.Tensor):
    "`inner`, a tensor on the CPU, that says it is on a GPU."
    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device=GPU,
                                                   storage_offset=inner.storage_offset(), layout=inner.layout)

    def __init__(self, inner): self.inner = inner
    def __repr__(self): return f"OnGPU({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None): return compute(operation, args, kwargs or {})


class GPUGenerator(torch.Generator):
    "A generator of the CPU that says it is the GPU's."
    def __new__(cls, device="cpu"):
        if torch.device(device).type == "cpu": return plain_generator()
        made = super().__new__(cls)
        GPU_GENERATORS.add(made._cdata)
        return made
    device = GPU


plain_generator = torch.Generator


def check_devices(operation, args, kwargs, device):
    "`Mixed` where CUDA would stop: only a single number on the CPU may meet what is on the GPU."
    leaves = tree_leaves((args, kwargs))
    for g in leaves:
        if isinstance(g, torch._C.Generator) and (g._cdata in GPU_GENERATORS) != (device == GPU):
            raise Mixed(f"{operation}: a generator of another device than {device}")
    if operation in MOVES: return
    if operation in INDEXING and isinstance(args[0], OnGPU): leaves = tree_leaves((args[0], args[2:]))  # an index may come from the CPU
    tensors = [t for t in leaves if isinstance(t, torch.Tensor)]
    if not any(isinstance(t, OnGPU) for t in tensors): return
    strangers = [t for t in tensors if not isinstance(t, OnGPU) and t.ndim]
    if strangers: raise Mixed(f"{operation}: tensors on cuda and, of shape {tuple(strangers[0].shape)}, on the CPU")


def compute(operation, args, kwargs):
    "`operation` on the CPU, its results where a GPU would have them."
    on_gpu = any(isinstance(t, OnGPU) for t in tree_leaves((args, kwargs)))
    if operation is aten.copy_.default: on_gpu = isinstance(args[0], OnGPU)
    if kwargs.get("device") is not None: on_gpu = torch.device(kwargs["device"]).type == "cuda"
    check_devices(operation, args, kwargs, GPU if on_gpu else CPU)
    inner_args, inner_kwargs = tree_map(lambda t: t.inner if isinstance(t, OnGPU) else t, (args, kwargs))
    if "device" in kwargs: inner_kwargs["device"] = CPU
    inner_kwargs.pop("pin_memory", None)
    out = operation(*inner_args, **inner_kwargs)
    changed = args[0] if operation._schema.name.endswith("_") and args else kwargs.get("out")
    if isinstance(changed, torch.Tensor): return changed
    return tree_map(lambda t: OnGPU(t) if isinstance(t, torch.Tensor) else t, out) if on_gpu else out


class Pretend(TorchDispatchMode):
    "A context in which `cuda` exists."
    def __torch_dispatch__(self, operation, types, args=(), kwargs=None): return compute(operation, args, kwargs or {})


@contextmanager
def pretended_gpu():
    "The context of a machine with a GPU. Backward runs in this thread: torch has made none for a device that is not there."
    answers = dict(is_available=True, _lazy_init=None, is_bf16_supported=True, mem_get_info=(2**33, 2**33), memory_reserved=0,
                   memory_allocated=0, synchronize=None, get_device_name="pretended")
    torch._C._ensureCUDADeviceGuardSet()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(…, device="cuda") is made on the CPU, and then moved
    patches = [mock.patch.object(torch.cuda, name, lambda *_, answer=answer, **__: answer) for name, answer in answers.items()]
    patches += [mock.patch.object(torch, "Generator", GPUGenerator),
                mock.patch.object(torch.Tensor, "pin_memory", lambda self: self)]
    for p in patches: p.start()
    try:
        with torch.autograd.set_multithreading_enabled(False), Pretend(): yield
    finally:
        for p in reversed(patches): p.stop()
        torch._C._set_only_lift_cpu_tensors(False)
        GPU_GENERATORS.clear()
