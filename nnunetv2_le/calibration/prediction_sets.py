"""Which labels remain possible at a voxel.

Conventions:
    Probabilities have shape (channels, voxels), after the temperature. The set of a voxel is every
    class with a probability of at least the threshold, and always the most probable one. Regions
    are questions of their own: each has a set out of {in, out}. Voxels count within a region of
    interest (the dilated union of segmentation and reference; for a new case of the segmentation).

Metrics:
    loss of a case: share of its voxels whose true label is not in the set (regions: mean over
    regions). It never falls as the threshold rises. The threshold is the highest of a fixed grid
    with (K R + 1) / (K + 1) <= alpha, K groups, R their mean loss; E[loss of a new case] <= alpha.

Assumption:
    Exchangeability of cases (see `conformal`); nothing is promised for a single voxel.

References:
    Angelopoulos et al. 2022, arXiv:2208.02814. Sadinle, Lei and Wasserman 2019, arXiv:1609.00451
    (sets of least ambiguity).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Integer
from scipy.special import expit

from nnunetv2_le.calibration.conformal import controlled_threshold
from nnunetv2_le.calibration.groups import group_weights
from nnunetv2_le.errors import InputError

THRESHOLDS = np.append(expit(np.linspace(0.0, -12.0, 241)), 0.0)
"""From 0.5 (least ambiguity) to 0 (every label remains possible)."""


@dataclass(frozen=True)
class PredictionSets:
    """The threshold and what it costs.

    Attributes:
        threshold: probability from which a label stays possible, at most 0.5.
        alpha: expected share of a new case's voxels whose true label is not in the set.
        ambiguous: mean share of labelled cases' voxels with more than one label in the set.
        num_cases: labelled cases.
        num_groups: labelled patients.
    """

    threshold: float
    alpha: float
    ambiguous: float
    num_cases: int
    num_groups: int


@dataclass(frozen=True)
class CaseCurve:
    """What one labelled case says of every threshold of the grid.

    Attributes:
        losses: share of voxels whose true label is not in the set.
        ambiguous: share of voxels with more than one label in the set.
    """

    losses: Float[np.ndarray, "thresholds"]
    ambiguous: Float[np.ndarray, "thresholds"]


def case_curve(
    probabilities: Float[np.ndarray, "channels voxels"],
    truth: Integer[np.ndarray, "answers"] | Bool[np.ndarray, "questions answers"],
    *,
    has_regions: bool = False,
) -> CaseCurve:
    """Losses of one case, of the voxels that are given (those of the region of interest).

    Args:
        probabilities: of each channel at each voxel.
        truth: classes: the true channel of each voxel; regions: whether each region holds.
        has_regions: whether channels are independent regions.

    Raises:
        InputError: no voxel, or shapes that do not fit together.
    """
    expected = probabilities.shape if has_regions else probabilities.shape[1:]
    if truth.shape != expected or not probabilities.size:
        raise InputError(
            f"expected truth of shape {expected} for probabilities at one voxel or more, got "
            f"{truth.shape} and {probabilities.shape}"
        )
    shares = probabilities.astype(float)
    if has_regions:
        is_in = shares > 0.5
        of_truth = np.where(truth, shares, 1 - shares)
        is_missed, second = is_in != truth, np.minimum(shares, 1 - shares)
    else:
        of_truth = np.take_along_axis(shares, truth[None].astype(int), axis=0)[0]
        is_missed = shares.argmax(axis=0) != truth
        second = np.partition(shares, -2, axis=0)[-2]
    missed, second = np.sort(of_truth[is_missed]), np.sort(second, axis=None)
    return CaseCurve(
        losses=np.searchsorted(missed, THRESHOLDS, side="left") / of_truth.size,
        ambiguous=1 - np.searchsorted(second, THRESHOLDS, side="left") / second.size,
    )


def fit_prediction_sets(
    curves: list[CaseCurve], *, alpha: float = 0.05, groups: Int[np.ndarray, "cases"]
) -> PredictionSets:
    """The highest threshold that keeps the expected loss at or below ``alpha``.

    Raises:
        SettingError: ``alpha`` is not between 0 and 1.
        InputError: too few cases for ``alpha``.
    """
    losses = np.stack([curve.losses for curve in curves])
    chosen = controlled_threshold(
        losses, alpha, groups=groups, purpose="a threshold of prediction sets"
    )
    ambiguous = group_weights(groups) @ np.stack([curve.ambiguous for curve in curves])
    return PredictionSets(
        threshold=float(THRESHOLDS[chosen]),
        alpha=float(alpha),
        ambiguous=float(ambiguous[chosen]),
        num_cases=len(curves),
        num_groups=len(np.unique(groups)),
    )


def prediction_sets(
    probabilities: Float[np.ndarray, "channels *space"],
    fitted: PredictionSets,
    *,
    has_regions: bool = False,
) -> Bool[np.ndarray, "labels *space"]:
    """Whether each label remains possible at each voxel.

    Returns:
        Classes: one mask a class, the background first. Regions: for each region ``in`` possible
        (first all regions), then ``out`` possible.
    """
    if has_regions:
        is_in = probabilities > 0.5
        possible = np.concatenate([probabilities, 1 - probabilities.astype(float)])
        return np.asarray((possible >= fitted.threshold) | np.concatenate([is_in, ~is_in]))
    classes = np.arange(len(probabilities)).reshape(-1, *(1,) * (probabilities.ndim - 1))
    return np.asarray(
        (probabilities.astype(float) >= fitted.threshold)
        | (classes == probabilities.argmax(axis=0))
    )
