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
from nnunetv2_le.evaluation.evaluate import evaluate_prediction
from nnunetv2_le.evaluation.method import MethodSettings

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
