"""An inner and an outer contour between which the true boundary lies.

Conventions:
    Masks of one label; distances in mm between voxel centres; axes along which the image has length
    1 are dropped, and voxels beyond the image are outside. Where the reference is not known no
    voxel counts as missed or added, but the segmentation stays whole. Dilating by d adds the voxels
    within d of the mask, eroding by e keeps the voxels further than e from the outside. Both
    contours hold together, for each label, with probability 1 - alpha in the cases that have the
    label in reference or segmentation (and so in all): each is given alpha / 2.

Metrics:
    outer distance of a case: the smallest dilation of the segmentation that contains the reference,
        all but a tolerated share of its voxels.
    inner distance: the smallest erosion of the segmentation that the reference contains, all but
        the same share of the segmentation's voxels.

    The margins are conformal quantiles of these over labelled cases. With a tolerated share of 0
    (the default) a single stray voxel counts in full. Empty reference: outer 0, inner the depth of
    the segmentation. Empty segmentation: inner 0; outer infinite unless the reference is empty too.
    Both empty: neither is defined (NaN), and the case does not count for that label; counted as 0
    such cases would make the margins of a rare label too narrow wherever it is. An infinite margin
    (too many missed references, or too few cases with the label) makes the outer contour the whole
    image, or the inner one empty.

Assumption:
    Exchangeability (see `conformal`).

References:
    Davenport 2024, arXiv:2410.03406 (inner and outer confidence sets). Mossina and Friedrich
    2025, arXiv:2503.05618 (conformal margins by morphology).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from nnunetv2_le.calibration.conformal import cases_needed, conformal_quantile, require_enough
from nnunetv2_le.errors import InputError, SettingError
from nnunetv2_le.uncertainty.aggregation import bounding_box

_ROUNDING_MM = 1e-6  # of equal distances to different voxels


@dataclass(frozen=True)
class BoundaryDistances:
    """What one labelled case asks of the margins of one label, in mm; NaN of a label in neither.

    Attributes:
        outer_mm: smallest dilation of the segmentation that contains the reference; may be
            infinite.
        inner_mm: smallest erosion of the segmentation that the reference contains.
        tolerated_share: share of voxels that either may leave out.
    """

    outer_mm: float
    inner_mm: float
    tolerated_share: float = 0.0


@dataclass(frozen=True)
class LabelMargins:
    """Margins of one label, in mm; None: infinite.

    Attributes:
        outer_mm: of the outer contour; None: it is the whole image.
        inner_mm: of the inner contour; None: it is empty.
    """

    outer_mm: float | None
    inner_mm: float | None


@dataclass(frozen=True)
class ContourMargins:
    """Margins of every label.

    Attributes:
        labels: name of the label to its margins.
        alpha: share of new cases with a label in which its boundary may lie elsewhere.
        num_cases: labelled cases.
        num_groups: labelled patients.
        tolerated_share: share of the reference's voxels that may lie beyond the outer contour, and
            of the segmentation's that may lie in the inner contour and not in the reference.
    """

    labels: dict[str, LabelMargins]
    alpha: float
    num_cases: int
    num_groups: int
    tolerated_share: float = 0.0


def boundary_distances(
    reference: Bool[np.ndarray, "*space"],
    segmentation: Bool[np.ndarray, "*other_space"],
    *,
    spacing_mm: Sequence[float],
    tolerated_share: float = 0.0,
    known: Bool[np.ndarray, "*another_space"] | None = None,
) -> BoundaryDistances:
    """What one case asks of the margins; see the module for the empty cases.

    Args:
        reference: mask.
        segmentation: mask of the same shape.
        spacing_mm: voxel size along each axis.
        tolerated_share: share of voxels that either contour may leave out.
        known: where the reference is known, for example not ignored; None: everywhere.

    Raises:
        InputError: if shapes or the number of axes differ.
    """
    if reference.shape != segmentation.shape or len(spacing_mm) != reference.ndim:
        raise InputError(
            "two masks of one shape and one spacing an axis are needed, got shapes "
            f"{reference.shape} and {segmentation.shape}, spacing {tuple(spacing_mm)!r}"
        )
    if not 0 <= tolerated_share < 1:
        raise SettingError(f"expected a tolerated share from 0 to 1, got {tolerated_share!r}")
    inside = np.ones_like(segmentation) if known is None else known
    missed, added = reference & ~segmentation & inside, segmentation & ~reference & inside
    if not ((reference | segmentation) & inside).any():
        return BoundaryDistances(math.nan, math.nan, tolerated_share)
    outer = inner = 0.0
    if missed.any():
        allowed = int(tolerated_share * np.count_nonzero(reference & inside))
        outer = math.inf
        if segmentation.any():
            box = bounding_box(reference | segmentation)
            distances = _distance(~segmentation[box], spacing_mm)[missed[box]]
            outer = _largest_but(distances, allowed)
    if added.any():
        allowed = int(tolerated_share * np.count_nonzero(segmentation & inside))
        box, thick = bounding_box(segmentation), _thick(segmentation)
        depth = _depth(segmentation[box], spacing_mm, thick=thick)
        inner = _largest_but(depth[added[box]], allowed)
    return BoundaryDistances(outer_mm=outer, inner_mm=inner, tolerated_share=tolerated_share)


def _largest_but(distances: Float[np.ndarray, "voxels"], allowed: int) -> float:
    """The largest distance once the ``allowed`` largest are left out; 0 where none is left."""
    if allowed >= len(distances):
        return 0.0
    return float(np.partition(distances, len(distances) - 1 - allowed)[-1 - allowed])


def fit_contours(
    distances: dict[str, Sequence[BoundaryDistances]],
    *,
    alpha: float = 0.1,
    groups: Int[np.ndarray, "cases"],
) -> ContourMargins:
    """Margins that hold for a new case with probability 1 - alpha, for each label.

    Args:
        distances: for each label one entry a labelled case.
        alpha: share of new cases with a label in which its boundary may lie elsewhere.
        groups: the number of each case's patient.

    Raises:
        SettingError: ``alpha`` is not between 0 and 1.
        InputError: too few cases for ``alpha`` (each contour has alpha / 2).
    """
    shares = {case.tolerated_share for cases in distances.values() for case in cases}
    if len(shares) > 1:
        raise InputError(
            "distances of one tolerated share are needed, got shares "
            f"{', '.join(map(str, sorted(shares)))}"
        )
    purpose = "a contour (half of the contours' alpha)"
    require_enough(len(np.unique(groups)), alpha / 2, purpose=purpose)
    fitted = {}
    for label, cases in distances.items():
        if len(cases) != len(groups):
            raise InputError(
                f"expected distances of {len(groups)} cases for {label}, got {len(cases)}"
            )
        fitted[label] = LabelMargins(
            _margin([case.outer_mm for case in cases], alpha / 2, groups),
            _margin([case.inner_mm for case in cases], alpha / 2, groups),
        )
    return ContourMargins(
        labels=fitted,
        alpha=float(alpha),
        num_cases=len(groups),
        num_groups=len(np.unique(groups)),
        tolerated_share=float(next(iter(shares), 0.0)),
    )


def _margin(
    distances: Sequence[float], alpha: float, groups: Int[np.ndarray, "cases"]
) -> float | None:
    """Quantile over the cases with the label; None where it is infinite or they are too few."""
    values = np.array(distances, dtype=float)
    counts = ~np.isnan(values)
    if len(np.unique(groups[counts])) < cases_needed(alpha):
        return None
    margin = conformal_quantile(values[counts], alpha, groups=groups[counts])
    return margin if math.isfinite(margin) else None


def contours(
    segmentation: Bool[np.ndarray, "*space"],
    margins: LabelMargins,
    *,
    spacing_mm: Sequence[float],
) -> tuple[Bool[np.ndarray, "*space"], Bool[np.ndarray, "*space"]]:
    """The inner and the outer mask of a new segmentation of one label."""
    inner = np.zeros_like(segmentation)
    outer = np.full_like(segmentation, margins.outer_mm is None)
    if not segmentation.any():
        return inner, outer
    box = bounding_box(segmentation)
    if margins.inner_mm is not None:
        depth = _depth(segmentation[box], spacing_mm, thick=_thick(segmentation))
        inner[box] = depth > margins.inner_mm + _ROUNDING_MM
    if margins.outer_mm is not None:
        within = margins.outer_mm + _ROUNDING_MM
        reach = [int(within // size) + 1 for size in spacing_mm]
        wide = bounding_box(segmentation, margin=reach)
        outer[wide] = _distance(~segmentation[wide], spacing_mm) <= within
    return inner, outer


def _distance(outside: np.ndarray, spacing_mm: Sequence[float]) -> Float[np.ndarray, "*space"]:
    """Distance of each voxel outside to the nearest voxel that is not."""
    return np.asarray(ndimage.distance_transform_edt(outside, sampling=spacing_mm))


def _depth(
    mask: np.ndarray, spacing_mm: Sequence[float], *, thick: Sequence[bool]
) -> Float[np.ndarray, "*space"]:
    """Distance of each voxel of a mask to the nearest one outside, those beyond it too.

    Args:
        mask: of an image, or the part of it that holds the whole mask.
        spacing_mm: voxel size along each axis.
        thick: the axes along which the image has an outside.
    """
    if not any(thick):  # a single voxel has no inside
        return np.zeros(mask.shape)
    padded = np.pad(mask, [(1, 1) if is_thick else (0, 0) for is_thick in thick])
    inside = tuple(slice(1, -1) if is_thick else slice(None) for is_thick in thick)
    return _distance(padded, spacing_mm)[inside]


def _thick(image: np.ndarray) -> list[bool]:
    return [length > 1 for length in image.shape]
