"""Simulated shifts: shape, scale, reproducibility and severity."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from nnunetv2_le.demo.phantoms import make_phantom
from nnunetv2_le.demo.shifts import (
    SEVERITIES,
    SHIFTS,
    bias_field,
    blur,
    contrast,
    ghosting,
    noise,
    resolution,
)
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


@pytest.mark.parametrize(("severity", "sigma"), [(1, 0.5), (2, 1.2), (3, 1.6)])
def test_noise_in_air_is_rayleigh_distributed(severity, sigma):
    image = np.zeros((40, 40, 40))
    image[:2] = 1.0
    shifted = noise(image, severity, np.random.default_rng(0))
    expected = sigma * image.std() * np.sqrt(np.pi / 2)
    assert shifted[2:].mean() == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(("severity", "sigma"), [(1, 1.0), (2, 1.75), (3, 2.0)])
def test_a_point_is_blurred_to_a_gaussian_of_the_stated_width(severity, sigma):
    image = np.zeros((33, 33, 33))
    image[16, 16, 16] = 1.0
    along = blur(image, severity, np.random.default_rng(0)).sum(axis=(1, 2))
    assert along.sum() == pytest.approx(1.0, rel=1e-5)
    assert np.sqrt((along * (np.arange(33) - 16) ** 2).sum()) == pytest.approx(sigma, rel=0.01)


@pytest.mark.parametrize(("severity", "span"), [(1, 1.0), (2, 2.0), (3, 3.0)])
def test_a_bias_field_leaves_air_as_it_is_and_spans_what_it_says(severity, span):
    image = np.full((8, 9, 10), 5.0)
    image[0, 0, 0] = 1.0
    shifted = bias_field(image, severity, np.random.default_rng(1))
    assert shifted[0, 0, 0] == 1.0
    log_field = np.log((shifted - 1.0)[image > 1] / 4.0)
    assert 0.75 * span < np.ptp(log_field) <= span + 1e-5
    assert log_field.mean() == pytest.approx(0, abs=0.01)
    second = np.diff(np.log(np.maximum(shifted[1:] - 1.0, 1e-9) / 4.0), n=2, axis=2)
    assert np.ptp(second) > 1e-3  # not linear


@pytest.mark.parametrize(("severity", "exponent"), [(1, 2.0), (2, 3.5), (3, 5.0)])
def test_contrast_is_a_power_law_of_dark_or_of_bright_intensities(severity, exponent):
    image = np.linspace(0, 1, 8000).reshape(20, 20, 20)
    unit = np.clip((image - 0.01) / 0.98, 0, 1)
    laws = [0.01 + 0.98 * u for u in (unit**exponent, 1 - (1 - unit) ** exponent)]
    taken = set()
    for seed in range(8):
        shifted = contrast(image, severity, np.random.default_rng(seed))
        (law,) = [n for n in range(2) if np.allclose(shifted, laws[n], atol=1e-4)]
        taken.add(law)
    assert taken == {0, 1}


@pytest.mark.parametrize(("severity", "amplitude"), [(1, 0.5), (2, 0.8), (3, 1.0)])
def test_what_is_no_ghost_keeps_the_share_of_a_bessel_function(severity, amplitude):
    line = np.zeros((1, 1, 2400))
    line[0, 0, 1000] = 1.0
    for seed in range(3):
        left = ghosting(line, severity, np.random.default_rng(seed))[0, 0, 1000]
        assert left == pytest.approx(special.jv(0, amplitude), abs=0.02)


@pytest.mark.parametrize(("severity", "factor"), [(2, 3), (3, 4)])
def test_between_the_centres_of_coarse_voxels_intensities_are_linear(severity, factor):
    cube = np.random.default_rng(0).normal(size=(24, 24, 24))
    shifted = resolution(cube, severity, np.random.default_rng(0))
    bend = np.abs(np.diff(shifted, n=2, axis=0)).max(axis=(1, 2))  # at planes 1 to 22
    centres = (factor - 1) / 2 + factor * np.arange(24 // factor)
    between = [plane for plane in range(4, 20) if np.abs(centres - plane).min() >= 1]
    assert bend[np.array(between) - 1].max() < 1e-5
    assert bend.max() > 0.01


def test_a_coarse_voxel_is_the_mean_of_what_it_covers():
    cube = np.random.default_rng(0).normal(size=(12, 12, 12))
    means = cube.reshape(4, 3, 4, 3, 4, 3).mean(axis=(1, 3, 5))
    shifted = resolution(cube, 2, np.random.default_rng(0))
    np.testing.assert_allclose(shifted[1::3, 1::3, 1::3], means, atol=1e-5)


def test_axes_shorter_than_two_coarse_voxels_keep_their_resolution():
    stack = np.zeros((7, 24, 24))
    stack[::2] = 1.0
    np.testing.assert_allclose(resolution(stack, 3, np.random.default_rng(0)), stack, atol=1e-6)


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
