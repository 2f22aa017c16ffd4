"""Figures of a score: SciPy, the plain functions, and the direction of the score."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from nnunetv2_le.evaluation import failure_detection as fd
from nnunetv2_le.evaluation.confidence_tables import ConfidenceTables, Score, ranked_confidences
from nnunetv2_le.evaluation.method import MethodSettings, joined, score_row, score_table

AGREEMENT = Score("agreement", "higher_is_better")
UNCERTAINTY = Score("uncertainty", "higher_is_worse")
SETTINGS = MethodSettings(dice_thresholds=(0.6,), num_draws=200)


def made_up(count=30):
    rng = np.random.default_rng(0)
    dice = rng.random(count)
    agreement = dice + rng.normal(size=count) * 0.2
    return pd.DataFrame(
        {
            "dice": dice,
            "modified_hausdorff_mm": 1 - dice + rng.random(count),
            "agreement": agreement,
            "uncertainty": -agreement,
        },
        index=[f"c{n}" for n in range(count)],
    )


def test_figures_equal_the_functions_on_arrays():
    cases = made_up()
    row = score_row(cases, AGREEMENT, settings=SETTINGS)
    dice, score = cases["dice"].to_numpy(), cases["agreement"].to_numpy()
    assert row["spearman_dice"] == pytest.approx(stats.spearmanr(score, dice).statistic)
    assert row["pearson_dice"] == pytest.approx(stats.pearsonr(score, dice).statistic)
    mhd = cases["modified_hausdorff_mm"].to_numpy()
    assert row["spearman_mhd"] == pytest.approx(stats.spearmanr(score, mhd).statistic)
    assert row["spearman_risk"] == pytest.approx(stats.spearmanr(score, 1 - dice).statistic)
    assert row["aurc"] == pytest.approx(fd.aurc(1 - dice, score))
    assert row["augrc"] == pytest.approx(fd.augrc(1 - dice, score))
    assert row["auroc_dice_below_0.6"] == pytest.approx(roc_auc_score(dice < 0.6, -score))
    assert row["aurc_low"] < row["aurc"] < row["aurc_high"]


def test_references_of_the_areas_are_those_of_the_best_and_of_a_random_order():
    cases = made_up()
    row = score_row(cases, AGREEMENT, settings=SETTINGS)
    risks = 1 - cases["dice"].to_numpy()
    assert row["augrc_optimal"] == pytest.approx(fd.augrc(risks, -risks))
    assert row["augrc_random"] == pytest.approx(risks.mean() / 2)
    assert row["aurc_random"] == pytest.approx(risks.mean())
    assert row["augrc_optimal"] < row["augrc"] < row["augrc_random"]
    score, mhd = cases["agreement"], cases["modified_hausdorff_mm"]
    assert row["pearson_mhd"] == pytest.approx(stats.pearsonr(score, mhd).statistic)
    assert row["pearson_risk"] == pytest.approx(stats.pearsonr(score, risks).statistic)


def test_dice_at_a_threshold_is_no_failure():
    cases = made_up().assign(dice=np.linspace(0.1, 3.0, 30).round(1))
    row = score_row(cases, AGREEMENT, settings=SETTINGS)
    assert row["failures_dice_below_0.6"] == 5


def test_the_seed_decides_the_draws():
    rows = [
        score_row(made_up(), AGREEMENT, settings=MethodSettings(num_draws=50, seed=seed))
        for seed in (0, 0, 1)
    ]
    assert rows[0]["aurc_low"] == rows[1]["aurc_low"] != rows[2]["aurc_low"]


def test_cases_of_a_patient_are_drawn_together():
    cases = made_up().assign(patient=np.repeat(["p", "q", "r"], 10))
    drawn, alone = (
        score_row(cases, AGREEMENT, settings=MethodSettings(num_draws=200, patient_column=column))
        for column in ("patient", None)
    )
    means = [1 - rows["dice"].mean() for _, rows in cases.groupby("patient")]
    assert drawn["aurc"] == alone["aurc"]
    assert drawn["aurc_low"] != alone["aurc_low"]
    assert drawn["aurc_high"] < 2 * max(means)


def test_domains_come_by_name_and_a_table_of_labels_has_its_own_scores():
    cases = made_up().assign(site=np.tile(["b", "a"], 15))
    labels = pd.concat([made_up().drop(columns="uncertainty").assign(label_name="front")])
    settings = MethodSettings(dice_thresholds=(), num_draws=0, domain_column="site")
    table, problems = score_table(cases, labels, scores=[AGREEMENT, UNCERTAINTY], settings=settings)
    assert list(dict.fromkeys(table["subset"])) == ["all", "site=a", "site=b", "label=front"]
    assert list(table[table["subset"] == "label=front"]["score"]) == ["agreement"]
    assert not problems


def test_three_cases_are_enough_and_a_subset_of_two_is_said_once():
    settings = MethodSettings(dice_thresholds=(), num_draws=0)
    scores = [AGREEMENT, UNCERTAINTY]
    _, problems = score_table(made_up(3), pd.DataFrame(), scores=scores, settings=settings)
    assert not problems
    _, problems = score_table(made_up(2), pd.DataFrame(), scores=scores, settings=settings)
    assert [problem.problem for problem in problems] == [
        "2 scores over all: 2 cases have Dice, 3 are needed"
    ]


def test_scores_undefined_in_some_cases_are_named_of_all_cases_alone():
    cases = made_up().assign(site=np.tile(["b", "a"], 15))
    cases.loc["c1", "agreement"] = np.nan
    settings = MethodSettings(dice_thresholds=(), num_draws=0, domain_column="site")
    _, problems = score_table(cases, pd.DataFrame(), scores=[AGREEMENT], settings=settings)
    assert [problem.problem for problem in problems] == [
        "score agreement over all: undefined in 1 cases (c1), which are left out"
    ]


def test_figures_of_cases_without_scores_are_kept_and_scores_of_other_cases_dropped():
    figures = pd.DataFrame({"dice": [0.1, 0.2]}, index=["a", "b"])
    scores = pd.DataFrame({"dice": [0.5, 0.6], "agreement": [1.0, 2.0]}, index=["b", "c"])
    table, problems = joined(figures, ConfidenceTables((AGREEMENT,), scores))
    assert list(table.index) == ["a", "b"]
    assert list(table["dice"]) == [0.1, 0.2]
    assert table.loc["b", "dice_predicted"] == 0.5
    assert np.isnan(table.loc["a", "agreement"])
    assert [problem.case for problem in problems] == ["a"]


def test_direction_turns_the_areas_but_not_the_correlations():
    cases = made_up()
    better = score_row(cases, AGREEMENT, settings=SETTINGS)
    worse = score_row(cases, UNCERTAINTY, settings=SETTINGS)
    assert worse["spearman_dice"] == pytest.approx(-better["spearman_dice"])
    for name in ("aurc", "excess_aurc", "augrc", "auroc_dice_below_0.6", "aurc_low"):
        assert worse[name] == pytest.approx(better[name])


@pytest.mark.parametrize("dice", [0.2, 0.9])
def test_a_threshold_that_every_case_or_none_is_below_has_no_figure(dice):
    row = score_row(made_up().assign(dice=dice), AGREEMENT, settings=SETTINGS)
    figures = {name: row[name] for name in row if name.endswith("dice_below_0.6")}
    assert figures.pop("failures_dice_below_0.6") == (30 if dice < 0.6 else 0)
    assert len(figures) == 6
    assert all(np.isnan(value) for value in figures.values())


def test_undefined_values_are_left_out_and_counted():
    cases = made_up()
    cases.loc["c1", "agreement"] = np.nan
    cases.loc["c2", "dice"] = np.nan
    row = score_row(cases, AGREEMENT, settings=SETTINGS)
    assert (row["num_cases"], row["num_without_score"], row["num_without_dice"]) == (28, 1, 1)
    expected = score_row(cases.drop(["c1", "c2"]), AGREEMENT, settings=SETTINGS)
    assert row["aurc"] == pytest.approx(expected["aurc"])


def test_an_empty_prediction_is_ranked_behind_every_case_with_a_score():
    cases = made_up().assign(empty_prediction=False)
    cases.loc[["c1", "c2"], "empty_prediction"] = True
    cases.loc[["c1", "c2"], "agreement"] = np.nan
    cases.loc[["c1", "c2"], "dice"] = 0.0
    row = score_row(cases, AGREEMENT, settings=SETTINGS)
    last = cases.assign(agreement=cases["agreement"].fillna(-100.0))
    expected = score_row(last, AGREEMENT, settings=SETTINGS)
    assert (row["num_cases"], row["num_without_score"], row["num_empty_ranked_last"]) == (30, 0, 2)
    for name in ("aurc", "augrc", "aurc_low", "auroc_dice_below_0.6"):
        assert row[name] == pytest.approx(expected[name])


def test_a_case_without_a_segmented_voxel_is_ranked_behind_every_case_with_a_score():
    cases = made_up().assign(empty_prediction=False, volume_ml=1.0)
    cases.loc["c1", ["agreement", "dice", "volume_ml"]] = np.nan, 0.0, 0.0
    row = score_row(cases, AGREEMENT, settings=SETTINGS)
    assert (row["num_without_score"], row["num_empty_ranked_last"]) == (0, 1)


def test_an_empty_prediction_is_behind_scores_of_any_size():
    cases = made_up().assign(empty_prediction=False)
    cases["agreement"] = cases["agreement"] * 1e17 + 5e17
    cases.loc["c1", ["agreement", "empty_prediction"]] = np.nan, True
    ranked = ranked_confidences(cases, AGREEMENT)
    assert ranked[list(cases.index).index("c1")] < np.nanmin(cases["agreement"])


def test_failing_on_an_empty_prediction_is_not_rewarded():
    cases = made_up().assign(empty_prediction=False)
    cases.loc["c1", ["agreement", "dice"]] = np.nan, 0.0
    left_out = score_row(cases, AGREEMENT, settings=SETTINGS)
    cases.loc["c1", "empty_prediction"] = True
    ranked = score_row(cases, AGREEMENT, settings=SETTINGS)
    assert ranked["aurc"] > left_out["aurc"]


def test_correlations_leave_empty_predictions_out():
    cases = made_up().assign(empty_prediction="False")
    cases.loc["c1", ["agreement", "empty_prediction"]] = np.nan, "True"
    row = score_row(cases, AGREEMENT, settings=SETTINGS)
    expected = score_row(cases.drop("c1"), AGREEMENT, settings=SETTINGS)
    assert row["spearman_dice"] == pytest.approx(expected["spearman_dice"])


def test_score_without_any_value_has_no_figures_but_a_complaint():
    cases = made_up().assign(agreement=np.nan)
    table, problems = score_table(cases, pd.DataFrame(), scores=[AGREEMENT], settings=SETTINGS)
    assert table.loc[0, "num_cases"] == 0
    assert "aurc" not in table.columns
    assert any("0 cases have it" in problem.problem for problem in problems)


def test_without_draws_there_are_no_intervals():
    row = score_row(made_up(), AGREEMENT, settings=MethodSettings(num_draws=0))
    assert "aurc_low" not in row
    assert "aurc" in row
