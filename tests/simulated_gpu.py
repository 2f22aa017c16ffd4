"""A GPU that is made of CPU tensors, for machines without one.

Its tensors say that they are on ``cuda:0`` and hold a CPU tensor, which does the work. What goes
wrong on a GPU and nowhere else goes wrong here too: operations of tensors on different devices, an
array of a tensor on the GPU, and mixed precision, because torch's autocast looks at the device
that a tensor names. What it cannot show: kernels that a GPU lacks, its rounding, memory and speed.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

GPU = torch.device("cuda", 0)

needs_simulated_gpu = pytest.mark.skipif(
    not hasattr(torch._C, "_ensureCUDADeviceGuardSet"),
    reason="this torch cannot hold tensors of a GPU that is not there",
)

# Operations that take tensors of the CPU beside those of a GPU on a real one too.
_BETWEEN_DEVICES = ("aten::copy_", "aten::_to_copy", "aten::index", "aten::index_put_")


# What is asked of torch.cuda and not of a tensor.
_QUESTIONS: dict[str, Any] = {
    "get_device_name": lambda device=None: "simulated",
    "get_device_properties": lambda device=None: SimpleNamespace(total_memory=2**34),
    "current_device": lambda: 0,
    "default_generators": (torch.default_generator,),
}


@contextmanager
def simulated_gpu() -> Iterator[None]:
    """While it lasts tensors and networks can be moved to ``cuda``."""
    torch._C._ensureCUDADeviceGuardSet()
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with _Moves(), mock.patch.multiple("torch.cuda", **_QUESTIONS):
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)


@contextmanager
def gpu_autocast() -> Iterator[None]:
    """``torch.autocast("cuda")``, which switches itself off where there is no GPU.

    In bfloat16, which is quicker than float16 on a CPU and less precise.
    """
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])


class GpuTensor(Tensor):
    """A tensor that says it is on a GPU."""

    _on_cpu: Tensor

    @staticmethod
    def __new__(cls, on_cpu: Tensor) -> "GpuTensor":
        with torch.inference_mode(False):  # views of others are not made in inference mode
            tensor = torch.Tensor._make_wrapper_subclass(
                cls,
                on_cpu.size(),
                strides=on_cpu.stride(),
                storage_offset=on_cpu.storage_offset(),
                dtype=on_cpu.dtype,
                device=GPU,
                requires_grad=on_cpu.requires_grad,
            )
        tensor._on_cpu = on_cpu
        return tensor

    @classmethod
    def __torch_dispatch__(
        cls, operation: Any, types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        """What torch calls for every operation with such a tensor."""
        keywords = dict(keywords or {})
        name = operation._schema.name
        if name == "aten::_has_compatible_shallow_copy_type":
            return False
        _require_one_device(name, [*tree_leaves(arguments), *tree_leaves(keywords)])
        target = keywords.get("device")
        if target is not None:
            keywords["device"] = torch.device("cpu")
        result = operation(*_inside(arguments), **_inside(keywords))
        if "out" in keywords:
            return keywords["out"]
        if operation._schema.is_mutable and name.endswith("_"):
            return arguments[0]
        return _outside(result) if target is None or _is_gpu(target) else result


class _Moves(TorchFunctionMode):
    """Calls that name the GPU, which torch would refuse before it looks at their tensors."""

    def __torch_function__(
        self, call: Callable[..., Any], types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        keywords = dict(keywords or {})
        name = getattr(call, "__name__", "")
        if name == "to":
            return _moved(call, *arguments, **keywords)
        if name == "instance_norm" and isinstance(arguments[0], GpuTensor):
            return _instance_norm(*arguments, **keywords)
        if not _is_gpu(keywords.get("device")):
            return call(*arguments, **keywords)
        keywords["device"] = torch.device("cpu")
        return GpuTensor(call(*_inside(arguments), **_inside(keywords)))


def _moved(to: Callable[..., Tensor], tensor: Tensor, *where: Any, **keywords: Any) -> Tensor:
    targets = [*where, *keywords.values()]
    to_gpu = any(_is_gpu(target) or isinstance(target, GpuTensor) for target in targets)
    if not to_gpu:
        return to(tensor, *where, **keywords)
    is_there = isinstance(tensor, GpuTensor)
    own = tensor._on_cpu if is_there else tensor.detach()
    swap: Callable[[Any], Any] = lambda value: "cpu" if _is_gpu(value) else _inside(value)  # noqa: E731
    moved = own.to(*map(swap, where), **{name: swap(value) for name, value in keywords.items()})
    if is_there and moved is own:
        return tensor
    return GpuTensor(moved.clone() if moved is own else moved)


def _instance_norm(values: Tensor, *_: Any, weight: Tensor, bias: Tensor, **more: Any) -> Tensor:
    """Torch's own asks for cuDNN before it looks at its tensors."""
    space = tuple(range(2, values.ndim))
    mean = values.mean(space, keepdim=True)
    variance = values.var(space, unbiased=False, keepdim=True)
    channels = (1, -1, *[1] * len(space))
    normed = (values - mean) / (variance + more["eps"]).sqrt()
    return normed * weight.view(channels) + bias.view(channels)


def _is_gpu(value: Any) -> bool:
    if isinstance(value, torch.device):
        return value.type == "cuda"
    return isinstance(value, str) and value.split(":")[0] == "cuda"


def _require_one_device(name: str, values: list[Any]) -> None:
    """As on a GPU, tensors with one element of no dimension may come from the CPU."""
    strangers = [v for v in values if isinstance(v, Tensor) and not isinstance(v, GpuTensor)]
    if name not in _BETWEEN_DEVICES and any(stranger.ndim for stranger in strangers):
        raise RuntimeError(f"Expected all tensors to be on the same device ({name})")


_inside = functools.partial(tree_map_only, GpuTensor, lambda tensor: tensor._on_cpu)
_outside = functools.partial(tree_map_only, Tensor, GpuTensor)
