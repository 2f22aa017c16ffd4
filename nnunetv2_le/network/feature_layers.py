"""Which layers of a network can carry a head: names, channels and scale, from one dummy pass.

A layer can carry a head if it runs once in a pass and gives a feature map, one float tensor
(batch, channels, *space) with as many spatial axes as the image.
"""

import difflib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from nnunetv2_le.errors import SettingError, UnsupportedArchitectureError
from nnunetv2_le.network.dummy_pass import DummyPass, Example, describe, run_dummy_pass

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
