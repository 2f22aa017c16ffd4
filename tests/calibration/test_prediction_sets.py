"""Prediction sets: plain definition, risk by simulation, regions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from nnunetv2_le.calibration.prediction_sets import (
    THRESHOLDS,
    PredictionSets,
    case_curve,
    fit_prediction_sets,
    prediction_sets,
)
from nnunetv2_le.errors import InputError


def made_up(generator, *, channels=4, voxels=300, hardness=None):
    """Probabilities that are overconfident in hard cases."""
    hardness = generator.uniform(0.5, 3.0) if hardness is None else hardness
    logits = generator.normal(scale=2.5, size=(channels, voxels))
    shares = softmax(logits / hardness, axis=0)
    truth = (generator.uniform(size=voxels) > np.cumsum(shares, axis=0)[:-1]).sum(axis=0)
    return softmax(logits, axis=0), truth


def sets_at(threshold):
    return PredictionSets(float(threshold), 0.1, 0.0, 10, 10)


@given(st.integers(0, 40), st.integers(0, len(THRESHOLDS) - 1))
def test_the_curve_is_the_plain_definition(seed, number):
    probabilities, truth = made_up(np.random.default_rng(seed), voxels=60)
    curve = case_curve(probabilities, truth)
    possible = prediction_sets(probabilities, sets_at(THRESHOLDS[number]))
    missed = ~possible[truth, np.arange(60)]
    assert curve.losses[number] == pytest.approx(missed.mean())
    assert curve.ambiguous[number] == pytest.approx((possible.sum(axis=0) > 1).mean())


@given(st.integers(0, 40), st.integers(0, len(THRESHOLDS) - 1))
def test_the_curve_of_regions_is_the_plain_definition(seed, number):
    generator = np.random.default_rng(seed)
    probabilities = generator.uniform(size=(3, 50))
    truth = generator.uniform(size=(3, 50)) < probabilities
    curve = case_curve(probabilities, truth, has_regions=True)
    possible = prediction_sets(probabilities, sets_at(THRESHOLDS[number]), has_regions=True)
    may_be_in, may_be_out = possible[:3], possible[3:]
    missed = np.where(truth, ~may_be_in, ~may_be_out)
    assert curve.losses[number] == pytest.approx(missed.mean())
    assert curve.ambiguous[number] == pytest.approx((may_be_in & may_be_out).mean())


@given(st.integers(0, 40))
def test_losses_never_rise_and_vanish_at_last_and_no_set_is_empty(seed):
    probabilities, truth = made_up(np.random.default_rng(seed))
    curve = case_curve(probabilities, truth)
    assert (np.diff(curve.losses) <= 0).all()
    assert (np.diff(curve.ambiguous) >= 0).all()
    assert curve.losses[-1] == 0
    assert prediction_sets(probabilities, sets_at(0.5)).any(axis=0).all()
    assert prediction_sets(probabilities, sets_at(0.0)).all()


def test_the_expected_share_of_missed_voxels_is_at_most_alpha():
    generator = np.random.default_rng(0)
    curves = [case_curve(*made_up(generator, voxels=80)) for _ in range(600)]
    risks = []
    for _ in range(200):
        drawn = generator.permutation(600)
        known, new = drawn[:40], drawn[40:]
        fitted = fit_prediction_sets([curves[n] for n in known], alpha=0.1, groups=np.arange(40))
        number = int(np.argmin(np.abs(THRESHOLDS - fitted.threshold)))
        risks.append(np.mean([curves[n].losses[number] for n in new]))
    assert np.mean(risks) <= 0.1
    assert np.mean(risks) >= 0.05


def test_the_share_of_ambiguous_voxels_is_that_of_the_labelled_cases():
    generator = np.random.default_rng(1)
    cases = [made_up(generator) for _ in range(40)]
    fitted = fit_prediction_sets([case_curve(*case) for case in cases], groups=np.arange(40))
    shares = [(prediction_sets(case[0], fitted).sum(axis=0) > 1).mean() for case in cases]
    assert fitted.ambiguous == pytest.approx(np.mean(shares))


def test_maps_keep_the_shape_of_the_image():
    probabilities, _ = made_up(np.random.default_rng(0), voxels=24)
    image = prediction_sets(probabilities.reshape(4, 2, 3, 4).astype(np.float32), sets_at(0.1))
    assert image.shape == (4, 2, 3, 4)


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match=r"expected truth of shape \(3,\)"):
        case_curve(np.full((2, 3), 0.5), np.zeros(4, dtype=int))
    with pytest.raises(InputError, match="at one voxel or more"):
        case_curve(np.zeros((2, 0)), np.zeros(0, dtype=int))
    curve = case_curve(*made_up(np.random.default_rng(0)))
    with pytest.raises(InputError, match=r"prediction sets at alpha 0\.05 needs at least 19"):
        fit_prediction_sets([curve] * 5, groups=np.arange(5))
