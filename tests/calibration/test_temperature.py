"""Temperature: direct minimisation, autograd, planted truth, decisions."""

import numpy as np
import pytest
from calibration.made_up_logits import made_up, search_of
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from nnunetv2_le.calibration.nll_curve import LOG_NODES
from nnunetv2_le.calibration.temperature import (
    TemperatureSearch,
    fit_temperature,
    region_of_interest,
)
from nnunetv2_le.errors import InputError
from nnunetv2_le.evaluation.calibration_error import CalibrationHistogram


def nll(kept, member, temperature):
    return sum(
        -log_softmax(stack[member].astype(float) / temperature, axis=0)[
            truth, np.arange(len(truth))
        ].sum()
        for stack, truth in kept
    )


def direct(loss):
    found = minimize_scalar(
        lambda u: loss(np.exp(u)), bounds=LOG_NODES[[0, -1]], method="bounded",
        options={"xatol": 1e-8},
    )  # fmt: skip
    return float(np.exp(found.x))


def test_temperatures_equal_direct_minimisation_on_all_voxels():
    search, kept, groups = search_of((0.45, 1.0, 2.7))
    fitted = fit_temperature(search, groups=groups)
    expected = [direct(lambda t, m=m: nll(kept, m, t)) for m in range(3)]
    assert fitted.values == pytest.approx(expected, rel=1e-4)
    assert fitted.values == pytest.approx([0.45, 1.0, 2.7], rel=0.1)  # what was planted


def test_one_temperature_in_all_minimises_the_sum():
    search, kept, groups = search_of((0.5, 3.0))
    fitted = fit_temperature(search, is_shared=True, groups=groups)
    assert len(set(fitted.values)) == 1
    expected = direct(lambda t: nll(kept, 0, t) + nll(kept, 1, t))
    assert fitted.values[0] == pytest.approx(expected, rel=1e-4)


def test_pieces_of_a_large_case_add_up(monkeypatch):
    whole, kept, _ = search_of((1.5, 0.7), cases=1)
    monkeypatch.setattr("nnunetv2_le.calibration.temperature._CHUNK_VALUES", 1000)
    pieces = TemperatureSearch(("m0", "m1"))
    pieces.add(*kept[0])
    assert pieces.curves[0] == pytest.approx(whole.curves[0], rel=1e-6)


def test_regions_are_binary_questions():
    generator = np.random.default_rng(2)
    right = generator.normal(scale=2.0, size=(2, 4000))
    truth = generator.uniform(size=right.shape) < 1 / (1 + np.exp(-right))
    search = TemperatureSearch(("m",), has_regions=True)
    for part in range(4):
        piece = slice(part * 1000, (part + 1) * 1000)
        search.add((2.5 * right[None, :, piece]).astype(np.float32), truth[:, piece])
    fitted = fit_temperature(search, groups=np.arange(4))
    expected = direct(lambda t: (np.logaddexp(0, 2.5 * right / t) - truth * 2.5 * right / t).sum())
    assert fitted.values[0] == pytest.approx(expected, rel=1e-4)
    histogram = CalibrationHistogram(2, has_regions=True)
    histogram.add(1 / (1 + np.exp(-2.5 * right)), truth)
    assert fitted.nll_before[0] == pytest.approx(histogram.figures().nll, rel=1e-4)


def test_decisions_of_a_single_member_do_not_change():
    _, kept, _ = search_of((2.7,))
    for stack, _ in kept:
        for temperature in (0.1, 0.77, 20.0):
            scaled = stack[0] / np.float32(temperature)
            assert (scaled.argmax(axis=0) == stack[0].argmax(axis=0)).all()


def test_nll_and_ece_fall_and_are_those_of_the_calibration_histogram():
    search, kept, groups = search_of((2.0,), voxels=1500)
    fitted = fit_temperature(search, groups=groups)
    histogram = CalibrationHistogram(3)
    for stack, truth in kept:
        histogram.add(softmax(stack[0], axis=0), truth)
    figures = histogram.figures()
    assert figures.clipped == 0
    assert fitted.nll_before[0] == pytest.approx(figures.nll, rel=1e-4)
    assert fitted.ece_before[0] == pytest.approx(figures.ece, rel=1e-4)  # all voxels were drawn
    assert fitted.nll_after[0] < fitted.nll_before[0]
    assert fitted.ece_after[0] < fitted.ece_before[0] / 2
    assert fitted.num_voxels == 8 * 1500


def test_figures_after_are_of_temperatures_that_have_not_seen_the_case():
    generator = np.random.default_rng(0)
    search = TemperatureSearch(("m",))
    for patient in range(5):  # a patient a fold, each with another best temperature
        logits, truth = made_up(generator, 1.0 + patient)
        search.add(logits[None].astype(np.float32), truth)
    fitted = fit_temperature(search, groups=np.arange(5))
    best = [curve[:, 0, 0].min() for curve in search.curves]
    assert fitted.nll_after[0] > sum(best) / fitted.num_voxels + 0.005


def test_perfect_answers_stop_among_the_coldest_temperatures():
    search = TemperatureSearch(("m",))
    for _ in range(2):
        search.add(np.array([[[4.0, -4.0], [-4.0, 4.0]]], dtype=np.float32), np.array([0, 1]))
    assert fit_temperature(search, groups=np.arange(2)).values[0] <= np.exp(LOG_NODES[1])


def test_huge_logits_neither_overflow_nor_lose_the_minimum():
    search, _, groups = search_of((3000.0,), cases=4)
    assert np.isfinite(np.stack(search.curves)).all()
    assert fit_temperature(search, groups=groups).values[0] == pytest.approx(20.0)


def test_the_region_of_interest_reaches_beyond_both_masks():
    one, other = np.zeros((1, 30, 30), bool), np.zeros((1, 30, 30), bool)
    one[0, 5, 5] = other[0, 20, 20] = True
    region = region_of_interest(one, other, margin_voxels=2)
    assert region.sum() == 2 * 13  # a diamond of 13 voxels around each
    assert region_of_interest(one, margin_voxels=2).sum() == 13


def test_a_sample_is_bounded_however_many_classes_there_are():
    search = TemperatureSearch(tuple(f"m{n}" for n in range(10)))
    search.add(np.zeros((10, 200, 500), dtype=np.float16), np.zeros(500, dtype=int))
    assert search.samples[0].logits.shape == (10, 200, 200)


def test_what_does_not_fit_is_refused():
    search, _, _ = search_of((1.0,), cases=3)
    with pytest.raises(InputError, match=r"expected logits of 1 members .* truth \(7,\)"):
        search.add(np.zeros((1, 3, 8), dtype=np.float32), np.zeros(7, dtype=int))
    with pytest.raises(InputError, match="a group for each of 3 cases"):
        fit_temperature(search, groups=np.arange(2))
    with pytest.raises(InputError, match="at least 2 labelled patients"):
        fit_temperature(search, groups=np.zeros(3, dtype=int))
    with pytest.raises(InputError, match="temperatures for m0, none for m9"):
        fit_temperature(search, groups=np.arange(3)).of("m9")


def test_a_region_of_interest_without_a_margin_is_the_union():
    masks = np.zeros((2, 9, 9), dtype=bool)
    masks[0, 4, 4] = masks[1, 2, 3] = True
    assert np.array_equal(region_of_interest(*masks, margin_voxels=0), masks.any(axis=0))
