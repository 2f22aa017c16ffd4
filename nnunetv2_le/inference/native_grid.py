"""The way back: from the network's grid to the grid of the image, in pieces.

nnU-Net resamples every class of the whole volume in double precision. Its default interpolation
(order 1, or order 0 along a coarse axis) is separable, so that any few rows of the result need only
a few rows of the input: here the result is made some rows at a time, and never exists for all
classes at once. Where a configuration asks for another interpolation, nnU-Net's own function is
called on the whole volume.

Conventions: arrays are (channels, depth, height, width) in the network's axis order; voxel borders
are aligned (coordinate ``(i + 0.5) * n_in / n_out - 0.5``), values outside are the nearest ones
inside.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from nnunetv2.preprocessing.resampling.default_resampling import (
    determine_do_sep_z_and_axis,
    resample_data_or_seg_to_shape,
)
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor
from torch.nn import functional

_PIECE_BYTES = 16 * 2**20

Region = tuple[slice, slice, slice]


@dataclass(frozen=True)
class NativeVolume:
    """A volume on the image's grid that comes in pieces, so that it need not exist twice.

    Attributes:
        shape: of the image's grid.
        dtype: of the values.
        outside: the value where no piece comes.
        pieces: places on the grid and their values; can be gone through once.
    """

    shape: tuple[int, int, int]
    dtype: Any
    outside: float
    pieces: Iterator[tuple[Region, Shaped[np.ndarray, "z y x"]]]

    @classmethod
    def of(cls, array: Shaped[np.ndarray, "z y x"]) -> "NativeVolume":
        """An array that is there already, as one piece."""
        whole = (slice(None), slice(None), slice(None))
        return cls(array.shape, array.dtype, 0, iter([(whole, array)]))

    def array(self) -> Shaped[np.ndarray, "z y x"]:
        """All of it in memory."""
        values = np.full(self.shape, self.outside, dtype=self.dtype)
        for place, piece in self.pieces:
            values[place] = piece
        return values


@dataclass(frozen=True)
class NativeGrid:
    """Where a prediction goes: resample, pad what was cropped, transpose back.

    Attributes:
        cropped_shape: shape after resampling, in the network's axis order.
        full_shape: shape before cropping, in the network's axis order.
        place: where the cropped part lies in the full one.
        transpose_forward: axes of the image in the network's order.
        nearest_axis: axis along which the nearest row is taken (nnU-Net's separate z), or None.
        fallback: nnU-Net's own resampling function with its spacings, where ours does not apply.
    """

    cropped_shape: tuple[int, ...]
    full_shape: tuple[int, ...]
    place: tuple[slice, ...]
    transpose_forward: tuple[int, ...]
    nearest_axis: int | None = None
    fallback: Any = None

    def empty(
        self, dtype: Any, fill: float = 0, *, channels: tuple[int, ...] = ()
    ) -> tuple[Shaped[np.ndarray, "*channels z y x"], Shaped[np.ndarray, "*channels d h w"]]:
        """A new array on the image's grid, and the view on its cropped part.

        Args:
            dtype: of the values.
            fill: the values.
            channels: lengths of the axes in front of those of the grid.
        """
        shape = (*channels, *self.native_shape)
        array = np.full(shape, fill, dtype=dtype)
        axes = (*range(len(channels)), *(len(channels) + axis for axis in self.transpose_forward))
        cropped = (*(slice(None) for _ in channels), *self.place)
        return array, array.transpose(axes)[cropped]

    @property
    def native_shape(self) -> tuple[int, int, int]:
        """Shape of the image's grid, in its own order of axes."""
        return self._in_native_order(self.full_shape)

    def native_volume(
        self, volume: Float[np.ndarray, "depth height width"], *, outside: float
    ) -> NativeVolume:
        """A volume of the network's grid, resampled, padded and transposed back piece by piece.

        Args:
            volume: the volume.
            outside: its value outside the cropped part.
        """
        return NativeVolume(self.native_shape, np.float32, outside, self._native_pieces(volume))

    def _native_pieces(
        self, volume: Float[np.ndarray, "depth height width"]
    ) -> Iterator[tuple[Region, Float[np.ndarray, "z y x"]]]:
        back = np.argsort(self.transpose_forward)
        first = self.place[0].start
        for rows, values in self.pieces(volume[None]):
            place = (slice(first + rows.start, first + rows.stop), *self.place[1:])
            yield self._in_native_order(place), values[0].numpy().transpose(back)

    def _in_native_order(self, of_axes: Sequence[Any]) -> tuple[Any, Any, Any]:
        """One thing for each axis, from the network's order to the image's."""
        a, b, c = (of_axes[axis] for axis in np.argsort(self.transpose_forward))
        return (a, b, c)

    def native_voxel(
        self, centre: Sequence[float], network_shape: Sequence[int]
    ) -> tuple[float, ...]:
        """Where a point of the network's grid (voxel indices) lies on the image's grid."""
        position = [0.0] * len(self.full_shape)
        for axis, native_axis in enumerate(self.transpose_forward):
            scale = self.cropped_shape[axis] / network_shape[axis]
            position[native_axis] = (centre[axis] + 0.5) * scale - 0.5 + self.place[axis].start
        return tuple(position)

    def pieces(
        self, volume: Float[np.ndarray, "channels depth height width"]
    ) -> Iterator[tuple[slice, Float[Tensor, "channels rows height2 width2"]]]:
        """Resample a volume, some rows of the cropped grid at a time.

        Yields:
            Which rows, and their values in single precision; rows come in order and cover the grid.
        """
        source = torch.from_numpy(volume)
        rows = self.cropped_shape[0]
        if tuple(volume.shape[1:]) == self.cropped_shape:
            resample = _identity
        elif self.fallback is not None:
            source = torch.as_tensor(self.fallback(volume))
            resample = _identity
        else:
            resample = self._resample_rows
        row_bytes = 4 * volume.shape[0] * int(np.prod(self.cropped_shape[1:]))
        step = max(1, _PIECE_BYTES // max(row_bytes, 1))
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            piece = resample(source, start, stop)
            # nnU-Net keeps the type of what it resamples: half precision for logits
            yield slice(start, stop), piece.to(source.dtype).float()

    def _resample_rows(self, source: Tensor, start: int, stop: int) -> Tensor:
        rows = _along_axis(
            source,
            1,
            size=self.cropped_shape[0],
            nearest=self.nearest_axis == 0,
            keep=(start, stop),
        )
        height, width = self.cropped_shape[1:]
        if self.nearest_axis in (None, 0):
            rows = rows.transpose(0, 1)
            resized = functional.interpolate(
                rows, size=(height, width), mode="bilinear", align_corners=False
            )
            return resized.transpose(0, 1)
        rows = _along_axis(rows, 2, size=height, nearest=self.nearest_axis == 1)
        return _along_axis(rows, 3, size=width, nearest=self.nearest_axis == 2)


def native_grid(
    properties: Mapping[str, Any], plans: PlansManager, configuration: ConfigurationManager
) -> NativeGrid:
    """The way back of one preprocessed case.

    Args:
        properties: what nnU-Net's preprocessor noted of the case.
        plans: plans of the model, for the order of axes.
        configuration: configuration of the model, for spacing and interpolation.
    """
    cropped = tuple(int(n) for n in properties["shape_after_cropping_and_before_resampling"])
    spacing = [properties["spacing"][axis] for axis in plans.transpose_forward]
    current = list(configuration.spacing)
    if len(current) < len(cropped):
        current = [spacing[0], *current]
    function = configuration.resampling_fn_probabilities
    options = dict(getattr(function, "keywords", {}))
    ours = (
        getattr(function, "func", None) is resample_data_or_seg_to_shape
        and options.get("order", 3) == 1
        and options.get("order_z", 0) == 0
        and not options.get("is_seg", False)
    )
    separate, axis = determine_do_sep_z_and_axis(
        options.get("force_separate_z", False), current, spacing
    )
    return NativeGrid(
        cropped_shape=cropped,
        full_shape=tuple(int(n) for n in properties["shape_before_cropping"]),
        place=tuple(
            slice(int(low), int(high)) for low, high in properties["bbox_used_for_cropping"]
        ),
        transpose_forward=tuple(plans.transpose_forward),
        nearest_axis=int(axis) if separate else None,
        fallback=None if ours else partial(_resampled, function, cropped, current, spacing),
    )


def nearest_rows(length: int, start: int, stop: int, *, size: int) -> Int[Tensor, "rows"]:
    """Which of ``length`` rows lies nearest to each row from start to stop of ``size`` rows."""
    index = torch.floor(_positions(length, start, stop, size) + 0.5)
    return index.long().clamp(0, length - 1)


def _positions(length: int, start: int, stop: int, size: int) -> Float[Tensor, "rows"]:
    return (torch.arange(start, stop, dtype=torch.float64) + 0.5) * (length / size) - 0.5


def _resampled(
    function: Any, shape: Sequence[int], current: Any, spacing: Any, volume: np.ndarray
) -> Any:
    """What a resampling function of nnU-Net makes of a volume; results with it can be pickled."""
    return function(volume, shape, current, spacing)


def _identity(source: Tensor, start: int, stop: int) -> Tensor:
    return source[:, start:stop].float()


def _along_axis(
    values: Tensor, dim: int, *, size: int, nearest: bool, keep: Sequence[int] | None = None
) -> Tensor:
    """Resize one axis by nearest or linear interpolation, for the outputs start, stop = keep."""
    start, stop = keep or (0, size)
    length = values.shape[dim]
    if nearest:
        return values.index_select(dim, nearest_rows(length, start, stop, size=size)).float()
    position = _positions(length, start, stop, size).clamp(0, length - 1)
    low = position.floor().long()
    high = (low + 1).clamp(max=length - 1)
    shape = [1] * values.ndim
    shape[dim] = -1
    weight = (position - low).float().reshape(shape)
    return torch.lerp(
        values.index_select(dim, low).float(), values.index_select(dim, high).float(), weight
    )
