"""nnU-Net's sliding window, keeping the member axis and only as much of the volume as tiles still touch.

Tiles come in order of the slowest axis. Rows that no later tile touches are final: they are handed on and their memory is
used again. Peak memory is members x classes x the depth of one tile, whatever the depth of the volume. Tiling, Gaussian
weights, half precision and the order of additions are nnU-Net's, so that one member gives nnU-Net's very numbers.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from jaxtyping import Float
from nnunetv2.inference.sliding_window_prediction import (
    compute_gaussian,
    compute_steps_for_sliding_window,
)
from torch import Tensor

from nnunetv2_le.errors import CaseError

PredictTile = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Slab:
    """Final logits of some rows of the first spatial axis.

    Attributes:
        start: first row.
        logits: (members, channels, rows, height, width), half precision.
    """

    start: int
    logits: Float[Tensor, "members channels rows height width"]


@dataclass(frozen=True)
class Window:
    """How an image is cut into tiles.

    Attributes:
        patch_size: size of a tile; two numbers for a 2D network, which sees one row (slice) at a time.
        step_size: step between tiles as a share of the tile.
        use_gaussian: weight the centre of a tile more than its border.
        device: where tiles are predicted.
        results_device: where tiles are blended.
    """

    patch_size: tuple[int, ...]
    step_size: float = 0.5
    use_gaussian: bool = True
    device: torch.device = torch.device("cpu")
    results_device: torch.device = torch.device("cpu")

    def slabs(
        self,
        image: Float[Tensor, "channels depth height width"],
        predictors: Sequence[PredictTile],
        *,
        progress: Callable[[], None] = lambda: None,
    ) -> Iterator[Slab]:
        """Predict an image, slab by slab.

        Args:
            image: preprocessed image.
            predictors: one function a set of parameters (fold): tile (1, channels, *patch) to logits (members, classes,
                *patch). Their logits are averaged, as nnU-Net averages folds.
            progress: called once a tile and set of parameters.

        Yields:
            Disjoint slabs in order, which cover the image.

        Raises:
            CaseError: a logit is infinite or not a number.
        """
        padded, inside = pad_nd_image(image, self.patch_size, "constant", {"value": 0}, True, None)
        rows, inner = inside[1], tuple(inside[2:])
        for slab in self._padded_slabs(padded.to(self.results_device), predictors, progress):
            first = max(slab.start, rows.start)
            last = min(slab.start + slab.logits.shape[2], rows.stop)
            if first < last:
                kept = slab.logits[:, :, first - slab.start : last - slab.start]
                yield Slab(first - rows.start, kept[(..., *inner)])

    def num_tiles(self, shape: Sequence[int]) -> int:
        """Tiles that an image of this spatial shape takes."""
        padded = self._padded_shape(shape)
        in_plane = 1
        starts, plane = self._starts(padded)
        for steps in plane:
            in_plane *= len(steps)
        return len(starts) * in_plane

    def _padded_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        patch = self._patch_3d()
        return tuple(max(size, tile) for size, tile in zip(shape, patch, strict=True))

    def _patch_3d(self) -> tuple[int, ...]:
        return self.patch_size if len(self.patch_size) == 3 else (1, *self.patch_size)

    def _starts(self, shape: Sequence[int]) -> tuple[list[int], list[list[int]]]:
        """Where tiles start: along the slowest axis, and along the other two."""
        if len(self.patch_size) == 2:
            plane = compute_steps_for_sliding_window(shape[1:], self.patch_size, self.step_size)
            return list(range(shape[0])), plane
        steps = compute_steps_for_sliding_window(shape, self.patch_size, self.step_size)
        return steps[0], steps[1:]

    def _padded_slabs(
        self, image: Tensor, predictors: Sequence[PredictTile], progress: Callable[[], None]
    ) -> Iterator[Slab]:
        depth, height, width = self._patch_3d()
        starts, (rows, columns) = self._starts(image.shape[1:])
        gaussian = self._weights()
        buffer: Tensor | None = None
        weights = torch.zeros((depth, *image.shape[2:]), dtype=torch.half, device=self.results_device)
        for number, start in enumerate(starts):
            for predict in predictors:
                for row in rows:
                    for column in columns:
                        place = (slice(row, row + height), slice(column, column + width))
                        tile = image[(slice(None), slice(start, start + depth), *place)]
                        logits = self._predict(predict, tile)
                        if buffer is None:
                            buffer = torch.zeros(
                                (*logits.shape[:2], depth, *image.shape[2:]),
                                dtype=torch.half,
                                device=self.results_device,
                            )
                        # in place, in nnU-Net's order and precision
                        logits *= gaussian
                        buffer[(..., *place)] += logits
                        weights[(..., *place)] += gaussian
                        progress()
            final = depth if number + 1 == len(starts) else starts[number + 1] - start
            if buffer is None or final == 0:
                continue
            yield Slab(start, _divide(buffer[:, :, :final], weights[:final]))
            _advance(buffer, final, dim=2)
            _advance(weights, final, dim=0)

    def _weights(self) -> Tensor | float:
        if not self.use_gaussian:
            return 1.0
        gaussian = compute_gaussian(
            tuple(self.patch_size),
            sigma_scale=1.0 / 8,
            value_scaling_factor=10,
            device=self.results_device,
        )
        return gaussian if len(self.patch_size) == 3 else gaussian[None]

    def _predict(self, predict: PredictTile, tile: Tensor) -> Tensor:
        """Logits of one tile (members, classes, depth, height, width) on the device of results."""
        if len(self.patch_size) == 2:
            tile = tile[:, 0]
        tile = tile[None].contiguous().to(self.device)
        logits = predict(tile).to(self.results_device)
        return logits if len(self.patch_size) == 3 else logits[:, :, None]


def _divide(buffer: Tensor, weights: Tensor) -> Tensor:
    logits = buffer / weights
    if not torch.isfinite(logits).all():
        raise CaseError(
            "The network's output is infinite or not a number. Check the image for infinite or missing intensities; if "
            "it is sound, the network did not train well."
        )
    return logits


def _advance(buffer: Tensor, rows: int, *, dim: int) -> None:
    """Drop the first rows of a buffer and make room for as many new ones."""
    kept = buffer.shape[dim] - rows
    if kept:
        buffer.narrow(dim, 0, kept).copy_(buffer.narrow(dim, rows, kept).clone())
    buffer.narrow(dim, kept, rows).zero_()
