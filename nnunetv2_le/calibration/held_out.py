"""How well a calibration does on cases that it was not fitted on.

Cases are cut into folds of whole patients; everything is fitted on the others and judged on each
fold, but for the choice of heads and the temperature (or vector scaling) under prediction sets,
which are fitted on all cases. Where five folds leave too few cases for a promise, every patient is
a fold of its own; where that is too few as well, the figure is undefined. What was promised counts
patients equally, so its figure does; a workload is a share of cases, which is what a clinic plans
with.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from nnunetv2_le.calibration.cases import CalibrationCases
from nnunetv2_le.calibration.conformal import cases_needed
from nnunetv2_le.calibration.contours import BoundaryDistances, LabelMargins, fit_contours
from nnunetv2_le.calibration.fitting import FitSettings
from nnunetv2_le.calibration.flag import fit_flag
from nnunetv2_le.calibration.groups import group_folds, group_weights
from nnunetv2_le.calibration.predicted_dice import MIN_PATIENTS, fit_predicted_dice
from nnunetv2_le.calibration.prediction_sets import THRESHOLDS, CaseCurve, fit_prediction_sets
from nnunetv2_le.errors import InputError

_FOLDS = 5
_UNDEFINED = math.nan
_SHARES_OF_CASES = ("workload",)

Judge = Callable[[np.ndarray, np.ndarray], "dict[str, Float[np.ndarray, 'held_out']]"]


@dataclass(frozen=True)
class HeldOutFigures:
    """Means over held-out cases, patients counted equally; NaN: too few cases to measure it.

    Attributes:
        coverage: share of cases whose Dice reaches its lower bound.
        mean_absolute_error: of predicted Dice.
        baseline_error: of predicting the mean Dice of the other cases.
        risk: share of cases that are poor and not flagged.
        workload: share of cases that are flagged; every case counts equally.
        set_coverage: share of voxels whose true label is in the set.
        contour_coverage: of cases and labels in them, the share whose boundary lies between.
    """

    coverage: float = _UNDEFINED
    mean_absolute_error: float = _UNDEFINED
    baseline_error: float = _UNDEFINED
    risk: float = _UNDEFINED
    workload: float = _UNDEFINED
    set_coverage: float = _UNDEFINED
    contour_coverage: float = _UNDEFINED


def held_out_figures(
    table: CalibrationCases,
    *,
    curves: Sequence[CaseCurve],
    distances: dict[str, Sequence[BoundaryDistances]],
    settings: FitSettings,
) -> HeldOutFigures:
    """Judge every part on cases that it was not fitted on.

    Args:
        table: scores and Dice.
        curves: of prediction sets, one a case.
        distances: of boundaries, for each label one a case.
        settings: what was promised.
    """
    groups = table.group_numbers
    dice = _over_folds(
        groups,
        max(cases_needed(1 - settings.level), cases_needed(settings.alpha), MIN_PATIENTS),
        lambda known, asked: _judge_dice(table, known, asked, settings),
    )
    sets = _over_folds(
        groups,
        cases_needed(settings.set_alpha),
        lambda known, asked: _judge_sets(curves, known, asked, groups, settings),
    )
    contours = _over_folds(
        groups,
        cases_needed(settings.contour_alpha / 2),
        lambda known, asked: _judge_contours(distances, known, asked, groups, settings),
    )
    return HeldOutFigures(**dice, **sets, **contours)


def _over_folds(groups: Int[np.ndarray, "cases"], needed: int, judge: Judge) -> dict[str, float]:
    """Mean of each figure over all held-out cases."""
    num_groups = len(np.unique(groups))
    if num_groups - 1 < needed:
        return {}
    enough = num_groups - math.ceil(num_groups / _FOLDS) >= needed
    num_folds = _FOLDS if enough else num_groups
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    try:
        for known, asked in group_folds(groups, num_folds):
            for name, values in judge(known, asked).items():
                # contours: all cases of the first label, then of the next
                patients = np.tile(groups[asked], len(values) // len(asked))
                found.setdefault(name, []).append((values, patients))
    except InputError:  # a fold in which nothing differs, or too little is defined
        return {}
    means = {}
    for name, folds in found.items():
        values, patients = (np.concatenate(parts) for parts in zip(*folds, strict=True))
        means[name] = _mean(values, None if name in _SHARES_OF_CASES else patients)
    return means


def _mean(
    values: Float[np.ndarray, "values"], groups: Int[np.ndarray, "values"] | None = None
) -> float:
    """Mean of what is defined, groups counted equally."""
    defined = ~np.isnan(values)
    if not defined.any():
        return _UNDEFINED
    if groups is None:
        return float(values[defined].mean())
    return float(group_weights(groups[defined]) @ values[defined])


def _judge_dice(
    table: CalibrationCases, known: np.ndarray, asked: np.ndarray, settings: FitSettings
) -> dict[str, np.ndarray]:
    learnt, new = table.subset(known), table.subset(asked)
    fitted = fit_predicted_dice(
        learnt.case, groups=learnt.group_numbers, level=settings.level, seed=settings.seed
    )
    rule = fit_flag(
        fitted.held_out,
        learnt.case.dice,
        tolerance=settings.tolerance,
        alpha=settings.alpha,
        groups=learnt.group_numbers,
    )
    said, dice = fitted.predicted.predict(new.case.scores), new.case.dice
    flagged = rule.flags(said.dice)
    mean = _mean(learnt.case.dice, learnt.group_numbers)
    judged = ~(np.isnan(said.lower) | np.isnan(dice))
    return {
        "coverage": np.where(judged, dice >= said.lower, np.nan),
        "mean_absolute_error": np.abs(said.dice - dice),
        "baseline_error": np.where(judged, np.abs(mean - dice), np.nan),
        "risk": ((dice < settings.tolerance) & ~flagged).astype(float),
        "workload": flagged.astype(float),
    }


def _judge_sets(
    curves: Sequence[CaseCurve],
    known: np.ndarray,
    asked: np.ndarray,
    groups: np.ndarray,
    settings: FitSettings,
) -> dict[str, np.ndarray]:
    fitted = fit_prediction_sets(
        [curves[n] for n in known], alpha=settings.set_alpha, groups=groups[known]
    )
    chosen = int(np.flatnonzero(fitted.threshold == THRESHOLDS)[0])
    return {"set_coverage": np.array([1 - curves[n].losses[chosen] for n in asked])}


def _judge_contours(
    distances: dict[str, Sequence[BoundaryDistances]],
    known: np.ndarray,
    asked: np.ndarray,
    groups: np.ndarray,
    settings: FitSettings,
) -> dict[str, np.ndarray]:
    margins = fit_contours(
        {name: [of_label[n] for n in known] for name, of_label in distances.items()},
        alpha=settings.contour_alpha,
        groups=groups[known],
    ).labels
    holds = [
        _lies_between(of_label[n], margins[name])
        for name, of_label in distances.items()
        for n in asked
    ]
    return {"contour_coverage": np.array(holds)}


def _lies_between(distance: BoundaryDistances, margins: LabelMargins) -> float:
    """1 or 0; NaN of a label that is in neither reference nor segmentation."""
    if math.isnan(distance.outer_mm):
        return math.nan
    outer = math.inf if margins.outer_mm is None else margins.outer_mm
    inner = math.inf if margins.inner_mm is None else margins.inner_mm
    return float(distance.outer_mm <= outer and distance.inner_mm <= inner)
