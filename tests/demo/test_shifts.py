"""Simulated shifts: shape, scale, reproducibility and severity."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from nnunetv2_le.demo.phantoms import make_phantom
from nnunetv2_le.demo.shifts import SEVERITIES, SHIFTS, bias_field, contrast, ghosting, noise
from nnunetv2_le.errors import SettingError

KINDS = sorted(SHIFTS)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return make_phantom(np.random.default_rng(5)).image


def _shift(kind: str, image: np.ndarray, severity: int = 2, seed: int = 0) -> np.ndarray:
    return SHIFTS[kind](image, severity, np.random.default_rng(seed))


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_shift_changes_the_image_and_keeps_its_shape(image, kind, severity):
    shifted = _shift(kind, image, severity)
    assert shifted.shape == image.shape
    assert shifted.dtype == np.float32
    assert np.isfinite(shifted).all()
    assert not np.allclose(shifted, image, atol=0.01 * image.std())


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_shift_and_the_image_is_left_alone(image, kind):
    before = image.copy()
    np.testing.assert_array_equal(_shift(kind, image), _shift(kind, image))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_slice_is_corrupted_in_its_plane(image, kind):
    shifted = _shift(kind, image[16:17])
    assert shifted.shape == image[16:17].shape
    assert not np.allclose(shifted, image[16:17], atol=0.01 * image.std())


@pytest.mark.parametrize("kind", KINDS)
@given(scale=st.floats(0.01, 1e5), offset=st.floats(-10, 10), seed=st.integers(0, 3))
def test_a_shift_does_not_depend_on_the_intensity_scale(kind, scale, offset, seed):
    image = np.random.default_rng(9).normal(size=(6, 12, 10)).astype(np.float64)
    direct = _shift(kind, image, seed=seed)
    scaled = _shift(kind, scale * (image + offset), seed=seed)
    np.testing.assert_allclose(scaled / scale - offset, direct, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_higher_severity_moves_the_image_further_away(image, kind):
    def distance(severity: int) -> float:
        return float(
            np.mean([1 - _correlation(image, _shift(kind, image, severity, s)) for s in range(8)])
        )

    assert distance(1) < distance(2) < distance(3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_constant_image_stays_finite(kind):
    assert np.isfinite(_shift(kind, np.full((4, 8, 8), 3.0))).all()


def test_noise_in_air_is_rayleigh_distributed():
    image = np.zeros((40, 40, 40))
    image[:2] = 1.0
    shifted = noise(image, 1, np.random.default_rng(0))
    expected = 0.5 * image.std() * np.sqrt(np.pi / 2)
    assert shifted[2:].mean() == pytest.approx(expected, rel=0.01)


def test_a_bias_field_leaves_air_as_it_is_and_spans_what_it_says():
    image = np.full((8, 9, 10), 5.0)
    image[0, 0, 0] = 1.0
    shifted = bias_field(image, 2, np.random.default_rng(1))
    assert shifted[0, 0, 0] == 1.0
    log_field = np.log((shifted - 1.0)[image > 1] / 4.0)
    assert 1.5 < np.ptp(log_field) <= 2.0 + 1e-5


def test_contrast_keeps_the_order_of_intensities(image):
    shifted = contrast(image, 3, np.random.default_rng(0))
    order = np.argsort(image.ravel(), kind="stable")
    assert (np.diff(shifted.ravel()[order]) >= 0).all()


def test_ghosts_have_the_amplitude_of_bessel_functions():
    line = np.zeros((1, 1, 240))
    line[0, 0, 100] = 1.0
    ghosts = np.sort(ghosting(line, 3, np.random.default_rng(3)).ravel())[::-1]
    assert ghosts.max() <= special.jv(0, 1.0) + 0.15
    assert np.sum(ghosts**2) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_severity_is_refused(image, kind):
    with pytest.raises(SettingError, match=r"one of \(1, 2, 3\); got 4"):
        _shift(kind, image, 4)


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])
