"""An inner and an outer contour between which the true boundary lies.

Conventions:
    Masks of one label; distances in mm between voxel centres; axes of length 1 are dropped, and
    voxels beyond the image are outside. Dilating by d adds the voxels within d of the mask, eroding
    by e keeps the voxels further than e from the outside. Both contours hold together, for each
    label, with probability 1 - alpha: each is given alpha / 2.

Metrics:
    outer distance of a case: the smallest dilation of the segmentation that contains the reference.
    inner distance: the smallest erosion of the segmentation that the reference contains. The
    margins are conformal quantiles of these over labelled cases.
    Empty reference: outer 0, inner the depth of the segmentation. Empty segmentation: inner 0;
    outer infinite unless the reference is empty too. A margin that is infinite (too many missed
    references) makes the outer contour the whole image.

Assumption:
    Exchangeability (see `conformal`).

References:
    Davenport 2024, arXiv:2405.05944 (inner and outer confidence sets by distance). Mossina and
    Friedrich 2025, arXiv:2503.05618 (conformal margins by morphology).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class BoundaryDistances:
    """What one labelled case asks of the margins of one label, in mm.

    Attributes:
        outer_mm: smallest dilation of the segmentation that contains the reference; may be
            infinite.
        inner_mm: smallest erosion of the segmentation that the reference contains.
    """

    outer_mm: float
    inner_mm: float


@dataclass(frozen=True)
class LabelMargins:
    """Margins of one label, in mm; None: infinite, the outer contour is the whole image."""

    outer_mm: float | None
    inner_mm: float


@dataclass(frozen=True)
class ContourMargins:
    """Margins of every label.

    Attributes:
        labels: name of the label to its margins.
        alpha: share of new cases in which a label's boundary may lie elsewhere.
        num_cases: labelled cases.
        num_groups: labelled patients.
    """

    labels: dict[str, LabelMargins]
    alpha: float
    num_cases: int
    num_groups: int


def boundary_distances(
    reference: Bool[np.ndarray, "*space"],
    segmentation: Bool[np.ndarray, "*other_space"],
    *,
    spacing_mm: Sequence[float],
) -> BoundaryDistances:
    """What one case asks of the margins; see the module for the empty cases.

    Raises:
        InputError: if shapes or the number of axes differ.
    """
    raise NotImplementedError


def fit_contours(
    distances: dict[str, Sequence[BoundaryDistances]],
    *,
    alpha: float = 0.1,
    groups: Int[np.ndarray, "cases"],
) -> ContourMargins:
    """Margins that hold for a new case with probability 1 - alpha, for each label.

    Args:
        distances: for each label one entry a labelled case.
        alpha: share of new cases in which a label's boundary may lie elsewhere.
        groups: the number of each case's patient.

    Raises:
        SettingError: ``alpha`` is not between 0 and 1.
        InputError: too few cases for ``alpha`` (each contour has alpha / 2).
    """
    raise NotImplementedError


def contours(
    segmentation: Bool[np.ndarray, "*space"],
    margins: LabelMargins,
    *,
    spacing_mm: Sequence[float],
) -> tuple[Bool[np.ndarray, "*space"], Bool[np.ndarray, "*space"]]:
    """The inner and the outer mask of a new segmentation of one label."""
    raise NotImplementedError


def signed_distance_mm(
    segmentation: Bool[np.ndarray, "*space"], *, spacing_mm: Sequence[float]
) -> Float[np.ndarray, "*space"]:
    """Distance to the mask (positive, outside) or to the outside (negative, inside), in mm."""
    raise NotImplementedError
