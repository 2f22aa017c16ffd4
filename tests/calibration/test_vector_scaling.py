"""Vector scaling: planted biases, regions, classes that never occur."""

import numpy as np
import pytest
from calibration.made_up_logits import made_up, search_of

from nnunetv2_le.calibration.temperature import TemperatureSearch
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
