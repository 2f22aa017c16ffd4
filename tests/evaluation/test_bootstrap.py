"""Bootstrap: the vectorised figures equal one sample at a time; intervals and p-values behave."""

import numpy as np
import pytest
from scipy import stats

from nnunetv2_le.errors import InputError
from nnunetv2_le.evaluation import failure_detection as fd
from nnunetv2_le.evaluation.bootstrap import (
    draw_counts,
    failure_detection_draws,
    paired_difference,
    percentile_interval,
)


@pytest.mark.parametrize("has_ties", [True, False])
@pytest.mark.parametrize("patients", [None, [str(number // 3) for number in range(25)]])
def test_draws_equal_the_figures_of_each_sample(has_ties, patients):
    rng = np.random.default_rng(0)
    risks = rng.integers(0, 6, 25) / 5
    confidences = rng.integers(0, 5, 25).astype(float) if has_ties else rng.random(25)
    counts = draw_counts(25, num_draws=30, seed=1, patients=patients)
    draws = failure_detection_draws(risks, confidences, counts)
    for i, count in enumerate(counts):
        sample = np.repeat(np.arange(25), count)
        r, c = risks[sample], confidences[sample]
        assert draws["aurc"][i] == pytest.approx(fd.aurc(r, c))
        assert draws["excess_aurc"][i] == pytest.approx(fd.excess_aurc(r, c))
        assert draws["augrc"][i] == pytest.approx(fd.augrc(r, c))


def test_every_sample_draws_as_many_cases_as_there_are():
    assert (draw_counts(7, num_draws=50).sum(axis=1) == 7).all()


def test_cases_of_a_patient_are_drawn_together():
    counts = draw_counts(6, num_draws=20, patients=["a", "a", "b", "c", "c", "c"])
    assert (counts[:, 0] == counts[:, 1]).all()
    assert (counts[:, 3] == counts[:, 5]).all()
    assert (counts[:, [0, 2, 3]].sum(axis=1) == 3).all()


@pytest.mark.parametrize("confidences", [np.arange(8.0), np.zeros(8)])
def test_one_patient_has_no_interval_and_no_p_value(confidences):
    risks = np.random.default_rng(0).random(8)
    counts = draw_counts(8, patients=["the only one"] * 8)
    draws, others = (failure_detection_draws(risks, c, counts) for c in (confidences, -risks))
    for name, values in draws.items():
        assert np.isnan(percentile_interval(values).low)
        compared = paired_difference(0.3, 0.2, draws_a=values, draws_b=others[name])
        assert np.isnan(compared.p_value)
    assert len(draw_counts(1)) == len(draw_counts(0)) == 0


def test_same_seed_same_draws():
    assert (draw_counts(5, seed=3) == draw_counts(5, seed=3)).all()


def test_interval_equals_scipy_bootstrap_of_a_mean():
    values = np.random.default_rng(0).random(50)
    counts = draw_counts(50, num_draws=4000, seed=0)
    mine = percentile_interval((counts @ values) / 50)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", rng=1).confidence_interval
    assert mine.low == pytest.approx(theirs.low, abs=0.01)
    assert mine.high == pytest.approx(theirs.high, abs=0.01)


def test_interval_of_undefined_draws_is_undefined():
    assert np.isnan(percentile_interval(np.array([np.nan, 1.0, np.nan])).low)


def test_equal_methods_do_not_differ():
    draws = np.random.default_rng(0).random(100)
    result = paired_difference(0.5, 0.5, draws_a=draws, draws_b=draws)
    assert (result.difference, result.p_value) == (0, 1)


def test_a_method_that_always_wins_has_the_smallest_p_value():
    draws = np.random.default_rng(0).random(99)
    result = paired_difference(0.6, 0.5, draws_a=draws + 0.1, draws_b=draws)
    assert result.p_value == pytest.approx(2 / 100)
    assert result.interval.low == pytest.approx(0.1)


def test_patients_must_be_named_for_every_case():
    with pytest.raises(InputError, match="for each of 3 cases, got 2"):
        draw_counts(3, patients=["a", "b"])
