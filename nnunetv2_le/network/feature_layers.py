"""Which layers of a network can carry a head: names, channels and scale, from one dummy pass.

A layer can carry a head if it runs once in a pass and gives a feature map, one float tensor
(batch, channels, *space) with as many spatial axes as the image.
"""

import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nnunetv2_le.errors import SettingError, UnsupportedArchitectureError

Example = Tensor | tuple[Any, ...]
"""Input of a dummy pass: an image batch (batch, channels, *space), or a tuple that begins with
it."""

OWN = "output"
"""Name of the network's own prediction among the members of an ensemble."""


@dataclass(frozen=True)
class FeatureLayer:
    """A layer that can carry a head.

    Attributes:
        name: its name in the network, as ``network.get_submodule`` takes it.
        channels: channels of its feature map.
        scale: how many voxels of the image one voxel of the map stands for, along each axis.
    """

    name: str
    channels: int
    scale: tuple[float, ...]


@dataclass(frozen=True)
class DummyPass:
    """What came out of a pass.

    Attributes:
        result: what the network gave.
        outputs: what each layer gave, once a run, in the order in which layers finished: a tensor
            without values (on the device ``meta``), or in words what else it was.
        likes: an empty tensor of the type and on the device of what each layer gave.
        changed: layers whose output a later one changed in place.
        space: spatial size of the image.
    """

    result: Any
    outputs: Mapping[str, Sequence[Tensor | str]]
    likes: Mapping[str, Tensor]
    changed: Collection[str]
    space: tuple[int, ...]


def candidate_layers(model: nn.Module, pattern: str, example: Example) -> tuple[FeatureLayer, ...]:
    """The layers of a network that can carry a head.

    Args:
        model: any network.
        pattern: names of layers; ``*`` stands for anything but a dot, ``**`` for anything.
        example: an image batch of the usual size, zeros will do; a tuple where the network takes
            more than one argument.

    Returns:
        In the order of computation; empty where the pattern matches none of them.
    """
    dummy = run_dummy_pass(model, example)
    return tuple(_feature_layers(dummy, _matching(model, pattern, dummy)))


def find_layers(model: nn.Module, layers: Sequence[str], dummy: DummyPass) -> list[FeatureLayer]:
    """The layers with these names or patterns, in the order of computation.

    Raises:
        SettingError: no layer has the name, or the pattern fits none that can carry a head.
        UnsupportedArchitectureError: the layer with the name cannot carry a head.
    """
    names: set[str] = set()
    for wanted in layers:
        if "*" in wanted:
            names |= _fitting(model, wanted, dummy)
            continue
        if wanted not in dict(model.named_modules(remove_duplicate=False)):
            raise SettingError(_unknown(model, wanted))
        if isinstance(problem := _feature_map(wanted, dummy), str):
            raise UnsupportedArchitectureError(f"Layer {wanted!r} cannot carry a head: {problem}")
        names.add(wanted)
    return _feature_layers(dummy, names)


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
    with _evaluating(model), _watching(model, seen), torch.no_grad(), _no_autocast(image.device):
        result = model(*inputs)
    return DummyPass(
        result,
        {name: [_without_values(run.output) for run in runs] for name, runs in seen.items()},
        {
            name: runs[-1].output.new_empty(0)
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


def _feature_layers(dummy: DummyPass, names: Collection[str]) -> list[FeatureLayer]:
    """Those of the named layers that can carry a head, in the order of computation."""
    maps = {name: _feature_map(name, dummy) for name in dummy.outputs if name in names}
    return [
        _feature_layer(name, features, dummy.space)
        for name, features in maps.items()
        if isinstance(features, Tensor)
    ]


def _feature_map(name: str, dummy: DummyPass) -> Tensor | str:
    """The layer's feature map (without values), or why it gives none."""
    outputs = dummy.outputs.get(name, ())
    if name == OWN:
        return (
            "its name is that of the network's own prediction, which is a member already. Leave it "
            "out; if it is not the last layer, give it another name."
        )
    if not outputs:
        return (
            "it is not run in a pass over the example (an unused branch, one for training alone, "
            "or a container whose parts are called one by one). candidate_layers lists those that "
            "are."
        )
    if len(outputs) > 1:
        return f"it is run {len(outputs)} times in one pass. Name a layer that runs once."
    output = outputs[0]
    if isinstance(output, str):
        return f"it gives {output}, not a tensor. Name a layer inside or after it."
    if name in dummy.changed:
        return (
            "what it gives is changed in place by a later layer, such as an activation with "
            "inplace=True or an addition by +=, so its head would see that one's features. Name "
            "that one."
        )
    return _other_than_map(output, len(dummy.space)) or output


def _other_than_map(output: Tensor, axes: int) -> str | None:
    """Why a tensor is no feature map."""
    if not output.is_floating_point():
        return f"it gives numbers of type {output.dtype}. Name a layer that gives features."
    if output.ndim == 3 and axes > 1:
        return (
            f"it gives {describe(output)}, tokens without a place (batch, tokens, features). Name "
            f"a layer that gives a feature map (batch, channels and {axes} axes of space), such as "
            "the one that turns tokens back into a map."
        )
    if output.ndim != axes + 2:
        return (
            f"it gives {describe(output)}, no feature map: that has batch, channels and as many "
            f"axes of space as the image, {axes}. Name an earlier or later layer."
        )
    return None


def _feature_layer(name: str, features: Tensor, space: Sequence[int]) -> FeatureLayer:
    scale = tuple(full / part for full, part in zip(space, features.shape[2:], strict=True))
    return FeatureLayer(name, int(features.shape[1]), scale)


def _fitting(model: nn.Module, pattern: str, dummy: DummyPass) -> set[str]:
    """Names of layers that fit a pattern and can carry a head."""
    names = _matching(model, pattern, dummy)
    if fitting := _feature_layers(dummy, names):
        return {layer.name for layer in fitting}
    reason = (
        f"{names[0]!r} for example: {_feature_map(names[0], dummy)}"
        if names
        else f"Its outermost layers are {_outermost(model)}."
    )
    raise SettingError(
        f"The pattern {pattern!r} fits no layer of {type(model).__name__} that can carry a head. "
        + reason
    )


def _unknown(model: nn.Module, name: str) -> str:
    known = [known for known, _ in model.named_modules(remove_duplicate=False) if known]
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"Near it are {', '.join(map(repr, near))}." if near else ""
    return (
        f"{type(model).__name__} has no layer {name!r}. "
        + (hint or f"Its outermost layers are {_outermost(model)}.")
        + " candidate_layers(model, pattern, example) lists the names."
    )


def _outermost(model: nn.Module) -> str:
    return ", ".join(repr(name) for name, _ in model.named_children()) or "none"


def _matching(model: nn.Module, pattern: str, dummy: DummyPass) -> list[str]:
    """Layers that ran and fit a pattern; one that has several names, by its first.

    Another name of the layer ``output`` gives what that gives, so it is left out like it.
    """
    parts = (re.escape(part).replace(r"\*", "[^.]*") for part in pattern.split("**"))
    fits = re.compile(".*".join(parts)).fullmatch
    last = dict(model.named_modules(remove_duplicate=False)).get(OWN)
    names = {name for name, layer in model.named_modules() if name == OWN or layer is not last}
    return [name for name in dummy.outputs if name in names and fits(name)]


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


def _without_values(output: Any) -> Tensor | str:
    return output.to("meta") if isinstance(output, Tensor) else describe(output)


def _no_autocast(device: torch.device) -> AbstractContextManager[Any]:
    if device.type not in ("cpu", "cuda"):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


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
