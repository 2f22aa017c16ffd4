"""The networks of a run on their device, one of them at a time at work.

On a CPU every network works with its own weights, which lie in memory or in their checkpoint's file
as they were loaded. Elsewhere a copy of it works, and networks of one architecture share one place
on the device: weights are copied into it when it is a network's turn, from the device as long as a
share of its memory suffices for all of them, else from the computer's memory.
"""

import copy
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.modules.dropout import _DropoutNd

from nnunetv2_le.inference.mirroring import Network
from nnunetv2_le.network.head_sources import HeadSource

# Share of the device's memory that weights of waiting networks may take.
_DEVICE_SHARE = 0.25


class Networks:
    """Networks, each of which can be asked for in any order.

    Args:
        sources: the networks, on the CPU, where they stay.
        device: where they work.
        compiled: run them through ``torch.compile``.
        share_place: let networks of one architecture share one place; None where that saves memory
            or compilations, which is everywhere but on a CPU without ``compiled``.
    """

    def __init__(
        self,
        sources: Sequence[HeadSource],
        device: torch.device,
        *,
        compiled: bool = False,
        share_place: bool | None = None,
    ) -> None:
        self._shares = len(sources) > 1 and (
            (device.type != "cpu" or compiled) if share_place is None else share_place
        )
        self._places: list[_Place] = []
        self._place_of: list[int] = []
        self._weights = [_weights(source) for source in sources]
        architectures: list[object] = []
        for source in sources:
            kind = _architecture(source) if self._shares else source
            if kind not in architectures:
                architectures.append(kind)
                stays = device.type == "cpu" and not self._shares
                used = source if stays else copy.deepcopy(source)
                self._places.append(_Place(used.to(device), compiled=compiled))
            self._place_of.append(architectures.index(kind))
        if self._shares and _bytes(self._weights) <= _free_bytes(device):
            self._weights = [[value.to(device) for value in values] for values in self._weights]

    def __len__(self) -> int:
        return len(self._place_of)

    def use(self, number: int) -> Network:
        """A network, ready to work until another one is asked for."""
        return self._ready(number).network

    @contextmanager
    def dropping(self, number: int, *, seed: int) -> Iterator[Network]:
        """The same with active dropout layers, which draw from this seed.

        Not compiled, so that draws are torch's own. What else draws goes on as if nothing had been
        drawn here.
        """
        source = self._ready(number).source
        layers = [layer for layer in source.modules() if isinstance(layer, _DropoutNd)]
        before = [layer.training for layer in layers]
        try:
            for layer in layers:
                layer.training = True
            with seeded(next(source.parameters()).device, seed):
                yield source
        finally:
            for layer, training in zip(layers, before, strict=True):
                layer.training = training

    def _ready(self, number: int) -> "_Place":
        place = self._places[self._place_of[number]]
        if self._shares and place.holds != number:
            place.take(self._weights[number])
            place.holds = number
        return place


class _Place:
    """Room for one network on the device."""

    def __init__(self, source: HeadSource, *, compiled: bool) -> None:
        self.source = source
        self.network: Network = torch.compile(source) if compiled else source
        self.holds = -1

    @torch.no_grad()
    def take(self, weights: Sequence[Tensor]) -> None:
        """Copy weights in."""
        for ours, theirs in zip(_weights(self.source), weights, strict=True):
            ours.copy_(theirs)
        torch.clear_autocast_cache()  # it would go on with the former network's weights


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """What is drawn on a device comes from this seed; afterwards its draws go on as before.

    Other devices, on which other threads may be at work, are left alone: torch.manual_seed is for
    all of them.

    Args:
        device: with its number if it is a GPU.
        seed: of the draws inside.
    """
    generator = _generator(device)
    before = generator.get_state()
    try:
        generator.manual_seed(seed)
        yield
    finally:
        generator.set_state(before)


def is_compiling() -> bool:
    """Whether nnU-Net's variable asks for ``torch.compile``."""
    return os.environ.get("nnUNet_compile", "").lower() in ("true", "1", "t")


def _generator(device: torch.device) -> torch.Generator:
    """What layers draw from on a device."""
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index]
    if device.type == "mps":
        return torch.mps._get_default_mps_generator()
    return torch.default_generator


def _weights(source: HeadSource) -> list[Tensor]:
    return [*source.parameters(), *source.buffers()]


def _architecture(source: HeadSource) -> object:
    shapes = [tuple(value.shape) for value in _weights(source)]
    return (type(source), type(source.network), shapes, source.head_names, str(source))


def _bytes(weights: Sequence[Sequence[Tensor]]) -> int:
    return sum(value.nbytes for values in weights for value in values)


def _free_bytes(device: torch.device) -> float:
    if device.type != "cuda":
        return 0.0
    return _DEVICE_SHARE * torch.cuda.get_device_properties(device).total_memory
