"""nnU-Net's sliding window, with members and only as much of the volume as tiles still touch.

Tiles come in order of the slowest axis. Rows that no later tile touches are final: they are handed
on and their memory is used again. Peak memory is members x classes x the depth of one tile,
whatever the depth of the volume. Where even that is too much, the volume is predicted in bands
along its second axis; tiles that reach into two bands are predicted twice. Tiling, Gaussian
weights, half precision and the order of additions are nnU-Net's, so that one member gives nnU-Net's
very numbers.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from jaxtyping import Float
from nnunetv2.inference.sliding_window_prediction import (
    compute_gaussian,
    compute_steps_for_sliding_window,
)
from torch import Tensor

from nnunetv2_le.errors import CaseError

PredictTile = Callable[[Tensor], Iterable[Tensor]]

_CPU = torch.device("cpu")

# Rows are handed on in pieces of at most this many logits, which bounds their temporary copies.
_PIECE_ELEMENTS = 2**26


@dataclass(frozen=True)
class Slab:
    """Final logits of some rows of the first spatial axis, and of some of the second.

    Attributes:
        start: first row.
        column: first row of the second axis.
        logits: half precision.
    """

    start: int
    column: int
    logits: Float[Tensor, "members channels rows height width"]


@dataclass(frozen=True)
class Window:
    """How an image is cut into tiles.

    Attributes:
        patch_size: size of a tile; two numbers for a 2D network, which sees one row (slice) at a
            time.
        step_size: step between tiles as a share of the tile.
        use_gaussian: weight the centre of a tile more than its border.
        device: where tiles are predicted.
        results_device: where tiles are blended.
    """

    patch_size: tuple[int, ...]
    step_size: float = 0.5
    use_gaussian: bool = True
    device: torch.device = _CPU
    results_device: torch.device = _CPU

    def slabs(
        self,
        image: Float[Tensor, "channels depth height width"],
        predict: PredictTile,
        *,
        num_members: int,
        num_channels: int,
        combine: Callable[[Tensor], Tensor] = lambda logits: logits,
        num_bands: int = 1,
        progress: Callable[[], None] = lambda: None,
    ) -> Iterator[Slab]:
        """Predict an image, slab by slab.

        Args:
            image: preprocessed image.
            predict: tile (1, channels, *patch) to the logits of each member (channels, *patch).
            num_members: how many predictions ``predict`` gives; they are blended one by one.
            num_channels: channels of their logits.
            combine: makes the members of final rows of what was blended.
            num_bands: in how many bands along the second axis the volume is predicted.
            progress: called once a tile.

        Yields:
            Disjoint slabs, bands in order and rows in order within a band, which cover the image. A
            slab is valid until the next one is asked for.

        Raises:
            CaseError: a logit is infinite or not a number.
        """
        padded, inside = pad_nd_image(image, self.patch_size, "constant", {"value": 0}, True, None)
        padded = padded.to(self.results_device)
        depth = self._patch_3d()[0]
        rows, columns, last = (slice(int(part.start), int(part.stop)) for part in inside[1:])
        for low, high in _bands(columns.start, columns.stop, num_bands):
            buffer = torch.zeros(
                (num_members, num_channels, depth, high - low, padded.shape[3]),
                dtype=torch.half,
                device=self.results_device,
            )
            band = _Band(low, high, buffer)
            for start, logits in self._band_rows(padded, band, predict, progress):
                first, stop = max(start, rows.start), min(start + logits.shape[2], rows.stop)
                if first < stop:
                    kept = logits[:, :, first - start : stop - start, :, last]
                    yield Slab(first - rows.start, low - columns.start, combine(kept))

    def num_tiles(self, shape: Sequence[int], num_bands: int = 1) -> int:
        """Tiles that an image of this spatial shape takes."""
        padded = [max(size, tile) for size, tile in zip(shape, self._patch_3d(), strict=True)]
        starts, (rows, columns) = self._starts(padded)
        # an axis that is padded has one tile, which touches every band wherever the image lies
        touching = sum(
            sum(self._touches(row, low, high) for row in rows)
            for low, high in _bands(0, shape[1], num_bands)
        )
        return len(starts) * touching * len(columns)

    def num_bands(
        self, shape: Sequence[int], *, num_members: int, num_channels: int, max_bytes: int
    ) -> int:
        """How many bands keep the blended logits below so many bytes, if bands can do it."""
        depth, height, _ = self._patch_3d()
        width = max(shape[2], self._patch_3d()[2])
        row_bytes = 2 * num_members * num_channels * depth * width
        widest = max(height // 4, max_bytes // row_bytes, 1)
        return math.ceil(shape[1] / widest)

    def _patch_3d(self) -> tuple[int, ...]:
        return self.patch_size if len(self.patch_size) == 3 else (1, *self.patch_size)

    def _starts(self, shape: Sequence[int]) -> tuple[list[int], list[list[int]]]:
        """Where tiles start: along the slowest axis, and along the other two."""
        if len(self.patch_size) == 2:
            plane = compute_steps_for_sliding_window(shape[1:], self.patch_size, self.step_size)
            return list(range(shape[0])), plane
        steps = compute_steps_for_sliding_window(shape, self.patch_size, self.step_size)
        return steps[0], steps[1:]

    def _touches(self, row: int, low: int, high: int) -> bool:
        return row < high and row + self._patch_3d()[1] > low

    def _band_rows(
        self, image: Tensor, band: "_Band", predict: PredictTile, progress: Callable[[], None]
    ) -> Iterator[tuple[int, Tensor]]:
        """Final rows of a band, with the first of them."""
        depth, height, width = self._patch_3d()
        starts, (rows, columns) = self._starts(image.shape[1:])
        rows = [row for row in rows if self._touches(row, band.low, band.high)]
        gaussian = self._gaussian()
        weights = torch.zeros_like(band.buffer[0, 0])
        for number, start in enumerate(starts):
            for row in rows:
                for column in columns:
                    place = (slice(row, row + height), slice(column, column + width))
                    tile = image[(slice(None), slice(start, start + depth), *place)]
                    inside, of_tile = band.overlap(row, height, place[1])
                    # in place, in nnU-Net's order and precision
                    for member, logits in enumerate(self._predict(predict, tile)):
                        logits *= gaussian  # noqa: PLW2901
                        band.buffer[member][inside] += logits[:, :, of_tile]
                    weights[inside[1:]] += gaussian[:, of_tile]
                    progress()
            final = depth if number + 1 == len(starts) else starts[number + 1] - start
            yield from band.final_rows(start, final, weights)
            band.advance(final)
            _advance(weights, final, dim=0)

    def _gaussian(self) -> Tensor:
        if not self.use_gaussian:
            return torch.ones(self._patch_3d(), dtype=torch.half, device=self.results_device)
        gaussian: Tensor = compute_gaussian(
            tuple(self.patch_size),
            sigma_scale=1.0 / 8,
            value_scaling_factor=10,
            device=self.results_device,
        )
        return gaussian.reshape(self._patch_3d())

    def _predict(self, predict: PredictTile, tile: Tensor) -> Iterator[Tensor]:
        """Logits (channels, depth, height, width) of each member on the device of results."""
        if len(self.patch_size) == 2:
            tile = tile[:, 0]
        for logits in predict(tile[None].contiguous().to(self.device)):
            there = logits.to(self.results_device)
            yield there if len(self.patch_size) == 3 else there[:, None]


@dataclass(frozen=True)
class _Band:
    """Some rows of the second axis of the padded image, and the logits that tiles add to.

    Attributes:
        low: first row.
        high: row after the last.
        buffer: sums of weighted logits, for as many rows of the first axis as a tile has.
    """

    low: int
    high: int
    buffer: Float[Tensor, "members channels depth height width"]

    def overlap(
        self, row: int, height: int, columns: slice
    ) -> tuple[tuple[slice, slice, slice, slice], slice]:
        """Which part of the buffer a tile adds to, and which rows of the tile these are."""
        first, stop = max(row, self.low), min(row + height, self.high)
        inside = (slice(None), slice(None), slice(first - self.low, stop - self.low), columns)
        return inside, slice(first - row, stop - row)

    def final_rows(
        self, start: int, count: int, weights: Float[Tensor, "depth height width"]
    ) -> Iterator[tuple[int, Tensor]]:
        """The first rows of the buffer, divided by their weights in place, in bounded pieces."""
        members, channels, _, height, width = self.buffer.shape
        step = max(1, _PIECE_ELEMENTS // (members * channels * height * width))
        for first in range(0, count, step):
            stop = min(first + step, count)
            logits = self.buffer[:, :, first:stop]
            logits /= weights[first:stop]
            # extremes instead of every value: no copy is made, and what is not finite shows in them
            if not torch.isfinite(torch.stack((logits.amin(), logits.amax()))).all():
                raise CaseError(
                    "The network's output is infinite or not a number. Check the image for "
                    "infinite or missing intensities; if it is sound, the network did not train "
                    "well."
                )
            yield start + first, logits

    def advance(self, rows: int) -> None:
        """Drop the first rows and make room for as many new ones."""
        _advance(self.buffer, rows, dim=2)


def _bands(start: int, stop: int, number: int) -> list[tuple[int, int]]:
    """Cut a range into so many ranges of nearly equal length."""
    edges = [start + (stop - start) * n // number for n in range(number + 1)]
    return [(low, high) for low, high in pairwise(edges) if low < high]


def _advance(buffer: Tensor, rows: int, *, dim: int) -> None:
    """Move a buffer's rows towards its front, some at a time, so that no copy of it is needed."""
    size = buffer.shape[dim]
    for first in range(0, size - rows, rows) if rows else ():
        count = min(rows, size - rows - first)
        buffer.narrow(dim, first, count).copy_(buffer.narrow(dim, first + rows, count))
    buffer.narrow(dim, size - rows, rows).zero_()
