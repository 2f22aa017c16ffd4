"""Correlation: SciPy on what is defined, and undefined where nothing can be said."""

import numpy as np
import pytest
from scipy import stats

from nnunetv2_le.evaluation.correlation import is_constant, pearson, spearman


def test_correlations_equal_scipy_on_the_defined_pairs():
    rng = np.random.default_rng(0)
    one, other = rng.random(20), rng.integers(0, 5, 20).astype(float)
    one[3], other[7] = np.nan, np.inf
    both = np.isfinite(one) & np.isfinite(other)
    assert spearman(one, other) == pytest.approx(stats.spearmanr(one[both], other[both])[0])
    assert pearson(one, other) == pytest.approx(np.corrcoef(one[both], other[both])[0, 1])


def test_monotone_relation_has_spearman_one():
    assert spearman(np.arange(5.0), np.exp(np.arange(5.0))) == pytest.approx(1)


@pytest.mark.parametrize("correlation", [spearman, pearson])
@pytest.mark.parametrize("scores", [np.ones(5), np.array([1.0, 2, np.nan, np.nan, np.nan])])
def test_constant_scores_and_fewer_than_three_cases_have_no_correlation(correlation, scores):
    assert np.isnan(correlation(scores, np.arange(5.0)))


def test_variation_by_rounding_alone_is_no_correlation():
    assert np.isnan(
        pearson(np.array([0.1, 0.1, 0.1 + 2e-17, 0.30000000000000004 - 0.2]), np.arange(4.0))
    )


def test_constant_means_all_defined_values_are_equal():
    assert is_constant(np.array([1.0, np.nan, 1.0]))
    assert not is_constant(np.array([1.0, 2.0]))
    assert not is_constant(np.array([np.nan]))


@pytest.mark.parametrize("correlation", [spearman, pearson])
def test_three_cases_have_a_correlation(correlation):
    assert correlation(np.array([1.0, 2, 3]), np.array([0.0, 2, 4])) == pytest.approx(1)
