"""Distances between the surfaces of a segmentation and its reference, in mm.

Conventions:
    Masks are boolean arrays of one shape, ``spacing_mm`` is the voxel size in the order of the
    axes. Axes of length 1 are dropped first, so a 2D image stored as one slice is measured along
    its contour. The surface of a mask is the set of its voxels with a face neighbour outside
    (voxels beyond the image are outside); distances go between voxel centres. d(a, B) is the
    distance of a to the nearest point of B.

Metrics:
    hd95_mm: the larger of the two 95th percentiles (linear interpolation) of d over either surface.
    modified_hausdorff_mm: the larger of the two means of d over all voxels of either mask (0 for
        voxels in both).
    mean_surface_distance_mm: the mean of the two means of d over either surface.
    surface_dice: share of the voxels of both surfaces that lie within ``tolerance_mm`` of the other
        surface; a distance that equals it but for rounding is within.
    Empty reference and empty prediction: all NaN. One of them empty: distances NaN (there is no
    distance to nothing, and no number is made up for it), surface Dice 0.

References:
    Dubuisson and Jain 1994, "A modified Hausdorff distance for object matching", ICPR (MHD).
    Nikolov et al. 2018, arXiv:1809.04430 (surface Dice). Reinke et al. 2024, "Understanding
    metric-related pitfalls", Nature Methods, and MetricsReloaded, for HD95 as the larger of two
    percentiles and the mean of two means.

Deviations:
    MHD is taken over all voxels of the masks, as in the Layer Ensembles experiments, whose figures
    it stands beside; Dubuisson and Jain apply it to edge points. An infinite distance is not
    replaced by half the image's height. Surface Dice weighs surface voxels equally, not by the area
    of a triangulated surface.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage
from scipy.spatial import KDTree

from nnunetv2_le.errors import InputError

# headers keep spacings in single precision: 0.8 mm is read as 0.800000012
_ROUNDING_MM, _ROUNDING_SHARE = 1e-6, 1e-6


@dataclass(frozen=True)
class SurfaceDistances:
    """How far a segmentation's surface lies from its reference's."""

    hd95_mm: float
    modified_hausdorff_mm: float
    mean_surface_distance_mm: float
    surface_dice: float


def surface_distances(
    reference: Bool[np.ndarray, "*space"],
    prediction: Bool[np.ndarray, "*other_space"],
    *,
    spacing_mm: Sequence[float],
    tolerance_mm: float = 1.0,
) -> SurfaceDistances:
    """All distances of one pair of masks; see the module for definitions and the empty cases.

    The surface voxels go into a k-d tree (SciPy): exact in double precision, and its cost grows
    with the surfaces instead of the volume, unlike a distance transform's.

    Args:
        reference: mask.
        prediction: mask of the same shape.
        spacing_mm: voxel size along each axis, in mm.
        tolerance_mm: deviation that surface Dice accepts, in mm.

    Raises:
        InputError: if shapes or the number of axes differ.
    """
    if reference.shape != prediction.shape or len(spacing_mm) != reference.ndim:
        raise InputError(
            "two masks of one shape and one spacing an axis are needed, got shapes "
            f"{reference.shape} and {prediction.shape}, spacing {tuple(spacing_mm)!r}"
        )
    nan = float("nan")
    has_reference, has_prediction = bool(reference.any()), bool(prediction.any())
    if not (has_reference and has_prediction):
        return SurfaceDistances(nan, nan, nan, 0.0 if has_reference or has_prediction else nan)
    reference, prediction, spacing = _cropped(reference, prediction, np.asarray(spacing_mm, float))
    to_prediction, mean_to_prediction = _directed(reference, prediction, spacing)
    to_reference, mean_to_reference = _directed(prediction, reference, spacing)
    tolerated = tolerance_mm * (1 + _ROUNDING_SHARE) + _ROUNDING_MM
    within = np.count_nonzero(to_prediction <= tolerated) + np.count_nonzero(
        to_reference <= tolerated
    )
    return SurfaceDistances(
        hd95_mm=float(max(np.percentile(to_prediction, 95), np.percentile(to_reference, 95))),
        modified_hausdorff_mm=max(mean_to_prediction, mean_to_reference),
        mean_surface_distance_mm=float(to_prediction.mean() + to_reference.mean()) / 2,
        surface_dice=float(within / (len(to_prediction) + len(to_reference))),
    )


def surface(mask: Bool[np.ndarray, "*space"]) -> Bool[np.ndarray, "*space"]:
    """The voxels of a mask that have a face neighbour outside it or at the edge of the array."""
    return np.asarray(mask & ~ndimage.binary_erosion(mask))


def _cropped(
    reference: np.ndarray, prediction: np.ndarray, spacing: Float[np.ndarray, "axes"]
) -> tuple[np.ndarray, np.ndarray, Float[np.ndarray, "thick_axes"]]:
    """Both masks within their common bounding box, without axes of length 1."""
    thick = np.array(reference.shape) > 1
    if thick.any():
        flat = tuple(np.flatnonzero(~thick))
        reference, prediction = reference.squeeze(flat), prediction.squeeze(flat)
        spacing = spacing[thick]
    either = reference | prediction
    box = []
    for axis in range(either.ndim):
        occupied = np.flatnonzero(either.any(axis=tuple(set(range(either.ndim)) - {axis})))
        box.append(slice(occupied[0], occupied[-1] + 1))
    return reference[tuple(box)], prediction[tuple(box)], spacing


def _directed(
    source: np.ndarray, target: np.ndarray, spacing: Float[np.ndarray, "axes"]
) -> tuple[Float[np.ndarray, "points"], float]:
    """Distances from the source's surface to the target's; mean distance of its voxels."""
    target_surface, source_surface = surface(target), surface(source)
    tree = KDTree(np.argwhere(target_surface) * spacing, leafsize=32, balanced_tree=False)
    # the voxel of a mask nearest to one outside it is always on the mask's surface, and a voxel on
    # both surfaces is at distance 0
    asked = (source & ~target) | (source_surface & ~target_surface)
    distances = np.zeros(0)
    if asked.any():
        distances = tree.query(np.argwhere(asked) * spacing)[0]
    from_surface = distances[source_surface[asked]]
    on_both = np.count_nonzero(source_surface) - len(from_surface)
    beyond = float(distances[~target[asked]].sum())
    return (
        np.concatenate([from_surface, np.zeros(on_both)]),
        beyond / int(np.count_nonzero(source)),
    )
