"""Conformal quantiles and controlled risk: closed forms, crepes, coverage by simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunetv2_le.calibration.conformal import (
    cases_needed,
    conformal_quantile,
    controlled_threshold,
    require_enough,
)
from nnunetv2_le.errors import InputError, SettingError


@given(st.integers(1, 60), st.floats(0.02, 0.9), st.integers(0, 99))
def test_without_groups_the_quantile_is_the_usual_order_statistic(number, alpha, seed):
    values = np.random.default_rng(seed).normal(size=number)
    rank = int(np.ceil((number + 1) * (1 - alpha) - 1e-9))
    if rank > number:
        with pytest.raises(InputError, match="needs at least"):
            conformal_quantile(values, alpha, groups=np.arange(number))
        return
    found = conformal_quantile(values, alpha, groups=np.arange(number))
    assert found == np.sort(values)[rank - 1]


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.9, 0.95])
def test_the_quantile_equals_that_of_crepes(confidence):
    crepes = pytest.importorskip("crepes")
    residuals = np.abs(np.random.default_rng(3).normal(size=77))
    regressor = crepes.ConformalRegressor().fit(residuals)
    interval = regressor.predict_int(np.zeros(1), confidence=confidence)
    found = conformal_quantile(residuals, 1 - confidence, groups=np.arange(77))
    assert found == pytest.approx(interval[0, 1], abs=1e-12)


def test_a_patient_with_many_cases_weighs_as_much_as_one_with_one():
    groups = np.array([0, 0, 0, 0, 1, 2])
    # one half of the weight of four patients (the new one is infinite) must be covered: 2 patients
    values = np.array([1.0, 1.0, 1.0, 1.0, 2.0, 3.0])
    assert conformal_quantile(values, 0.5, groups=groups) == 2.0


def test_the_quantile_covers_a_case_of_a_new_patient():
    generator = np.random.default_rng(0)
    misses = []
    for _ in range(600):
        sizes = generator.integers(1, 6, size=31)
        groups = np.repeat(np.arange(31), sizes)
        values = generator.normal(size=31)[groups] + 0.3 * generator.normal(size=len(groups))
        known = groups < 30
        bound = conformal_quantile(values[known], 0.2, groups=groups[known])
        misses.append(np.mean(values[~known] > bound))
    assert np.mean(misses) <= 0.2 + 3 * np.std(misses) / np.sqrt(600)
    assert np.mean(misses) >= 0.1  # and is not merely wide


@given(st.integers(1, 40), st.floats(0.03, 0.97))
def test_cases_needed_is_the_fewest_that_the_level_allows(number, alpha):
    values = np.zeros(number)
    if number >= cases_needed(alpha):
        assert conformal_quantile(values, alpha, groups=np.arange(number)) == 0
    else:
        with pytest.raises(InputError, match=f"at least {cases_needed(alpha)} labelled cases"):
            conformal_quantile(values, alpha, groups=np.arange(number))


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, float("nan"), 1e-310])
def test_an_alpha_outside_0_to_1_is_refused(alpha):
    with pytest.raises(SettingError, match="alpha between 0 and 1"):
        conformal_quantile(np.zeros(5), alpha, groups=np.arange(5))


def test_the_threshold_is_the_mildest_that_obeys_the_equation():
    # 9 cases, losses 4/9, 1/9, 0: bounds (9 R + 1) / 10 = 0.5, 0.2, 0.1
    losses = np.zeros((9, 3))
    losses[:4, 0] = losses[:1, 1] = 1
    groups = np.arange(9)
    assert controlled_threshold(losses, 0.5, groups=groups) == 0
    assert controlled_threshold(losses, 0.49, groups=groups) == 1
    assert controlled_threshold(losses, 0.1, groups=groups) == 2


def test_a_threshold_that_so_few_cases_cannot_support_is_refused_instead_of_the_mildest():
    with pytest.raises(InputError, match=r"a flag at alpha .* needs at least 9 labelled"):
        controlled_threshold(np.zeros((8, 2)), 0.1, groups=np.arange(8), purpose="a flag")


def test_an_alpha_that_a_refusal_names_is_accepted():
    for number in range(9, 300):
        with pytest.raises(InputError, match="accept an alpha of at least") as refused:
            require_enough(number, 0.001, purpose="a flag")
        named = float(str(refused.value).split()[-1])
        require_enough(number, named, purpose="a flag")
        assert named < 1 / (number + 1) + 1e-4
