"""Figures of cases that were held out, on made-up cases with known answers."""

import math
from dataclasses import replace

import numpy as np
import pytest
from calibration.made_up_cases import made_up_cases

from nnunetv2_le.calibration.cases import CalibrationCases, LabelCases
from nnunetv2_le.calibration.contours import BoundaryDistances, LabelMargins
from nnunetv2_le.calibration.fitting import FitSettings, require_enough_cases
from nnunetv2_le.calibration.held_out import (
    HeldOutFigures,
    _lies_between,
    _over_folds,
    held_out_figures,
)
from nnunetv2_le.calibration.prediction_sets import THRESHOLDS, CaseCurve, case_curve
from nnunetv2_le.errors import InputError, SettingError

SETTINGS = FitSettings(
    tolerance=0.75, alpha=0.1, level=0.9, set_alpha=0.1, contour_alpha=0.2, outlier_alpha=0.1
)


def figures(cases: CalibrationCases, settings: FitSettings = SETTINGS) -> HeldOutFigures:
    rng, number = np.random.default_rng(1), len(cases.cases)
    curves: list[CaseCurve] = []
    for _ in range(number):
        share = rng.dirichlet([4.0, 1.0, 1.0], size=400).T
        truth = (share.cumsum(0) < rng.uniform(size=400)).sum(0)
        curves.append(case_curve(share, truth))
    near = [BoundaryDistances(*map(float, pair)) for pair in rng.gamma(2.0, size=(number, 2))]
    return held_out_figures(cases, curves=curves, distances={"a": near}, settings=settings)


def test_promises_hold_on_exchangeable_cases() -> None:
    found = figures(made_up_cases(200))
    assert found.coverage == pytest.approx(0.9, abs=0.06)
    assert found.risk < 0.15
    assert found.set_coverage > 0.88
    assert found.contour_coverage > 0.75
    assert found.mean_absolute_error < 0.8 * found.baseline_error
    assert 0 < found.workload < 1


def test_the_risk_is_counted_with_the_cases_that_are_not_flagged() -> None:
    cases = made_up_cases(60)
    everything_poor = figures(cases, replace(SETTINGS, tolerance=1.0))
    assert everything_poor.workload > 0.85
    nothing_poor = figures(cases, replace(SETTINGS, tolerance=1e-6))
    assert nothing_poor.risk == 0


def test_cases_without_a_dice_are_in_no_figure_of_it() -> None:
    cases = made_up_cases(80)
    dice = np.where(np.arange(80) % 4 == 0, np.nan, cases.case.dice)
    found = figures(replace(cases, case=replace(cases.case, dice=dice)))
    assert found.coverage > 0.8  # counted as missed, a quarter of the cases would leave 0.75
    assert 0 < found.mean_absolute_error < found.baseline_error


def test_empty_segmentations_are_to_review_and_in_no_figure_of_predicted_dice() -> None:
    cases = made_up_cases(80)
    is_empty = np.arange(80) % 4 == 0
    # members that agree on nothing: a high score of a segmentation that has Dice 0
    scores = {name: values.copy() for name, values in cases.case.scores.items()}
    scores["consensus_dice"][is_empty] = 0.875
    scores["volume_ml"][is_empty] = 0
    dice = np.where(is_empty, 0, cases.case.dice)
    found = figures(replace(cases, case=LabelCases(scores, dice)))
    assert found.coverage > 0.8  # counted as missed, a quarter of the cases would leave 0.75
    assert found.risk <= 0.12
    assert found.workload >= 0.25


def test_every_patient_is_a_fold_where_five_folds_leave_too_few() -> None:
    found = figures(made_up_cases(11))  # ten are needed
    assert not math.isnan(found.coverage)


def test_too_few_cases_give_no_figure_instead_of_a_wrong_one() -> None:
    found = figures(made_up_cases(10))
    assert math.isnan(found.coverage)
    assert math.isnan(found.risk)
    assert not math.isnan(found.set_coverage)  # nine are enough for these


