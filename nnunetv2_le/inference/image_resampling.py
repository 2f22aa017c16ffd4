"""The way in: nnU-Net's resampling of the image, axis by axis instead of all at once.

nnU-Net resizes an image with scikit-image, which fits cubic splines to a padded copy of the whole
volume in double precision: the peak of memory of a prediction. Spline interpolation is linear and
separable, so each axis is one small matrix. The matrix is SciPy's own ``zoom`` (what scikit-image
calls) of the unit vectors; the volume is multiplied by one matrix after another, some rows at a
time.

Deviation: single instead of double precision between the axes, which changes intensities by parts
in a million (``tests/inference/test_image_resampling.py`` compares with nnU-Net's function).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.preprocessing.resampling.default_resampling import (
    determine_do_sep_z_and_axis,
    resample_data_or_seg_to_shape,
)
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from scipy import ndimage
from torch import Tensor

from nnunetv2_le.inference.native_grid import nearest_rows

Resample = Callable[..., Any]

_PIECE_BYTES = 64 * 2**20


class SmallMemoryConfiguration(ConfigurationManager):  # type: ignore[misc]
    """A configuration whose image resampling takes little memory.

    To be handed to nnU-Net's preprocessor in place of the configuration. Another interpolation than
    nnU-Net's default family is left as it is.

    Args:
        configuration: the configuration of the model.
        needs_labels: whether labels are preprocessed too. If not, nnU-Net would resample the mask
            of the image's nonzero part, which nobody looks at afterwards.
    """

    def __init__(self, configuration: ConfigurationManager, *, needs_labels: bool) -> None:
        super().__init__(configuration.configuration)
        self._needs_labels = needs_labels

    @property
    def resampling_fn_data(self) -> Resample:
        """How images are resampled."""
        function: Resample = super().resampling_fn_data
        options = dict(getattr(function, "keywords", {}))
        known = (
            getattr(function, "func", None) is resample_data_or_seg_to_shape
            and options.get("order", 3) in (1, 2, 3)
            and options.get("order_z", 0) == 0
            and not options.get("is_seg", False)
        )
        if not known:
            return function
        return partial(
            resample_image,
            order=options.get("order", 3),
            force_separate_z=options.get("force_separate_z", False),
        )

    @property
    def resampling_fn_seg(self) -> Resample:
        """How labels are resampled."""
        function: Resample = super().resampling_fn_seg
        return function if self._needs_labels else _no_labels


def preprocessing_configuration(
    configuration: ConfigurationManager, preprocessor: Any, *, needs_labels: bool
) -> ConfigurationManager:
    """The configuration that a preprocessor is given: ours where nnU-Net's own steps run.

    Args:
        configuration: the configuration of the model.
        preprocessor: what will be called; one with other steps gets the configuration as it is.
        needs_labels: whether labels are preprocessed too.
    """
    if type(preprocessor).run_case_npy is not DefaultPreprocessor.run_case_npy:
        return configuration
    return SmallMemoryConfiguration(configuration, needs_labels=needs_labels)


def resample_image(
    data: Float[np.ndarray, "channels depth height width"],
    new_shape: Sequence[int] | np.ndarray,
    current_spacing: Sequence[float] | np.ndarray,
    new_spacing: Sequence[float] | np.ndarray,
    *,
    order: int = 3,
    force_separate_z: bool | None = False,
) -> Float[np.ndarray, "channels depth2 height2 width2"]:
    """Resample as nnU-Net's ``resample_data_or_seg_to_shape`` does, in single precision.

    Voxel borders are aligned, values outside are the nearest ones inside, and results stay within
    the range of the input (of the slice, along a coarse axis). Along a coarse axis (nnU-Net's
    separate z) the nearest slice is taken.

    Args:
        data: image.
        new_shape: spatial shape of the result.
        current_spacing: spacing of the input, which decides whether an axis is coarse.
        new_spacing: spacing of the result.
        order: order of the splines, 1 to 3.
        force_separate_z: nnU-Net's setting of that name.
    """
    shape = tuple(int(size) for size in new_shape)
    if data.shape[1:] == shape:
        return data
    separate, axis = determine_do_sep_z_and_axis(force_separate_z, current_spacing, new_spacing)
    coarse = int(axis) if separate else None
    matrices = [
        None if n == size or number == coarse else _axis_matrix(n, size, order)
        for number, (n, size) in enumerate(zip(data.shape[1:], shape, strict=True))
    ]
    result = np.empty((len(data), *shape), dtype=np.float32)
    for channel, values in enumerate(data):
        volume = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
        resized = _clip(_resize(volume, matrices), volume, coarse)
        if coarse is not None and resized.shape[coarse] != shape[coarse]:
            rows = nearest_rows(resized.shape[coarse], 0, shape[coarse], size=shape[coarse])
            resized = resized.index_select(coarse, rows)
        result[channel] = resized.numpy()
    return result


def _axis_matrix(length: int, size: int, order: int) -> Float[Tensor, "size length"]:
    """What spline interpolation of so many values gives at so many places, as a matrix."""
    columns = [
        ndimage.zoom(unit, size / length, order=order, mode="nearest", grid_mode=True)
        for unit in np.eye(length)
    ]
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.float32))


def _resize(
    volume: Float[Tensor, "depth height width"], matrices: Sequence[Tensor | None]
) -> Float[Tensor, "depth2 height2 width2"]:
    """Multiply each axis by its matrix; None leaves an axis as it is."""
    first, second, third = matrices
    if second is not None or third is not None:
        row_bytes = 4 * volume.shape[1] * volume.shape[2]
        step = max(1, _PIECE_BYTES // row_bytes)
        volume = torch.cat(
            [_resize_plane(rows, second, third) for rows in torch.split(volume, step)]
        )
    if first is None:
        return volume
    flat = first @ volume.flatten(1)
    return flat.reshape(-1, *volume.shape[1:])


def _resize_plane(
    rows: Float[Tensor, "rows height width"], second: Tensor | None, third: Tensor | None
) -> Float[Tensor, "rows height2 width2"]:
    if third is not None:
        rows = rows @ third.T
    return rows if second is None else torch.matmul(second, rows)


def _clip(resized: Tensor, original: Tensor, coarse: int | None) -> Tensor:
    """Keep within the range of the original, of each slice where slices are resized alone."""
    if coarse is None:
        return resized.clamp_(original.min(), original.max())
    others = [axis for axis in range(3) if axis != coarse]
    low, high = original.amin(others, keepdim=True), original.amax(others, keepdim=True)
    return torch.minimum(torch.maximum(resized, low), high)


def _no_labels(data: np.ndarray, new_shape: Any, *_spacings: Any) -> np.ndarray:
    return np.zeros((len(data), *(int(size) for size in new_shape)), dtype=data.dtype)
