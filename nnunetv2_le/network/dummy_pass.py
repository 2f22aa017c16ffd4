"""One pass of a network over an example, and what every layer gave in it."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nnunetv2_le.errors import SettingError
from nnunetv2_le.precision import without_autocast

Example = Tensor | tuple[Any, ...]
"""Input of a dummy pass: an image batch (batch, channels, *space), or a tuple that begins with
it."""


@dataclass(frozen=True)
class DummyPass:
    """What came out of a pass.

    Attributes:
        result: what the network gave.
        outputs: what each layer gave, once a run, in the order in which layers finished: a tensor
            without values (on the device ``meta``), or in words what else it was.
        likes: an empty tensor on the device of what each layer gave, of its type, or where no
            parameter has that type (a network that switches autocast on by itself) of theirs.
        changed: layers whose output a later one changed in place.
        space: spatial size of the image.
    """

    result: Any
    outputs: Mapping[str, Sequence[Tensor | str]]
    likes: Mapping[str, Tensor]
    changed: Collection[str]
    space: tuple[int, ...]


def run_dummy_pass(model: nn.Module, example: Example) -> DummyPass:
    """Run a network once, in evaluation mode and without gradients, and note every layer's output.

    The network is left as it was: mode, statistics of normalisation and hooks. Autocast is off, so
    that layers give their own types. What layers give is kept until the end, as in a training, to
    see what is changed in place.

    Raises:
        SettingError: the example is no batch of images.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    image = inputs[0] if inputs else None
    if not isinstance(image, Tensor) or image.ndim < 3:
        raise SettingError(
            "The example is an image batch (batch, channels, *space), or a tuple that begins with "
            f"one; got {describe(image)}. torch.zeros(1, channels, 64, 64) will do."
        )
    seen: dict[str, list[_Seen]] = {}
    with (
        _evaluating(model),
        _watching(model, seen),
        torch.no_grad(),
        without_autocast(image.device),
    ):
        result = model(*inputs)
    types = {p.dtype: None for p in model.parameters() if p.is_floating_point()}
    return DummyPass(
        result,
        {name: [_without_values(run.output) for run in runs] for name, runs in seen.items()},
        {
            name: _like(runs[-1].output, list(types))
            for name, runs in seen.items()
            if isinstance(runs[-1].output, Tensor)
        },
        {name for name, runs in seen.items() if any(run.is_changed for run in runs)},
        tuple(image.shape[2:]),
    )


def describe(value: Any) -> str:
    """What a network or layer gave, in a few words."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"a dictionary with the keys {', '.join(map(repr, value))}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return f"something of the type {type(value).__name__}"


@dataclass
class _Seen:
    """What a layer gave in one run, and how often it had been changed in place by then."""

    output: Any
    version: int

    @property
    def is_changed(self) -> bool:
        return _version(self.output) != self.version


def _version(output: Any) -> int:
    """Torch's count of changes in place; tensors of inference mode have none."""
    return output._version if isinstance(output, Tensor) and not output.is_inference() else 0


def _like(output: Tensor, types: Sequence[torch.dtype]) -> Tensor:
    own = output.dtype
    return output.new_empty(0, dtype=own if own in types or not types else types[0])


def _without_values(output: Any) -> Tensor | str:
    return output.to("meta") if isinstance(output, Tensor) else describe(output)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards each module has the mode that it had."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _watching(model: nn.Module, seen: dict[str, list[_Seen]]) -> Iterator[None]:
    """Note the output of every layer but the network itself, in the order in which they finish."""

    def note(name: str) -> Any:
        def hook(layer: nn.Module, inputs: Any, output: Any) -> None:
            seen.setdefault(name, []).append(_Seen(output, _version(output)))

        return hook

    layers = model.named_modules(remove_duplicate=False)
    handles = [layer.register_forward_hook(note(name)) for name, layer in layers if name]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