def test_patients_are_never_split() -> None:
    cases = made_up_cases(30)
    twins = CalibrationCases(cases.cases, cases.case, groups=tuple(str(n // 3) for n in range(30)))
    found = figures(twins)  # ten patients: as ten cases
    assert math.isnan(found.coverage)


def test_patients_count_equally_beside_a_promise_and_cases_in_the_workload() -> None:
    groups = np.concatenate([np.arange(19), np.full(20, 19)])  # the last has 20 cases, all bad
    bad = groups == 19
    generator = np.random.default_rng(0)
    score = np.where(bad, 0.2, 0.8) + 0.1 * generator.random(39)
    dice = np.where(bad, 0.3, 0.85) + 0.1 * generator.random(39)
    cases = CalibrationCases(
        tuple(f"case_{n}" for n in range(39)),
        LabelCases({"consensus_dice": score}, dice),
        groups=tuple(map(str, groups)),
    )
    nothing = np.zeros(len(THRESHOLDS))
    found = held_out_figures(
        cases,
        curves=[CaseCurve(nothing + 0.9 * is_bad, nothing) for is_bad in bad],
        distances={
            name: [BoundaryDistances(*(10.0 * float(is_bad),) * 2) for is_bad in bad]
            for name in ("a", "b")
        },
        settings=SETTINGS,
    )
    assert found.set_coverage == pytest.approx(1 - 0.9 / 20)
    assert found.contour_coverage == pytest.approx(19 / 20)
    assert found.risk == pytest.approx(1 / 20)  # no other patient is like the last one
    assert 0 < found.workload <= 19 / 39  # so only the other patients' cases can be flagged


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"alpha": 0.01}, r"-alpha 0.01 \(needs 99\)"),
        ({"level": 0.99}, r"-level 0.99 \(needs 99\)"),
        ({"set_alpha": 0.01}, r"-set_alpha 0.01 \(needs 99\)"),
        ({"contour_alpha": 0.02}, r"-contour_alpha 0.02 \(needs 99\)"),
        ({"outlier_alpha": 0.01}, r"-outlier_alpha 0.01 \(needs 99\)"),
    ],
)
def test_what_so_few_cases_cannot_promise_is_refused_by_name(
    changed: dict[str, float], said: str
) -> None:
    require_enough_cases(30, SETTINGS)
    with pytest.raises(InputError, match=said):
        require_enough_cases(30, replace(SETTINGS, **changed))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"tolerance": 85.0}, r"-tolerance is a Dice above 0 and at most 1, got 85\.0"),
        ({"tolerance": 0.0}, "-tolerance is a Dice above 0"),
        ({"contour_share": 1.5}, r"-contour_share is a share of voxels, .* got 1\.5"),
        ({"contour_share": -0.1}, "-contour_share is a share"),
        ({"alpha": 1e-310}, "-alpha is a share between 0 and 1, got 1e-310"),
        ({"contour_alpha": 5e-324}, "-contour_alpha is a share between 0 and 1, got 5e-324"),
        ({"level": 1e-17}, "-level is a share between 0 and 1, got 1e-17"),
    ],
)
def test_a_senseless_tolerance_or_share_is_refused_before_anything_is_predicted(
    changed: dict[str, float], said: str
) -> None:
    with pytest.raises(SettingError, match=said):
        require_enough_cases(1000, replace(SETTINGS, **changed))


def test_a_share_that_is_none_is_refused() -> None:
    with pytest.raises(SettingError, match="between 0 and 1"):
        require_enough_cases(30, replace(SETTINGS, outlier_alpha=0.0))


@pytest.mark.parametrize("number", range(9, 16))
def test_every_fold_leaves_as_many_patients_as_are_needed(number: int) -> None:
    left: list[int] = []

    def judge(known: np.ndarray, asked: np.ndarray) -> dict[str, np.ndarray]:
        left.append(len(known))
        return {"figure": np.ones(len(asked))}

    found = _over_folds(np.arange(number), 10, judge)
    assert found == pytest.approx({"figure": 1} if number > 10 else {})
    assert all(known >= 10 for known in left)
    assert len(left) == (0 if number < 11 else number if number < 13 else 5)


@pytest.mark.parametrize(
    ("outer_mm", "inner_mm", "holds"),
    [(2.0, 1.0, True), (2.1, 1.0, False), (2.0, 1.1, False), (math.inf, 0.0, False)],
)
def test_a_boundary_lies_between_contours_if_both_hold(
    outer_mm: float, inner_mm: float, holds: bool
) -> None:
    distance = BoundaryDistances(outer_mm, inner_mm)
    assert _lies_between(distance, LabelMargins(2.0, 1.0)) == holds
    whole_image = LabelMargins(None, 1.0)
    assert _lies_between(distance, whole_image) == (inner_mm <= 1)
    assert _lies_between(distance, LabelMargins(None, None)) == 1
