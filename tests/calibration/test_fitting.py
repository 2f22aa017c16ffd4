"""What every fit needs before it is begun, whose features a fold knows, which heads are chosen."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nnunetv2_le.calibration.fitting import (
    FitSettings,
    _known_features,
    fit_score_heads,
    require_enough_cases,
)
from nnunetv2_le.calibration.observed_case import ObservedCase
from nnunetv2_le.errors import InputError, SettingError

EASY = FitSettings(alpha=0.5, level=0.5, set_alpha=0.5, contour_alpha=0.9, outlier_alpha=0.5)


def observed(number: int, *, fold: str = "0", heads: int = 4, features: int = 3) -> ObservedCase:
    """A made-up case; nothing of it is right but the shapes."""
    rng = np.random.default_rng(number)
    quality = rng.uniform()
    noise = rng.normal(scale=0.01, size=(2, heads - 1))
    return ObservedCase(
        case=f"case_{number}",
        fold=fold,
        scores={},
        label_scores={},
        is_empty=False,
        label_dice=np.array([quality, np.nan]),
        agreements=quality + noise,
        fused_dice=quality - 0.1 * abs(np.arange(heads) - 1.0),
        members=(*(f"head_{head}" for head in range(heads)), "fused"),
        outer_mm=np.zeros(2),
        inner_mm=np.zeros(2),
        contour_share=0.0,
        features=rng.normal(size=features),
        arrays={},
    )


@pytest.mark.parametrize(
    ("change", "needed", "said"),
    [
        ({"alpha": 0.05}, 19, r"for -alpha 0\.05 \(needs 19\)\. .*: -alpha 0\.0527\."),
        ({"level": 0.95}, 19, r"for -level 0\.95 \(needs 19\)\. .*: -level 0\.9473\."),
        ({"set_alpha": 0.05}, 19, r"-set_alpha 0\.05 \(needs 19\)\. .*: -set_alpha 0\.0527\."),
        ({"contour_alpha": 0.1}, 19, r"-contour_alpha 0\.1 \(needs 19\).*: -contour_alpha 0\.1054"),
        ({"outlier_alpha": 0.05}, 19, r"-outlier_alpha 0\.05 \(.*: -outlier_alpha 0\.0527\."),
        ({}, 10, "to calibrate with: predicted Dice needs at least 10"),
    ],
)
def test_each_promise_needs_its_number_of_cases(
    change: dict[str, float], needed: int, said: str
) -> None:
    settings = replace(EASY, **change)
    require_enough_cases(needed, settings)
    with pytest.raises(InputError, match=rf"^{needed - 1} labelled .* are too few .*{said}"):
        require_enough_cases(needed - 1, settings)


@pytest.mark.parametrize("num_groups", [10, 13, 18, 27])
def test_what_so_few_cases_cannot_promise_is_said_at_once_with_what_they_can(
    num_groups: int,
) -> None:
    settings = FitSettings(alpha=0.01, level=0.99, set_alpha=0.03, outlier_alpha=0.02)
    with pytest.raises(InputError, match=r"-alpha .*-level .*-set_alpha .*-outlier_") as refused:
        require_enough_cases(num_groups, settings)
    said = str(refused.value).rpartition(": ")[2].rstrip(".").split()
    pairs = zip(said[::2], said[1::2], strict=True)
    possible = {flag.lstrip("-"): float(value) for flag, value in pairs}
    require_enough_cases(num_groups, replace(settings, **possible))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        *(({name: value}, rf"-{name} is a share between 0 and 1, got {value!r}")
          for name in ("alpha", "level", "set_alpha", "contour_alpha", "outlier_alpha")
          for value in (0.0, 1.0)),
        ({"tolerance": 0.0}, "-tolerance is a Dice above 0"),
        ({"tolerance": 1.01}, "-tolerance is a Dice above 0"),
        ({"contour_share": -0.01}, "-contour_share is a share of voxels"),
        ({"contour_share": 1.0}, "-contour_share is a share of voxels"),
        ({"seed": -1}, "-seed is 0 or more"),
    ],
)  # fmt: skip
def test_what_is_no_share_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        require_enough_cases(100, replace(EASY, **change))


def test_a_tolerance_of_one_and_no_share_of_the_contour_are_taken() -> None:
    require_enough_cases(100, replace(EASY, tolerance=1.0, contour_share=0.0, seed=0))


def test_the_heads_are_the_members_before_the_fused_one() -> None:
    cases = [observed(number) for number in range(20)]
    skip = fit_score_heads(cases, default_fused=1, groups=np.arange(20))
    assert skip is not None
    assert skip.heads == ("head_0", "head_1", "head_2", "head_3")
    assert skip.default_fused_skip == 3
    assert skip.fused_skip == 1


def test_an_agreement_of_deep_heads_on_nothing_does_not_count_in_the_choice_of_heads() -> None:
    """The first two agreements know nothing of Dice; some cases are missed by all deep heads."""
    rng = np.random.default_rng(0)
    cases = []
    for number in range(100):
        case = replace(observed(number, heads=6), scores={"volume_ml": 1.0})
        agreements = case.agreements.copy()
        agreements[:, :2] = rng.uniform(size=(2, 2))
        if number % 8 == 0:
            agreements[:, 2:] = 1.0
            case = replace(case, scores={"volume_ml": 0.0}, label_dice=np.array([0.0, np.nan]))
        cases.append(replace(case, agreements=agreements))
    skip = fit_score_heads(cases, default_fused=2, groups=np.arange(100))
    assert skip is not None
    assert skip.num_cases == 87
    assert skip.score_skip == 2
    assert skip.criterion_values[2] == pytest.approx(1.0, abs=0.01)


def test_no_heads_are_chosen_of_two_of_none_or_with_few_cases(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for cases in (
        [observed(number, heads=2) for number in range(20)],
        [replace(observed(number), fused_dice=np.empty(0)) for number in range(20)],
        [replace(observed(number), members=("fused",)) for number in range(20)],
    ):
        assert fit_score_heads(cases, default_fused=1, groups=np.arange(20)) is None
    assert not caplog.text
    few = [observed(number) for number in range(14)]
    assert fit_score_heads(few, default_fused=1, groups=np.arange(14)) is None
    assert "Left out: the choice of heads (" in caplog.text


def test_a_fold_knows_the_features_and_patients_of_its_own_cases_alone() -> None:
    cases = [observed(number, fold=str(number % 2)) for number in range(30)]
    patients = tuple(f"patient_{number}" for number in range(30))
    known = _known_features(cases, patients, alpha=0.1)
    assert list(known) == ["0", "1"]
    for fold, own in known.items():
        numbers = range(int(fold), 30, 2)
        assert own.groups == tuple(patients[number] for number in numbers)
        np.testing.assert_array_equal(own.features, [cases[n].features for n in numbers])
    assert {own.groups for own in _known_features(cases, (), alpha=0.1).values()} == {()}


def test_a_fold_with_few_patients_or_without_features_is_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cases = [observed(number, fold="a" if number < 12 else "b") for number in range(21)]
    cases += [observed(number, fold="c", features=0) for number in range(21, 35)]
    assert list(_known_features(cases, (), alpha=0.1)) == ["a"]
    assert "Left out: distances to the known cases of fold b (" in caplog.text
    assert "fold c" not in caplog.text
    assert "With fold a" not in caplog.text
    caplog.clear()
    assert list(_known_features(cases, (), alpha=0.05)) == ["a"]
    assert "With fold a no case is ever flagged as out of distribution" in caplog.text


def test_dice_of_a_case_is_the_mean_of_the_labels_that_have_one() -> None:
    case = replace(observed(0), label_dice=np.array([0.5, np.nan]))
    assert case.dice == 0.5
    assert replace(case, label_dice=np.array([0.5, 0.0])).dice == 0.25
    assert np.isnan(replace(case, label_dice=np.full(2, np.nan)).dice)
