"""Failure detection: closed forms, brute force over tie orders, plain definitions, libraries."""

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu
from sklearn.metrics import auc

from nnunetv2_le.errors import InputError
from nnunetv2_le.evaluation import failure_detection as fd

RISKS = st.lists(st.floats(0, 1, allow_subnormal=False), min_size=2, max_size=12)


def plain_curve(ordered_risks):
    return [np.mean(ordered_risks[:k]) for k in range(1, len(ordered_risks) + 1)]


def plain_aurc(ordered_risks):
    curve = plain_curve(ordered_risks)
    return sum((a + b) / 2 for a, b in pairwise(curve)) / len(curve)


def plain_augrc(ordered_risks):
    n = len(ordered_risks)
    curve = [sum(ordered_risks[:k]) / n for k in range(n + 1)]
    return sum((a + b) / 2 for a, b in pairwise(curve)) / n


def orders_of(confidences):
    return [
        order
        for order in permutations(range(len(confidences)))
        if all(confidences[a] >= confidences[b] for a, b in pairwise(order))
    ]


def test_aurc_closed_form_of_three_cases():
    # R = 0, 1/4, 1/2; trapezoid (0 + 1/4)/2 + (1/4 + 1/2)/2 over steps of 1/3
    risks, confidences = np.array([0.0, 0.5, 1.0]), np.array([3.0, 2.0, 1.0])
    assert fd.aurc(risks, confidences) == pytest.approx((0.125 + 0.375) / 3)
    assert fd.optimal_aurc(risks) == pytest.approx(fd.aurc(risks, confidences))
    assert fd.excess_aurc(risks, confidences) == pytest.approx(0)
    assert fd.normalized_aurc(risks, confidences) == pytest.approx(1)


@given(RISKS)
def test_without_ties_areas_equal_the_plain_definition(risks):
    risks = np.array(risks)
    confidences = -np.arange(len(risks), dtype=float)
    curve = fd.risk_coverage_curve(risks, confidences)
    assert curve.selective_risks == pytest.approx(plain_curve(risks), abs=1e-12)
    assert curve.coverages[-1] == 1
    assert fd.aurc(risks, confidences) == pytest.approx(plain_aurc(list(risks)), abs=1e-12)
    assert fd.aurc(risks, confidences) == pytest.approx(
        auc(curve.coverages, curve.selective_risks), abs=1e-12
    )
    assert fd.augrc(risks, confidences) == pytest.approx(plain_augrc(list(risks)), abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 2)), min_size=2, max_size=7))
def test_ties_equal_the_mean_over_all_orders_of_tied_cases(cases):
    risks = np.array([risk for risk, _ in cases])
    confidences = np.array([float(confidence) for _, confidence in cases])
    orders = [risks[list(order)] for order in orders_of(confidences)]
    assert fd.aurc(risks, confidences) == pytest.approx(
        np.mean([plain_aurc(list(order)) for order in orders]), abs=1e-12
    )
    assert fd.augrc(risks, confidences) == pytest.approx(
        np.mean([plain_augrc(list(order)) for order in orders]), abs=1e-12
    )
    assert fd.risk_coverage_curve(risks, confidences).selective_risks == pytest.approx(
        np.mean([plain_curve(order) for order in orders], axis=0), abs=1e-12
    )


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3)), min_size=2, max_size=20), st.data())
def test_areas_do_not_depend_on_the_order_of_rows(cases, data):
    shuffled = data.draw(st.permutations(cases))
    values = []
    for rows in (cases, shuffled):
        risks, confidences = np.array(rows, dtype=float).T
        values.append((fd.aurc(risks, confidences), fd.augrc(risks, confidences)))
    assert values[0] == pytest.approx(values[1], abs=1e-12)


@given(RISKS, st.data())
def test_no_score_is_better_than_the_optimum_or_worse_than_its_reverse(risks, data):
    risks = np.array(risks)
    confidences = np.array(
        data.draw(st.lists(st.floats(-5, 5), min_size=len(risks), max_size=len(risks)))
    )
    value = fd.aurc(risks, confidences)
    assert fd.optimal_aurc(risks) - 1e-12 <= value <= fd.aurc(risks, risks) + 1e-12
    assert fd.excess_aurc(risks, confidences) >= -1e-12


def test_constant_score_gives_the_mean_over_all_orders_and_zero_one_reference():
    risks = np.array([0.1, 0.2, 0.6])
    constant = np.ones(3)
    assert fd.aurc(risks, constant) == pytest.approx(0.3 * 2 / 3)
    assert fd.augrc(risks, constant) == pytest.approx(0.3 / 2)
    assert fd.random_aurc(risks) == pytest.approx(0.3)


def test_perfect_augrc_of_binary_risks_is_half_the_squared_error_rate():
    risks = np.array([0.0] * 8 + [1.0] * 2)
    assert fd.augrc(risks, -risks) == pytest.approx(0.2**2 / 2)


def test_normalised_aurc_is_undefined_where_all_risks_are_equal():
    assert np.isnan(fd.normalized_aurc(np.full(4, 0.2), np.arange(4.0)))


def test_single_case_has_no_area():
    assert np.isnan(fd.aurc(np.array([0.3]), np.array([1.0])))


def test_grouped_areas_of_many_samples_equal_one_by_one():
    rng = np.random.default_rng(0)
    risks, confidences = rng.random(15), rng.integers(0, 4, 15).astype(float)
    picks = rng.integers(0, 15, (20, 15))
    sums, counts = np.zeros((20, 4)), np.zeros((20, 4))
    for row, pick in enumerate(picks):
        for case in pick:
            column = int(3 - confidences[case])
            sums[row, column] += risks[case]
            counts[row, column] += 1
    assert fd.grouped_aurc(sums, counts) == pytest.approx(
        [fd.aurc(risks[pick], confidences[pick]) for pick in picks]
    )
    assert fd.grouped_augrc(sums, counts) == pytest.approx(
        [fd.augrc(risks[pick], confidences[pick]) for pick in picks]
    )


def test_failure_auroc_is_the_mann_whitney_statistic():
    rng = np.random.default_rng(1)
    failures, confidences = rng.random(30) < 0.3, rng.integers(0, 6, 30).astype(float)
    good, bad = confidences[~failures], confidences[failures]
    statistic = mannwhitneyu(good, bad).statistic
    assert fd.failure_auroc(failures, confidences) == pytest.approx(
        statistic / len(good) / len(bad)
    )


def test_failure_average_precision_is_one_when_failures_come_first():
    failures = np.array([True, False, True, False])
    assert fd.failure_average_precision(failures, np.array([0.1, 0.8, 0.2, 0.9])) == 1


@pytest.mark.parametrize("failures", [np.zeros(3, bool), np.ones(3, bool)])
def test_failure_figures_are_undefined_with_one_kind_of_case(failures):
    assert np.isnan(fd.failure_auroc(failures, np.arange(3.0)))
    assert np.isnan(fd.failure_average_precision(failures, np.arange(3.0)))


def test_nan_is_refused_with_its_count():
    with pytest.raises(InputError, match="got 1 of 3 cases with NaN"):
        fd.aurc(np.array([0.1, np.nan, 0.3]), np.arange(3.0))


def test_lengths_must_agree():
    with pytest.raises(InputError, match=r"got shapes \(3,\) and \(2,\)"):
        fd.aurc(np.zeros(3), np.zeros(2))
