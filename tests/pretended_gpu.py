"""A GPU for machines without one: tensors that say they are on `cuda`, and are computed on the CPU. Where an operation
would meet tensors (or a generator) of two devices, it stops as CUDA does. Unlike torch's FakeTensorMode it has values,
so that what depends on them (`item`, `nonzero`, the steps of k-means) goes on. Not pretended: autocast of `cuda`, its
kernels."""
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
import torch._dynamo  # imported with the first optimiser, it would find some functions replaced
import torch.nn.functional as F
from torch._functorch import eager_transforms, vmap
from torch.nn import Parameter
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
CPUGenerator = torch.Generator


class Mixed(RuntimeError):
    "Tensors on two devices meet."


class AnyGenerator(type(CPUGenerator)):
    def __instancecheck__(cls, x): return isinstance(x, CPUGenerator)


class Generator(CPUGenerator, metaclass=AnyGenerator):
    "A generator of the CPU that says it is on `device`."
    def __new__(cls, device="cpu"):
        made = super().__new__(cls)
        made.place = GPU if torch.device(device).type == "cuda" else CPU
        return made
    device = property(lambda self: self.place)


def on_gpu(t): return getattr(t, "on_gpu", False)
def tensors_in(tree): return [t for t in tree_leaves(tree) if isinstance(t, torch.Tensor)]


def put(out, device):
    "`out`, just computed, with all of its tensors on `device`."
    for t in tensors_in(out) if device.type == "cuda" else (): t.on_gpu = True
    return out


def check(name, args, kwargs, device):
    "`Mixed` where CUDA would stop: only a single number on the CPU may meet what is on the GPU."
    for g in tree_leaves((args, kwargs)):
        if isinstance(g, CPUGenerator) and torch.device(g.device).type != device.type:
            raise Mixed(f"{name}: the generator is on {g.device}, the result on {device}")
    if name in INDEXING and on_gpu(args[0]): args = (args[0], *args[2:])  # indices may come from the CPU
    met = tensors_in((args, kwargs))
    strangers = [t for t in met if not on_gpu(t) and t.ndim]
    if strangers and any(map(on_gpu, met)):
        raise Mixed(f"{name}: tensors on {GPU} and, of shape {tuple(strangers[0].shape)}, on the CPU")


def move(x, args, kwargs):
    "`x.to(…)`."
    args, kwargs = list(args), dict(kwargs)
    target = GPU if on_gpu(x) else CPU
    for i, a in enumerate(args):
        if isinstance(a, torch.Tensor): target, args[i] = GPU if on_gpu(a) else CPU, a.dtype
        elif isinstance(a, (str, torch.device)) or type(a) is int: target, args[i] = torch.device(a), CPU
    if kwargs.get("device") is not None: target, kwargs["device"] = torch.device(kwargs["device"]), CPU
    out = x.to(*args, **kwargs)
    if out is x and (target.type == "cuda") != on_gpu(x): out = x.clone()
    return put(out, target)


def deep_copy(x, memo):
    if id(x) not in memo:
        new = x.detach().clone()
        new = Parameter(new, x.requires_grad) if isinstance(x, Parameter) else new.requires_grad_(x.requires_grad)
        memo[id(x)] = put(new, GPU)
    return memo[id(x)]


def no_numpy(*_, **__): raise TypeError("can't convert cuda:0 device type tensor to numpy")


def refuse_vmapped(x):
    "What cuDNN's BatchNorm says to images that `vmap` has made."
    if on_gpu(x) and torch._C._functorch.is_batchedtensor(x):
        raise RuntimeError("NYI: querying is_contiguous inside of vmap")


T = torch.Tensor
SPECIAL = {  # of tensors on the GPU
    T.device.__get__: lambda x: GPU, T.is_cuda.__get__: lambda x: True, T.is_cpu.__get__: lambda x: False,
    T.cpu: lambda x, *_: x.clone(), T.numpy: no_numpy, T.__array__: no_numpy, T.__deepcopy__: deep_copy,
    T.get_device: lambda x: 0, T.copy_: lambda x, y, *_: x.copy_(y)}
ANYWHERE = {T.to: lambda x, *args, **kwargs: move(x, args, kwargs), T.cuda: lambda x, *_: move(x, [GPU], {}),
            T.pin_memory: lambda x: x, T.copy_: lambda x, y, *_: x.copy_(y)}
INDEXING = "__getitem__", "__setitem__", "index_put_"
CAPTURE_CHECKS = [name for name in vars(torch.optim.Optimizer)
                  if name.endswith("capture_health_check")]  # ask the driver
WRAPPERS = {vmap: ("_add_batch_dim", "_remove_batch_dim"), eager_transforms: ("_wrap_for_grad", "_unwrap_for_grad")}
UNCHECKED = {T.grad.__set__, T.data.__set__, T.requires_grad.__set__, torch._has_compatible_shallow_copy_type}


class Pretend(TorchFunctionMode):
    "A context in which `cuda` exists."
    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, first = kwargs or {}, args[0] if args else None
        if on_gpu(first) and function in SPECIAL: return SPECIAL[function](*args, **kwargs)
        if function in ANYWHERE: return ANYWHERE[function](*args, **kwargs)
        if function in UNCHECKED: return function(*args, **kwargs)
        if function is F.batch_norm and torch.backends.cudnn.enabled: refuse_vmapped(first)
        if kwargs.get("device") is None:
            device = GPU if any(map(on_gpu, tensors_in((args, kwargs)))) else CPU
            check(function.__name__, args, kwargs, device)
        else:  # of what it is made from, only the generator has to be there
            device, kwargs = torch.device(kwargs["device"]), kwargs | {"device": CPU}
            check(function.__name__, [g for g in kwargs.values() if isinstance(g, CPUGenerator)], {}, device)
        out = function(*args, **kwargs)
        if out is first and "device" in kwargs: out = out.clone()  # torch.as_tensor gave back what is on the CPU
        return put(out, device)


@contextmanager
def pretended_gpu():
    "The context of a machine with a GPU."
    answers = dict(is_available=True, is_bf16_supported=True, get_device_capability=(9, 0), get_device_name="pretended",
                   mem_get_info=(2**33, 2**33), memory_reserved=0, memory_allocated=0, synchronize=None)
    def keep(fn):  # of functions that do not ask `Pretend`: torch.func's that wrap tensors and take them out again
        return lambda t, *args: put(fn(t, *args), GPU) if on_gpu(t) else fn(t, *args)
    make = T._make_subclass  # by which a parameter is made
    def make_subclass(cls, t, *args): return put(make(cls, t, *args), GPU if on_gpu(t) else CPU)
    with ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, lambda *_, answer=answer, **__: answer))
        for name in CAPTURE_CHECKS: stack.enter_context(mock.patch.object(torch.optim.Optimizer, name, lambda _: None))
        for module, names in WRAPPERS.items():
            for name in names: stack.enter_context(mock.patch.object(module, name, keep(getattr(module, name))))
        stack.enter_context(mock.patch.object(torch, "Generator", Generator))
        stack.enter_context(mock.patch.object(T, "_make_subclass", staticmethod(make_subclass)))
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # a parameter that moves changes its class
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, False)
        stack.enter_context(Pretend())
        yield
