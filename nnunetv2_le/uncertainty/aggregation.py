"""A voxel map and a mask become one number: the uncertainty of a case, a label or its boundary.

Conventions:
    Masks lie on the grid of the map. Neighbours are voxels that share a face. The boundary ring is
    one voxel on either side of the mask's boundary: mask voxels with a neighbour outside it, and
    outside voxels with a neighbour in it; the edge of the image is no boundary. Undefined (nothing
    to take the mean of) is NaN. Sums are in float64.

Metrics:
    ``image_mean``: mean over all voxels. ``foreground_mean``: over the mask. ``boundary_mean``:
    over the ring. ``non_boundary_mean``: over all voxels outside the ring (without a mask that is
    all voxels). ``patch_max``: highest mean of a 10-voxel cube that slides inside the image; a
    shorter axis is taken whole, so that a slice has squares. ``boundary_ratio``: 100 x sum over all
    voxels / number of voxels outside the mask that share a face, an edge or a corner with it.

References:
    Jungo, Balsiger and Reyes, Front. Neurosci. 2020 (boundaries dominate the mean). Zenk et al.,
    "Comparative benchmarking of failure detection methods in medical image segmentation",
    arXiv:2406.03323 (aggregations, 10-voxel patches). Katz and Mendelson, UnnUNet, 2023,
    https://github.com/KanielDatz/UnnUNet (``boundary_ratio``; its outer ring is a dilation by 3 x 3
    pixels minus the mask, here by 3 x 3 x 3 voxels, which in a slice is the same).

Deviations:
    UnnUNet divides by 0 where the mask is empty; here ``boundary_ratio`` is undefined there.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

Aggregation = Literal[
    "foreground_mean",
    "image_mean",
    "boundary_mean",
    "non_boundary_mean",
    "patch_max",
    "boundary_ratio",
]
AGGREGATIONS: tuple[Aggregation, ...] = get_args(Aggregation)

PATCH_VOXELS = 10  # edge of the cube, as in Zenk et al.
_PIECE_VOXELS = 2**21  # of a map that is filtered in double precision at one time


class MapSums:
    """A voxel map with what every mask's scores share: its sum and its worst patch.

    Args:
        values: the map.
    """

    def __init__(self, values: Float[np.ndarray, "depth height width"]) -> None:
        self.values = values
        self.total = float(values.sum(dtype=np.float64))
        self.patch_max = patch_max(values)

    def aggregate(self, mask: "MaskRegions") -> dict[Aggregation, float]:
        """Every aggregation of the map over a mask, in the order of ``AGGREGATIONS``."""
        values = self.values[mask.box]
        inside = _sum(values, mask.mask)
        ring = _sum(values, mask.ring)
        voxels = self.values.size
        return {
            "foreground_mean": _ratio(inside, mask.num_mask),
            "image_mean": _ratio(self.total, voxels),
            "boundary_mean": _ratio(ring, mask.num_ring),
            "non_boundary_mean": _ratio(self.total - ring, voxels - mask.num_ring),
            "patch_max": self.patch_max,
            "boundary_ratio": _ratio(100.0 * self.total, mask.num_outer),
        }


class MaskRegions:
    """A mask and its boundary ring, in the smallest box that holds both; used for every map.

    Args:
        mask: the mask on the whole grid.
    """

    def __init__(self, mask: Bool[np.ndarray, "depth height width"]) -> None:
        self.box = bounding_box(mask, margin=1)
        self.mask = mask[self.box]
        neighbours = ndimage.generate_binary_structure(3, 1)
        outer = ndimage.binary_dilation(self.mask, neighbours) & ~self.mask
        inner = self.mask & ~ndimage.binary_erosion(self.mask, neighbours, border_value=1)
        self.ring = outer | inner
        self.num_mask = int(np.count_nonzero(self.mask))
        self.num_outer = int(np.count_nonzero(_dilated(self.mask))) - self.num_mask
        self.num_ring = int(np.count_nonzero(self.ring))


def boundary_ratio(values: Float[np.ndarray, "depth height width"], mask: MaskRegions) -> float:
    """100 x sum of a map over all voxels / number of voxels just outside the mask."""
    return _ratio(100.0 * float(values.sum(dtype=np.float64)), mask.num_outer)


def bounding_box(
    mask: Bool[np.ndarray, "*space"], *, margin: int | Sequence[int] = 0
) -> tuple[slice, ...]:
    """The smallest box that holds a mask; empty for an empty mask.

    Args:
        mask: of any number of axes.
        margin: voxels by which the box is wider within the image, one number or one an axis.
    """
    spans = []
    for axis, more in enumerate(np.broadcast_to(margin, mask.ndim).tolist()):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        hits = np.flatnonzero(mask.any(axis=others))
        if not len(hits):
            return (slice(0, 0),) * mask.ndim
        first, last = int(hits[0]), int(hits[-1])
        spans.append(slice(max(0, first - more), min(mask.shape[axis], last + 1 + more)))
    return tuple(spans)


def patch_max(
    values: Float[np.ndarray, "depth height width"], *, patch_voxels: int = PATCH_VOXELS
) -> float:
    """Highest mean of a cube that slides inside the image; a shorter axis is taken whole.

    Args:
        values: a voxel map.
        patch_voxels: edge of the cube.
    """
    depth = len(values)
    reach = min(patch_voxels, depth) - 1  # rows that a piece shares with the next
    step = max(1, _PIECE_VOXELS // max(1, values[0].size))
    return max(
        _highest_mean(values[first : first + step + reach], patch_voxels)
        for first in range(0, depth - reach, step)
    )


def _highest_mean(values: Float[np.ndarray, "depth height width"], patch_voxels: int) -> float:
    for axis, length in enumerate(values.shape):
        size = min(patch_voxels, length)
        if size > 1:
            means = ndimage.uniform_filter1d(values, size, axis=axis, output=np.float64)
            # the filter's window reaches size // 2 voxels back; only whole windows are kept
            first = size // 2
            whole = [slice(None)] * 3
            whole[axis] = slice(first, first + length - size + 1)
            values = means[tuple(whole)]
    return float(values.max())


def _dilated(mask: Bool[np.ndarray, "depth height width"]) -> Bool[np.ndarray, "..."]:
    """The mask and all voxels that share a face, an edge or a corner with it.

    A cube is its three axes one after another, which is many times faster than SciPy's dilation.
    """
    for axis in range(3):
        rows = np.moveaxis(mask, axis, 0)
        wider = rows.copy()
        wider[1:] |= rows[:-1]
        wider[:-1] |= rows[1:]
        mask = np.moveaxis(wider, 0, axis)
    return mask


def _sum(
    values: Float[np.ndarray, "depth height width"], mask: Bool[np.ndarray, "depth height width"]
) -> float:
    return float(np.sum(values, where=mask, dtype=np.float64))  # without a copy


def _ratio(numerator: float, denominator: int) -> float:
    return numerator / denominator if denominator else math.nan
