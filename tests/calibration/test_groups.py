"""Patients as the unit: folds, weights, means, and what is clear, against SciPy and pandas."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from nnunetv2_le.calibration.groups import group_folds, group_means, group_weights, is_clear
from nnunetv2_le.errors import InputError


def test_folds_hold_out_every_patient_once_and_whole():
    groups = np.random.default_rng(0).integers(0, 13, size=60)
    seen = []
    for training, held_out in group_folds(groups, 5):
        assert not set(groups[training]) & set(groups[held_out])
        seen += held_out.tolist()
    assert sorted(seen) == list(range(60))


def test_one_patient_cannot_be_cross_validated():
    with pytest.raises(
        InputError, match="at least 2 labelled patients for cross-validation, got 1"
    ):
        list(group_folds(np.zeros(5, dtype=int), 5))


def test_two_patients_are_two_folds():
    folds = [(a.tolist(), b.tolist()) for a, b in group_folds(np.array([4, 7, 4]), 5)]
    assert sorted(folds) == [([0, 2], [1]), ([1], [0, 2])]


def test_folds_are_drawn_and_the_same_seed_draws_the_same() -> None:
    groups = np.arange(40)

    def held_out(**seed: int) -> list[list[int]]:
        return [kept.tolist() for _, kept in group_folds(groups, 5, **seed)]

    assert held_out() == held_out(seed=0)
    assert held_out() != held_out(seed=1)
    assert held_out()[0] != list(range(8))


def test_weights_are_equal_for_patients_and_equal_within_one() -> None:
    weights = group_weights(np.array([7, 2, 7, 7, 5, 5]))
    assert weights == pytest.approx(np.array([2, 6, 2, 2, 3, 3]) / 18)


def test_every_group_has_the_mean_of_its_cases():
    generator = np.random.default_rng(0)
    values, groups = generator.normal(size=50), generator.choice([0, 2, 3, 9], size=50)
    expected = pd.Series(values).groupby(groups).mean()
    assert group_means(values, groups) == pytest.approx(expected.to_numpy())


def test_a_gain_is_clear_from_so_many_of_its_standard_errors_on():
    gains = np.random.default_rng(0).normal(0.3, 1.0, size=40)
    errors = stats.ttest_1samp(gains, 0.0).statistic  # the mean over its standard error
    assert is_clear(gains, errors - 1e-6)
    assert not is_clear(gains, errors + 1e-6)
    assert not is_clear(-gains, 0.0)


def test_equal_choices_and_a_single_gain_are_never_clear():
    assert not is_clear(np.zeros(5), 1.0)
    assert not is_clear(np.array([0.4]), 0.0)
