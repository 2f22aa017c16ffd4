"""A calibration in words: what was fitted and how it did on cases that it was not fitted on."""

import math
from collections.abc import Iterator, Sequence

from nnunetv2_le.calibration.calibration_file import Calibration
from nnunetv2_le.calibration.conformal import rounded_up
from nnunetv2_le.calibration.flag import FlagRule, WorkloadPoint
from nnunetv2_le.calibration.held_out import HeldOutFigures
from nnunetv2_le.errors import first_few

_CURVE_LINES = 8
_LISTED = 8  # labels; calibration.json has all


def report_lines(calibration: Calibration, figures: HeldOutFigures) -> list[str]:
    """Lines for a person, the figures of held-out cases beside what was promised."""
    return [
        _what_figures_are(calibration),
        *_heads(calibration),
        *_temperature(calibration),
        *_dice(calibration, figures),
        *_flag(calibration, figures),
        *_voxels(calibration, figures),
        *_features(calibration),
    ]


def _what_figures_are(calibration: Calibration) -> str:
    text = (
        f"{calibration.num_cases} labelled cases, {calibration.num_groups} patients. Figures are "
        "means over cases that were held out of every fit but the scaling of probabilities and the "
        "choice of heads."
    )
    if calibration.num_groups == calibration.num_cases:
        return text
    return (
        f"{text} Patients count equally, as in what is promised; cases to review and cases below "
        "the tolerance are counted by case."
    )


def workload_lines(curve: Sequence[WorkloadPoint]) -> list[str]:
    """What other shares of missed cases would cost, evenly chosen from the curve."""
    step = max(1, math.ceil(len(curve) / _CURVE_LINES))
    shown = [*curve[::step], *([] if (len(curve) - 1) % step == 0 else [curve[-1]])]
    return [
        f"  -alpha {rounded_up(p.alpha, 3):.3f}: {p.workload:.0%} of cases to review" for p in shown
    ]


def _heads(calibration: Calibration) -> Iterator[str]:
    chosen = calibration.head_skip
    if chosen is None:
        return
    fused = len(chosen.heads) - chosen.fused_skip
    yield (
        f"Heads: AULA leaves out the first {chosen.score_skip} of {len(chosen.heads)}; the last "
        f"{fused} make the segmentation (Dice {chosen.fused_dice[chosen.fused_skip]:.3f}, default "
        f"{chosen.fused_dice[chosen.default_fused_skip]:.3f})."
    )


def _temperature(calibration: Calibration) -> Iterator[str]:
    fitted = calibration.temperature
    if fitted is None:
        return
    fused = fitted.members.index("fused")
    yield (
        f"Probabilities near the segmentation: temperature {fitted.values[fused]:.2f}; NLL "
        f"{fitted.nll_before[fused]:.4f} -> {fitted.nll_after[fused]:.4f}, ECE "
        f"{fitted.ece_before[fused]:.4f} -> {fitted.ece_after[fused]:.4f}."
    )
    vector = calibration.vector_scaling
    if vector is not None:
        yield (
            f"Vector scaling: NLL {vector.nll_vector:.4f}, temperature {vector.nll_temperature:.4f}"
            f" on the same voxels; {'used' if vector.is_used else 'not better, not used'}."
        )


def _dice(calibration: Calibration, figures: HeldOutFigures) -> Iterator[str]:
    model = calibration.predicted_dice
    if model is None:
        return
    yield (
        f"Predicted Dice: mean absolute error {model.mean_absolute_error:.4f}, of predicting the "
        f"mean {model.baseline_error:.4f}; lower bound reached by {_share(figures.coverage)} of "
        f"cases (promised {_promise(model.level)})."
    )


def _flag(calibration: Calibration, figures: HeldOutFigures) -> Iterator[str]:
    rule: FlagRule | None = calibration.flag
    if rule is None:
        return
    yield (
        f"Flag: Dice below {rule.tolerance:g} and not flagged in {_share(figures.risk)} of cases "
        f"(promised at most {_promise(rule.alpha)}); {_share(figures.workload)} to review. "
        f"{rule.poor:.0%} of the labelled cases lie below."
    )
    yield "Other promises and their workload, on the labelled cases:"
    yield from workload_lines(rule.curve)


def _voxels(calibration: Calibration, figures: HeldOutFigures) -> Iterator[str]:
    sets, contours = calibration.prediction_sets, calibration.contours
    if sets is not None:
        yield (
            f"Prediction sets: hold the true label in {_share(figures.set_coverage)} of voxels "
            f"(promised {_promise(1 - sets.alpha)}); {sets.ambiguous:.1%} of voxels have several "
            "labels."
        )
    if contours is not None:
        margins = first_few(
            (
                f"{name} {_mm(margin.inner_mm)} inside, {_mm(margin.outer_mm)} outside"
                for name, margin in contours.labels.items()
            ),
            _LISTED,
        )
        yield (
            f"Contours: the boundary{_but(contours.tolerated_share)} lies between them in "
            f"{_share(figures.contour_coverage)} of cases and labels "
            f"(promised {_promise(1 - contours.alpha)}); {margins}."
        )


def _features(calibration: Calibration) -> Iterator[str]:
    if not calibration.features:
        yield "Out of distribution: not known (the network gives no features, or too few cases)."
        return
    counts = ", ".join(
        f"fold {fold}: {len(known.features)}" for fold, known in calibration.features.items()
    )
    yield f"Out of distribution: distances to the known cases of each network ({counts})."


def _share(value: float) -> str:
    return "an unknown share (too few cases)" if math.isnan(value) else f"{value:.1%}"


def _but(share: float) -> str:
    return f", {_promise(share)} of voxels left out," if share else ""


def _promise(share: float) -> str:
    """In full: 99.5% is not 100%."""
    return f"{round(100 * share, 6):g}%"


def _mm(value: float | None) -> str:
    return "no bound" if value is None else f"{value:.1f} mm"
