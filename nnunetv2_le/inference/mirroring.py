"""The passes of nnU-Net's test-time mirroring."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from nnunetv2_le.network.head_sources import HeadsAndFeatures

Network = Callable[[Tensor], HeadsAndFeatures]


def mirror_passes(axes: Sequence[int] | None) -> list[tuple[int, ...]]:
    """The mirrored axes of each pass, in nnU-Net's order: none, each axis, each pair, all."""
    axes = axes or ()
    return [
        combination
        for number in range(len(axes) + 1)
        for combination in itertools.combinations(axes, number)
    ]


def mirrored_passes(
    network: Network,
    tile: Float[Tensor, "1 channels *space"],
    *,
    passes: Sequence[tuple[int, ...]],
    in_one_batch: bool = False,
) -> Iterator[HeadsAndFeatures]:
    """Heads of every mirror pass, turned back, and its features.

    Args:
        network: gives the heads and features of a tile.
        tile: the tile.
        passes: mirrored spatial axes of each pass.
        in_one_batch: predict all passes in one batch: faster on a GPU.
    """
    flips = [[axis + 2 for axis in axes] for axes in passes]
    if in_one_batch and len(flips) > 1:
        batch = network(torch.cat([tile.flip(dims) if dims else tile for dims in flips]))
        for number, dims in enumerate(flips):
            rows = [logits[number : number + 1] for logits in batch.heads]
            features = None if batch.features is None else batch.features[number : number + 1]
            yield HeadsAndFeatures(_turned(rows, dims), features)
        return
    for dims in flips:
        heads, features = network(tile.flip(dims) if dims else tile)
        yield HeadsAndFeatures(_turned(heads, dims), features)


def _turned(heads: list[Tensor], dims: list[int]) -> list[Tensor]:
    return [logits.flip(dims) for logits in heads] if dims else heads
