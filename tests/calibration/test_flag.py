"""The flag: risk by simulation, ties, groups, undefined scores, words."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunetv2_le.calibration.flag import FlagRule, decide_case, fit_flag
from nnunetv2_le.errors import InputError, SettingError


def simulated(generator, number):
    dice = generator.beta(8, 2, size=number)
    return dice + generator.normal(scale=0.08, size=number), dice


def fitted(scores, dice, **settings):
    settings = {"tolerance": 0.7, "alpha": 0.1, "groups": np.arange(len(dice)), **settings}
    return fit_flag(np.asarray(scores, dtype=float), np.asarray(dice, dtype=float), **settings)


@pytest.mark.parametrize("alpha", [0.05, 0.1])
@pytest.mark.parametrize("decimals", [1, 8], ids=["ties", "no ties"])
def test_the_risk_of_new_cases_is_at_most_alpha_on_average(alpha, decimals):
    generator, risks = np.random.default_rng(1), []
    for _ in range(300):
        scores, dice = simulated(generator, 340)
        scores = scores.round(decimals)
        rule = fitted(scores[:40], dice[:40], alpha=alpha)
        risks.append(np.mean((dice[40:] < 0.7) & ~rule.flags(scores[40:])))
    assert np.mean(risks) <= alpha + 3 * np.std(risks) / np.sqrt(300)
    if decimals == 8:
        assert np.mean(risks) >= alpha - 1 / 41 - 3 * np.std(risks) / np.sqrt(300)


def test_the_risk_is_at_most_alpha_where_patients_come_with_many_alike_cases():
    generator, risks = np.random.default_rng(2), []
    for _ in range(300):
        groups = np.repeat(np.arange(80), generator.integers(1, 5, size=80))
        scores, dice = simulated(generator, 80)
        scores, dice = scores[groups], dice[groups]
        known = groups < 40
        rule = fitted(scores[known], dice[known], groups=groups[known])
        loss = (dice[~known] < 0.7) & ~rule.flags(scores[~known])
        weights = 1 / np.bincount(groups)[groups[~known]] / 40
        risks.append(float(weights @ loss))
    assert np.mean(risks) <= 0.1 + 3 * np.std(risks) / np.sqrt(300)


def test_few_cases_with_one_poor_one_closed_form():
    # 9 cases, alpha 0.1: (0 + 1) / 10 <= 0.1 allows no miss; 0.2 allows one
    scores = np.arange(9) / 10
    dice = np.where(np.arange(9) == 4, 0.5, 0.9)
    strict = fitted(scores, dice, alpha=0.1)
    assert strict.threshold == 0.5
    assert strict.workload == pytest.approx(5 / 9)
    assert strict.poor == pytest.approx(1 / 9)
    mild = fitted(scores, dice, alpha=0.2)
    assert mild.threshold == 0.0
    assert mild.workload == 0


@given(st.integers(0, 50))
def test_a_score_and_its_negative_flag_the_same_cases(seed):
    scores, dice = simulated(np.random.default_rng(seed), 40)
    one = fitted(scores, dice)
    other = fitted(-scores, dice, higher_is_better=False)
    assert (one.flags(scores) == other.flags(-scores)).all()
    assert one.workload == other.workload


@given(st.integers(0, 50))
def test_the_curve_holds_the_chosen_point_and_costs_less_work_for_more_risk(seed):
    scores, dice = simulated(np.random.default_rng(seed), 40)
    rule = fitted(scores, dice)
    alphas = [point.alpha for point in rule.curve]
    workloads = [point.workload for point in rule.curve]
    assert alphas == sorted(set(alphas))
    assert workloads == sorted(workloads, reverse=True)
    affordable = [point for point in rule.curve if point.alpha <= rule.alpha + 1e-9]
    assert affordable[-1].threshold == rule.threshold
    assert affordable[-1].workload == rule.workload


def test_workload_and_poor_are_shares_of_cases_though_patients_count_equally_in_the_risk():
    # 20 patients with one good case each, 4 with 20 poor ones each
    groups = np.concatenate([np.arange(20), np.repeat(np.arange(20, 24), 20)])
    is_poor = groups >= 20
    scores = np.where(is_poor, 0.4, 0.9) + np.arange(100) / 2000
    rule = fitted(scores, np.where(is_poor, 0.5, 0.9), alpha=0.05, groups=groups)
    # (24 R + 1) / 25 <= 0.05: a quarter of a patient, 5 of 20 cases, may be missed
    assert rule.flags(scores).mean() == 0.75
    assert rule.workload == 0.75
    assert rule.poor == 0.8
    assert rule.curve[-1].workload == 0
    assert max(point.workload for point in rule.curve) >= 0.79


def test_undefined_scores_are_always_flagged_and_so_never_missed():
    scores = np.append(np.arange(20) / 20, [np.nan] * 5)
    dice = np.append(np.full(20, 0.9), np.zeros(5))
    rule = fitted(scores, dice)
    assert rule.flags(scores)[20:].all()
    assert rule.workload == pytest.approx(5 / 25)
    assert rule.flag(float("nan"))


def test_where_nothing_else_is_safe_every_case_is_flagged():
    scores, dice = np.arange(9) / 10, np.full(9, 0.1)
    rule = fitted(scores, dice)
    assert rule.threshold is None
    assert rule.workload == 1
    assert rule.flags(np.array([0.0, 99.0])).all()


def test_too_few_cases_say_how_many_are_needed():
    with pytest.raises(InputError, match="needs at least 99 labelled cases"):
        fitted(np.arange(30), np.ones(30), alpha=0.01)


@pytest.mark.parametrize("scores", [np.ones(30), np.full(30, np.nan)], ids=["constant", "nan"])
def test_a_score_that_tells_nothing_is_refused_by_name(scores):
    with pytest.raises(InputError, match=r"my_score has \d different values in 30 labelled cases"):
        fitted(scores, np.ones(30), score="my_score")


def test_a_tolerance_that_is_no_dice_is_refused():
    with pytest.raises(SettingError, match="tolerated Dice between 0 and 1, got 80"):
        fitted(np.arange(30), np.ones(30), tolerance=80)


RULE = FlagRule("predicted_dice", True, 0.8, 0.7, 0.05, 0.2, 0.1, 40, 40, ())


def test_a_case_is_empty_before_it_is_an_outlier_before_it_is_to_review():
    def decide(dice, *, is_empty=False, quantile=None):
        return decide_case(
            {"predicted_dice": dice}, rule=RULE, is_empty=is_empty, outlier_quantile=quantile
        )

    assert decide(0.9).flag == "ok"
    assert decide(0.9).reason == ""
    assert decide(0.9, quantile=0.5).flag == "ok"
    assert decide(0.9, quantile=0.97).flag == "out_of_distribution"
    both = decide(0.75, quantile=0.97)
    assert both.flag == "out_of_distribution"
    assert "97.0% of the known cases; predicted_dice 0.75 lies below 0.8" in both.reason
    assert decide(0.75).flag == "review"
    assert decide(float("nan")).reason == "predicted_dice is undefined"
    assert decide(float("nan"), is_empty=True).flag == "empty"


def test_a_case_without_the_score_of_the_rule_is_refused():
    with pytest.raises(InputError, match="looks at predicted_dice, which the case does not have"):
        decide_case({"aula": 3.0}, rule=RULE, is_empty=False)


def test_an_empty_segmentation_needs_no_score_and_says_no_other_reason():
    assert decide_case({}, rule=RULE, is_empty=True).reason == "the segmentation is empty"
    both = decide_case({}, rule=RULE, is_empty=True, outlier_quantile=0.99)
    assert both.flag == "empty"
    assert "further out than 99.0%" in both.reason


@pytest.mark.parametrize(("settings", "edge"), [({}, 0.95), ({"outlier_alpha": 0.25}, 0.75)])
def test_a_case_further_out_than_all_but_alpha_of_the_known_is_an_outlier(settings, edge):
    for quantile, expected in ((edge, "out_of_distribution"), (edge - 1e-3, "ok"), (None, "ok")):
        said = decide_case({}, rule=None, is_empty=False, outlier_quantile=quantile, **settings)
        assert said.flag == expected
    nothing_known = decide_case({}, rule=None, is_empty=False, outlier_quantile=float("nan"))
    assert nothing_known.flag == "ok"


def test_a_score_at_the_threshold_passes_in_both_directions():
    assert RULE.flags(np.array([0.79, 0.8, 0.81])).tolist() == [True, False, False]
    uncertainty = replace(RULE, score="entropy", higher_is_better=False)
    assert uncertainty.flags(np.array([0.79, 0.8, 0.81])).tolist() == [False, False, True]
    said = decide_case({"entropy": 0.81}, rule=uncertainty, is_empty=False)
    assert said.reason == "entropy 0.81 lies above 0.8"


def test_a_dice_that_equals_the_tolerance_is_not_poor():
    scores, dice = np.arange(9) / 10, np.full(9, 0.7)
    rule = fitted(scores, dice, tolerance=0.7)
    assert (rule.poor, rule.workload) == (0, 0)
    assert fitted(scores, dice, tolerance=1.0).poor == 1
    with pytest.raises(SettingError, match=r"tolerated Dice between 0 and 1, got 0"):
        fitted(scores, dice, tolerance=0)


def test_nothing_found_where_nothing_is_is_never_poor():
    scores, dice = np.arange(9) / 10, np.full(9, np.nan)
    rule = fitted(scores, dice)
    assert (rule.poor, rule.workload) == (0, 0)


def test_the_numbers_of_cases_and_of_patients_are_kept():
    rule = fitted(np.arange(20) / 20, np.full(20, 0.9), groups=np.arange(20) // 2)
    assert (rule.num_cases, rule.num_groups) == (20, 10)


def test_an_infinite_score_is_no_threshold():
    scores = np.append(np.arange(8) / 10, np.inf)
    rule = fitted(scores, np.append(np.full(8, 0.1), 0.9))
    assert rule.threshold is None
    assert rule.workload == rule.flags(scores).mean() == 1


def test_a_quantile_that_equals_the_level_but_for_rounding_is_an_outlier():
    assert 1 - 0.18 > 41 / 50
    decision = decide_case(
        {}, rule=None, is_empty=False, outlier_quantile=41 / 50, outlier_alpha=0.18
    )
    assert decision.flag == "out_of_distribution"
