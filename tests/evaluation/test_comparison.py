"""Comparison: SciPy's Wilcoxon test, Holm's correction, pairing by case."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from evaluation.made_up_predictions import make
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nnunetv2_le.errors import InputError
from nnunetv2_le.evaluation.comparison import (
    common_cases,
    correlation_table,
    difference_table,
    holm,
    quality_table,
    wilcoxon,
)
from nnunetv2_le.evaluation.confidence_tables import Score
from nnunetv2_le.evaluation.correlation import MIN_CASES
from nnunetv2_le.evaluation.dataset import EvaluationDataset
from nnunetv2_le.evaluation.evaluate import Evaluation, evaluate_prediction
from nnunetv2_le.evaluation.failure_detection import aurc
from nnunetv2_le.evaluation.method import MethodSettings
from nnunetv2_le.types import Labels

SETTINGS = MethodSettings(num_draws=50)


def frames(count=12):
    rng = np.random.default_rng(0)
    index = [f"c{n}" for n in range(count)]
    base = rng.random(count)
    return {
        name: pd.DataFrame(
            {"dice": base + shift, "modified_hausdorff_mm": 2 - base - shift}, index=index
        )
        for name, shift in (("A", 0.0), ("B", 0.3), ("C", 0.1))
    }


def method(seed, *scores, cases=range(9)):
    """An evaluation of made-up figures."""
    rng = np.random.default_rng(seed)
    columns = ("dice", "modified_hausdorff_mm", *scores)
    table = pd.DataFrame(rng.random((9, len(columns))), list("abcdefghi"), columns)
    dataset = EvaluationDataset(".png", Labels(("a",), (1,)), None, (0, 1), None)
    chosen = tuple(Score(name, "higher_is_better") for name in scores)
    empty = pd.DataFrame()
    return Evaluation(table.iloc[list(cases)], empty, chosen, empty, None, (), dataset)


def test_holm_closed_form():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, np.nan, 0.9]) == pytest.approx([1.0, np.nan, 1.0], nan_ok=True)


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_lies_between_the_p_values_and_bonferroni(p_values):
    for raw, corrected in zip(p_values, holm(p_values), strict=True):
        assert raw - 1e-12 <= corrected <= min(1, raw * len(p_values)) + 1e-12


def test_best_method_and_its_rivals_p_values():
    table = quality_table(frames()).set_index(["metric", "method"])
    assert table.loc[("dice", "B"), "is_best"]
    assert table.loc[("modified_hausdorff_mm", "B"), "is_best"]
    assert np.isnan(table.loc[("dice", "B"), "p_value"])
    methods = frames()
    raw = [stats.wilcoxon(methods[n]["dice"], methods["B"]["dice"]).pvalue for n in "AC"]
    assert table.loc[("dice", "A"), "p_value"] == pytest.approx(holm(raw)[0])
    assert table.loc[("dice", "A"), "std"] == pytest.approx(methods["A"]["dice"].std())


def test_figures_are_paired_by_case():
    methods = frames()
    methods["A"] = methods["A"].drop("c0").sample(frac=1, random_state=0)
    methods["C"].loc["c1", "dice"] = np.nan
    table = quality_table(methods).set_index(["metric", "method"])
    assert (table.loc["dice", "num_cases"] == 10).all()
    assert table.loc[("dice", "B"), "mean"] == pytest.approx(
        methods["B"].drop(["c0", "c1"])["dice"].mean()
    )


def test_cases_of_a_patient_are_no_evidence_of_their_own():
    """Two methods that differ by chance from patient to patient, and in 20 cases of each alike."""
    rng = np.random.default_rng(0)
    patients = np.repeat([f"p{n}" for n in range(8)], 20)
    found = {None: 0, "patient": 0}
    for _ in range(40):
        base, gain = rng.random(160), np.repeat(rng.normal(scale=0.1, size=8), 20)
        noise = rng.normal(scale=0.02, size=160)
        methods = {
            name: pd.DataFrame({"dice": base + more, "patient": patients}, map(str, range(160)))
            for name, more in (("A", 0.0), ("B", gain + noise))
        }
        for column in found:
            found[column] += (quality_table(methods, patient_column=column)["p_value"] < 0.05).sum()
    assert found[None] > 20
    assert found["patient"] < 5


def test_equal_samples_do_not_differ():
    values = np.random.default_rng(0).random(5)
    assert wilcoxon(values, values) == 1
    assert np.isnan(wilcoxon(values[:2], values[:2] + 1))


def test_methods_without_a_common_case_are_an_error():
    methods = frames()
    with pytest.raises(InputError, match=r"no case in common \(A: 12, B: 12 cases\)"):
        common_cases({"A": methods["A"], "B": methods["B"].rename(lambda name: f"x{name}")})


def test_scores_are_compared_on_the_same_draws(tmp_path):
    made = make(tmp_path, num_cases=8)
    one = evaluate_prediction(made.out, [made.references], method=SETTINGS)
    noisy = one.cases.assign(
        consensus_dice=one.cases["consensus_dice"].to_numpy()[::-1]
    )  # the reverse order: as bad as can be
    methods = {"good": one, "bad": replace(one, cases=noisy)}
    table = difference_table(methods, SETTINGS).set_index(["score", "metric"])
    row = table.loc[("consensus_dice", "aurc")]
    assert row["difference"] < 0
    assert row["high"] < 0
    assert row["p_value"] == pytest.approx(2 / 51)
    same = table.loc[("entropy_foreground_mean", "aurc")]
    assert (same["difference"], same["p_value"]) == (0, 1)
    assert table.loc[("sometimes", "aurc"), "num_cases"] == 7
    correlations = correlation_table(methods).set_index(["method", "score"])
    assert correlations.loc[("good", "consensus_dice"), "spearman_dice"] == pytest.approx(
        stats.spearmanr(one.cases["consensus_dice"], one.cases["dice"]).statistic
    )


def test_less_is_better_of_distance_and_of_nll():
    index = ["a", "b", "c"]
    methods = {
        name: pd.DataFrame({"dice": 0.5, "modified_hausdorff_mm": far, "nll": far}, index=index)
        for name, far in (("far", 2.0), ("near", 1.0))
    }
    table = quality_table(methods).set_index(["metric", "method"])
    for metric in ("modified_hausdorff_mm", "nll"):
        assert not table.loc[(metric, "far"), "is_best"]
        assert table.loc[(metric, "near"), "is_best"]


def test_correlations_are_of_the_cases_that_all_methods_have():
    whole, part = method(0, "score"), method(1, "score", cases=[6, 1, 2, 3, 8])
    part.cases.loc["c", "score"] = np.nan
    table = correlation_table({"whole": whole, "part": part}).set_index("method")
    assert list(table["num_cases"]) == [5, 4]
    shared = whole.cases.loc[list("gbcdi")]
    for column, name in (("dice", "dice"), ("modified_hausdorff_mm", "mhd")):
        expected = stats.spearmanr(shared["score"], shared[column]).statistic
        assert table.loc["whole", f"spearman_{name}"] == pytest.approx(expected)


def test_differences_are_of_the_cases_that_both_methods_have():
    whole, part = method(0, "score"), method(1, "score", cases=[6, 1, 2, 3, 8])
    table = difference_table({"whole": whole, "part": part}, SETTINGS).set_index("metric")
    figures = []
    for one in (whole, part):
        rows = one.cases.loc[list("gbcdi")]
        figures.append(aurc(1 - rows["dice"].to_numpy(), rows["score"].to_numpy()))
    assert table.loc["aurc", "difference"] == pytest.approx(figures[0] - figures[1])
    assert (table["num_cases"] == 5).all()


def test_a_score_that_one_method_lacks_or_has_in_the_other_direction_is_not_compared():
    one, other = method(0, "one", "both"), method(1, "one", "both", "other")
    turned = (Score("one", "higher_is_worse"), *other.scores[1:])
    methods = {"A": one, "B": replace(other, scores=turned)}
    assert set(difference_table(methods, SETTINGS)["score"]) == {"both"}


def test_three_cases_are_compared_and_two_or_no_draws_are_not():
    for count, rows in ((MIN_CASES, 3), (MIN_CASES - 1, 0)):
        methods = {str(seed): method(seed, "score", cases=range(count)) for seed in (0, 1)}
        assert len(difference_table(methods, SETTINGS)) == rows
        assert not len(difference_table(methods, MethodSettings(num_draws=0)))


def test_holm_corrects_over_pairs_of_methods_for_each_score_by_itself():
    methods = {name: method(seed, "one", "other") for seed, name in enumerate("ABC")}
    corrected = difference_table(methods, SETTINGS)
    pairs = [
        difference_table({a: methods[a], b: methods[b]}, SETTINGS) for a, b in ("AB", "AC", "BC")
    ]
    raw = pd.concat(pairs)
    for (score, metric), rows in corrected.groupby(["score", "metric"]):
        alone = raw[(raw["score"] == score) & (raw["metric"] == metric)]
        assert list(rows["p_value"]) == pytest.approx(holm(list(alone["p_value"])))


def test_correlations_count_the_cases_that_have_score_and_dice():
    one = method(0, "score")
    one.cases.loc[["a", "b"], "dice"] = np.nan
    one.cases.loc["c", "score"] = np.nan
    (row,) = correlation_table({"A": one}).to_dict("records")
    assert row["num_cases"] == 6
