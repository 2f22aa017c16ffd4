"""Vector scaling: planted biases, regions, classes that never occur."""

import numpy as np
import pytest
from calibration.made_up_logits import made_up, search_of
from scipy.special import expit, softmax

from nnunetv2_le.calibration import vector_scaling
from nnunetv2_le.calibration.temperature import TemperatureSearch, fit_temperature
from nnunetv2_le.calibration.vector_scaling import VectorScaling, fit_vector_scaling
from nnunetv2_le.errors import InputError


def test_vector_scaling_finds_planted_biases_and_is_used():
    search, kept, groups = search_of((1.0,), bias=(1.0, 0.0, -1.0))
    scaling = fit_vector_scaling(search, "m0", groups=groups)
    assert scaling.is_used
    assert scaling.nll_vector < scaling.nll_temperature
    differences = np.array(scaling.biases) - scaling.biases[1]
    assert differences == pytest.approx([1.0, 0.0, -1.0], abs=0.1)
    scaled = scaling.apply(kept[0][0][0])
    assert scaled.dtype == np.float32
    expected = (
        kept[0][0][0] * np.array(scaling.weights)[:, None] + np.array(scaling.biases)[:, None]
    )
    assert scaled == pytest.approx(expected, abs=1e-5)


def test_vector_scaling_without_a_need_is_not_used():
    search, _, groups = search_of((2.0,), voxels=300)
    assert not fit_vector_scaling(search, "m0", groups=groups).is_used


def test_a_class_that_never_occurs_keeps_a_finite_bias():
    generator = np.random.default_rng(0)
    search = TemperatureSearch(("m",))
    for _ in range(5):
        logits, truth = made_up(generator, voxels=500)
        search.add(logits[None].astype(np.float32), truth % 2)
    scaling = fit_vector_scaling(search, "m", groups=np.arange(5))
    assert np.isfinite(scaling.biases).all()
    assert np.abs(scaling.biases).max() < 50


def test_region_vector_scaling_shifts_a_region():
    generator = np.random.default_rng(2)
    search = TemperatureSearch(("m",), has_regions=True)
    for _ in range(5):
        logits = generator.normal(scale=2.0, size=(2, 800))
        truth = generator.uniform(size=logits.shape) < 1 / (1 + np.exp(-logits - 1.0))
        search.add(logits[None].astype(np.float32), truth)
    scaling = fit_vector_scaling(search, "m", groups=np.arange(5))
    assert scaling.is_used
    assert scaling.biases == pytest.approx([1.0, 1.0], abs=0.25)


def test_vector_scaling_of_equal_weights_is_a_temperature():
    logits = np.random.default_rng(0).normal(size=(3, 50)).astype(np.float32)
    scaling = VectorScaling("m", (0.5,) * 3, (0.0,) * 3, 1.0, 1.0, True)
    assert scaling.apply(logits) == pytest.approx(logits / 2)


def test_an_unknown_member_is_refused_by_name():
    search, _, groups = search_of((1.0,), cases=3)
    with pytest.raises(InputError, match="one of m0, got member 'm9'"):
        fit_vector_scaling(search, "m9", groups=groups)


@pytest.mark.parametrize("member", ["m0", "m1", "m2"])
def test_a_member_is_scaled_as_if_it_were_the_only_one(member):
    temperatures = (0.5, 4.0, 1.5)
    together, _, groups = search_of(temperatures, voxels=400, bias=(0.6, 0.0, -0.6))
    single = temperatures[int(member[1])]
    alone, _, _ = search_of((single,), voxels=400, bias=(0.6, 0.0, -0.6))
    ours = fit_vector_scaling(together, member, groups=groups)
    expected = fit_vector_scaling(alone, "m0", groups=groups)
    assert ours.member == member
    assert ours.weights == pytest.approx(expected.weights, abs=1e-3)
    assert ours.biases == pytest.approx(expected.biases, abs=1e-3)
    assert ours.nll_temperature == pytest.approx(expected.nll_temperature, abs=1e-5)


@pytest.mark.parametrize("has_regions", [False, True])
def test_parameters_minimise_the_nll_and_their_distance_to_the_temperatures(has_regions):
    generator, kept = np.random.default_rng(0), []
    search = TemperatureSearch(("cooler", "m"), has_regions=has_regions)
    for _ in range(5):
        logits, truth = made_up(generator, 3.0, voxels=300)
        truth = truth % 2  # the last class never occurs
        masks = truth == np.arange(3)[:, None]
        both = np.stack([logits / 4, logits]).astype(np.float32)
        search.add(both, masks if has_regions else truth)
        kept.append((logits, masks))
    groups = np.arange(5)
    scaling = fit_vector_scaling(search, "m", groups=groups)
    logits, masks = (np.concatenate(parts, axis=1) for parts in zip(*kept, strict=True))
    weights, biases = np.array(scaling.weights), np.array(scaling.biases)
    scaled = (logits.T * weights + biases).T
    slope = (expit(scaled) if has_regions else softmax(scaled, axis=0)) - masks
    slope /= logits.size if has_regions else logits.shape[1]
    start = 1 / fit_temperature(search, is_shared=False, groups=groups).values[1]
    by_weights = (slope * logits).sum(axis=1) + 2e-4 * (weights - start)
    assert by_weights == pytest.approx(0, abs=3e-5)
    assert slope.sum(axis=1) + 2e-4 * biases == pytest.approx(0, abs=3e-5)
    assert abs(2e-4 * biases[2]) > 3e-4


def test_of_many_voxels_an_even_draw_of_each_case_is_fitted(monkeypatch):
    generator = np.random.default_rng(0)
    search = TemperatureSearch(("m",))
    for _ in range(5):
        logits, truth = made_up(generator, voxels=2000)
        order = np.argsort(truth, kind="stable")
        search.add(logits[None, :, order].astype(np.float32), truth[order])
    whole = fit_vector_scaling(search, "m", groups=np.arange(5))
    monkeypatch.setattr(vector_scaling, "_MAX_VOXELS", 5 * 500)
    part = fit_vector_scaling(search, "m", groups=np.arange(5))
    assert part.biases != whole.biases
    assert part.biases == pytest.approx(whole.biases, abs=0.3)


def test_many_cases_of_a_patient_do_not_make_a_gain_clear():
    def of_six_patients(copies):
        generator = np.random.default_rng(1)
        search, groups = TemperatureSearch(("m",)), []
        for patient in range(6):
            logits, truth = made_up(generator, voxels=200)
            logits += generator.normal(scale=0.5, size=(len(logits), 1))
            for _ in range(copies):
                search.add(logits[None].astype(np.float32), truth)
                groups.append(patient)
        return fit_vector_scaling(search, "m", groups=np.array(groups))

    assert of_six_patients(1).nll_vector < of_six_patients(1).nll_temperature
    assert not of_six_patients(1).is_used
    assert not of_six_patients(12).is_used
