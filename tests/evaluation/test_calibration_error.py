"""Calibration figures: closed forms, torchmetrics, scikit-learn, and pieces against the whole."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_calibration_error,
)

from nnunetv2_le.errors import InputError
from nnunetv2_le.evaluation.calibration_error import CalibrationHistogram


def made_up(seed, *, voxels=5000, channels=3, sharpness=1.5):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(channels, voxels)) * sharpness
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=0)
    truth = (probabilities.cumsum(axis=0) > rng.random(voxels)).argmax(axis=0)
    truth = np.where(rng.random(voxels) < 0.2, rng.integers(0, channels, voxels), truth)
    return probabilities.astype(np.float32), truth


def counted(probabilities, truth, **settings):
    histogram = CalibrationHistogram(len(probabilities), **settings)
    histogram.add(probabilities, truth)
    return histogram


@pytest.mark.parametrize("seed", range(3))
def test_figures_equal_torchmetrics_and_scikit_learn(seed):
    probabilities, truth = made_up(seed)
    figures = counted(probabilities, truth).figures()
    rows = torch.from_numpy(probabilities.T.copy())
    expected = multiclass_calibration_error(rows, torch.from_numpy(truth), 3, n_bins=15)
    assert figures.ece == pytest.approx(float(expected), abs=1e-5)
    binary = [
        binary_calibration_error(
            rows[:, c].contiguous(), torch.from_numpy(truth == c).int(), n_bins=15
        )
        for c in range(3)
    ]
    assert figures.classwise_ece == pytest.approx(float(np.mean(binary)), abs=1e-5)
    exact = probabilities.T.astype(float)
    exact /= exact.sum(axis=1, keepdims=True)
    assert figures.nll == pytest.approx(log_loss(truth, exact, labels=[0, 1, 2]), abs=1e-6)
    assert figures.brier == pytest.approx(
        brier_score_loss(truth, exact, labels=[0, 1, 2], scale_by_half=False), abs=1e-6
    )


def test_adaptive_error_equals_equal_mass_bins():
    probabilities, truth = made_up(5, voxels=30_000)
    top = probabilities.argmax(axis=0)
    confidence, hit = probabilities.max(axis=0), top == truth
    order = np.argsort(confidence)
    expected = sum(
        len(part) / len(order) * abs(hit[part].mean() - confidence[part].mean())
        for part in np.array_split(order, 15)
    )
    assert counted(probabilities, truth).figures().ece_adaptive == pytest.approx(expected, abs=1e-3)


def test_closed_form_of_two_voxels():
    probabilities = np.array([[0.8, 0.4], [0.2, 0.6]])
    figures = counted(probabilities, np.array([0, 0])).figures()
    assert figures.nll == pytest.approx(-(np.log(0.8) + np.log(0.4)) / 2)
    assert figures.brier == pytest.approx((2 * 0.2**2 + 2 * 0.6**2) / 2)
    assert figures.ece == pytest.approx((abs(1 - 0.8) + abs(0 - 0.6)) / 2)
    assert (figures.voxels, figures.clipped) == (2, 0)


def test_perfect_certain_prediction_has_no_error():
    truth = np.array([0, 1, 1])
    figures = counted(np.eye(2)[truth].T.copy(), truth).figures()
    assert (figures.nll, figures.brier, figures.ece, figures.classwise_ece) == (0, 0, 0, 0)


def test_probability_zero_of_the_truth_is_clipped_and_counted():
    figures = counted(np.array([[1.0], [0.0]]), np.array([1])).figures()
    assert figures.clipped == 1
    assert figures.nll == pytest.approx(23 * np.log(2))


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 4999))
def test_pieces_give_what_the_whole_gives(cut):
    probabilities, truth = made_up(1)
    whole = counted(probabilities, truth)
    pieces = counted(probabilities[:, :cut], truth[:cut])
    pieces.merge(counted(probabilities[:, cut:], truth[cut:]))
    assert vars(pieces.figures()) == pytest.approx(vars(whole.figures()), abs=1e-9)


@pytest.mark.parametrize("has_regions", [False, True])
def test_half_precision_gives_the_figures_of_the_same_numbers_in_single(has_regions):
    rng = np.random.default_rng(0)
    half = rng.dirichlet(np.ones(3), 5000).T.astype(np.float16)
    truth = rng.random((3, 5000)) < 0.5 if has_regions else rng.integers(0, 3, 5000)
    found = []
    for precision in (np.float16, np.float32):
        histogram = CalibrationHistogram(3, has_regions=has_regions)
        histogram.add(half.astype(precision), truth)
        found.append(histogram)
    assert vars(found[0].figures()) == pytest.approx(vars(found[1].figures()), nan_ok=True)
    cells = [histogram.channels[0].counts.tolist() for histogram in found]
    assert cells[0] == cells[1]


def test_regions_are_binary_questions_of_their_own():
    rng = np.random.default_rng(2)
    probabilities = rng.random((2, 4000))
    truth = rng.random((2, 4000)) < probabilities**2
    figures = counted(probabilities, truth, has_regions=True).figures()
    assert figures.nll == pytest.approx(
        np.mean([log_loss(truth[r], probabilities[r]) for r in range(2)])
    )
    assert figures.brier == pytest.approx(
        np.mean([brier_score_loss(truth[r], probabilities[r]) for r in range(2)])
    )
    expected = [
        binary_calibration_error(
            torch.from_numpy(probabilities[r]), torch.from_numpy(truth[r]).int(), n_bins=15
        )
        for r in range(2)
    ]
    assert figures.classwise_ece == pytest.approx(float(np.mean(expected)), abs=1e-6)
    assert np.isnan(figures.ece)


def test_without_voxels_everything_is_undefined():
    figures = CalibrationHistogram(2).figures()
    assert np.isnan([figures.nll, figures.brier, figures.ece, figures.classwise_ece]).all()


@pytest.mark.parametrize("value", [-0.5, 3.0, np.nan])
def test_logits_and_nan_are_refused(value):
    with pytest.raises(InputError, match="must lie between 0 and 1"):
        counted(np.array([[0.5, value], [0.5, 0.5]]), np.array([0, 0]))


def test_other_number_of_channels_is_refused():
    with pytest.raises(InputError, match="expected probabilities of 3 channels, got 2"):
        CalibrationHistogram(3).add(np.full((2, 4), 0.5), np.zeros(4, int))
