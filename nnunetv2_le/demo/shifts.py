"""Simulated domain shifts: image corruptions of known kind and severity.

Conventions: an image is ``(z, y, x)`` on any intensity scale; a slice has ``z == 1`` and is
corrupted in its plane only. Severity is 1 (mild), 2 (strong) or 3 (severe). Strengths are relative
to the image's own standard deviation or range, so the result does not depend on the scale of the
intensities. An image is taken as a magnitude image whose zero is its minimum: multiplicative shifts
act on ``image - min``, so air stays air. Every function is pure; chance comes from the generator
alone. The kinds are those of MR artefacts; on CT they are out-of-distribution images of graded
strength and not a model of a scanner.

References:
    - Gudbjartsson & Patz, "The Rician distribution of noisy MRI data", Magn Reson Med 34, 1995:
      noise.
    - Wood & Henkelman, "MR image artifacts from periodic motion", Med Phys 12, 1985: ghosts as
      orders of a periodic modulation of k-space.
    - Van Leemput et al., "Automated model-based bias field correction of MR images of the brain",
      IEEE Trans Med Imaging 18, 1999: bias field as the exponential of a low-order polynomial.
    - Perez-Garcia et al., "TorchIO", Comput Methods Programs Biomed 208, 2021: the choice of kinds.
    - Hendrycks & Dietterich, "Benchmarking neural network robustness to common corruptions and
      perturbations", ICLR 2019: severities as a fixed table for each kind.

The numbers of each severity are ours, chosen for how much a hippocampus segmentation loses. A stock
nnU-Net (1,000 iterations, one head, no mirroring, 20 test cases of Medical Segmentation Decathlon
Task04, mean Dice 0.83) lost at severity 1 / 2 / 3:

    noise       0.01  0.07  0.14        bias field  0.03  0.13  0.17
    blur        0.04  0.13  0.16        contrast    0.02  0.18  0.32
    ghosting    0.04  0.16  0.44        resolution  0.08  0.10  0.19
"""

from collections.abc import Callable
from itertools import product

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from nnunetv2_le.errors import SettingError

Image = Float[np.ndarray, "depth height width"]
Shift = Callable[[Image, int, np.random.Generator], Image]

SEVERITIES = (1, 2, 3)


def noise(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """Rician noise: ``|m + n_1 + i n_2|``, ``n ~ N(0, sigma^2)``, m the image above its minimum.

    Args:
        image: any scale.
        severity: sigma is 0.5, 1.2 or 1.6 standard deviations of the image.
        rng: source of chance.
    """
    sigma = _pick(severity, (0.5, 1.2, 1.6)) * float(image.std())
    magnitude, lowest = _above_minimum(image)
    real, imaginary = rng.normal(0.0, sigma, (2, *image.shape))
    return _restore(np.hypot(magnitude + real, imaginary), lowest)


def blur(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """Gaussian blur.

    Args:
        image: any scale.
        severity: the kernel's standard deviation is 1, 1.75 or 2 voxels.
        rng: not used.
    """
    sigma = _pick(severity, (1.0, 1.75, 2.0))
    return _as_float32(ndimage.gaussian_filter(image.astype(np.float64), sigma, mode="nearest"))


def ghosting(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """Ghosts of a periodic phase modulation of k-space along one random axis.

    Line k of N is multiplied by ``exp(i a sin(2 pi k s / N + phi))``: the image keeps the share
    ``J_0(a)``, and its n-th ghost, moved by ``n s`` voxels, has the share ``J_n(a)`` (Bessel
    functions). Energy is kept.

    Args:
        image: any scale.
        severity: a is 0.5, 0.8 or 1.0 radians: each first ghost has 0.24, 0.37 or 0.44 of the
            image's amplitude.
        rng: gives the axis, the distance s (a sixth to a half of the axis) and the phase phi.
    """
    amplitude = _pick(severity, (0.5, 0.8, 1.0))
    axis = int(rng.choice([axis for axis, size in enumerate(image.shape) if size > 1]))
    size = image.shape[axis]
    distance = rng.uniform(size / 6, size / 2)
    phase = rng.uniform(0.0, 2 * np.pi)
    line = np.fft.fftfreq(size)
    modulation = np.exp(1j * amplitude * np.sin(2 * np.pi * line * distance + phase))
    magnitude, lowest = _above_minimum(image)
    spectrum = np.fft.fft(magnitude, axis=axis)
    along = [-1 if number == axis else 1 for number in range(image.ndim)]
    return _restore(np.abs(np.fft.ifft(spectrum * modulation.reshape(along), axis=axis)), lowest)


def bias_field(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """A smooth multiplicative field: the exponential of a random polynomial of order 3.

    Args:
        image: any scale.
        severity: the natural logarithm of the field spans 1.0, 2.0 or 3.0 over the image.
        rng: gives the coefficients.
    """
    span = _pick(severity, (1.0, 2.0, 3.0))
    axes = [np.linspace(-1, 1, size) if size > 1 else np.zeros(1) for size in image.shape]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    field = np.zeros(image.shape)
    for i, j, k in product(range(4), repeat=3):
        if 1 <= i + j + k <= 3:
            field += rng.uniform(-1, 1) * z**i * y**j * x**k
    field *= span / max(float(np.ptp(field)), np.finfo(float).tiny)
    magnitude, lowest = _above_minimum(image)
    return _restore(magnitude * np.exp(field - field.mean()), lowest)


def contrast(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """Another contrast between tissues: a power law on the intensities.

    ``u -> u^g`` or ``u -> 1 - (1 - u)^g`` with equal chance, u the intensity scaled to 0..1 from
    the 1st to the 99th percentile. Both keep black and white and the order of intensities; the
    first crushes dark tissues, the second bright ones.

    Args:
        image: any scale.
        severity: g is 2.0, 3.5 or 5.0.
        rng: gives the direction.
    """
    exponent = _pick(severity, (2.0, 3.5, 5.0))
    low, high = np.percentile(image, (1, 99))
    if high <= low:
        return _as_float32(image)
    unit = np.clip((image - low) / (high - low), 0, 1)
    unit = unit**exponent if rng.random() < 0.5 else 1 - (1 - unit) ** exponent
    return _as_float32(low + (high - low) * unit)


def resolution(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """Coarser voxels, interpolated back linearly.

    Smoothed before sampling with a box filter as wide as the coarse voxel. Axes shorter than two
    coarse voxels are left alone.

    Args:
        image: any scale.
        severity: voxels are 2, 3 or 4 times as long along every axis.
        rng: not used.
    """
    factor = int(_pick(severity, (2, 3, 4)))
    factors = [factor if size >= 2 * factor else 1 for size in image.shape]
    smooth = ndimage.uniform_filter(image.astype(np.float64), factors, mode="nearest")
    sizes = [round(size / step) for size, step in zip(image.shape, factors, strict=True)]
    coarse = _resample(smooth, sizes)
    return _as_float32(_resample(coarse, image.shape))


SHIFTS: dict[str, Shift] = {
    "noise": noise,
    "blur": blur,
    "ghosting": ghosting,
    "bias_field": bias_field,
    "contrast": contrast,
    "resolution": resolution,
}


def _pick(severity: int, values: tuple[float, float, float]) -> float:
    if severity not in SEVERITIES:
        raise SettingError(f"severity has to be one of {SEVERITIES}; got {severity!r}.")
    return values[severity - 1]


def _above_minimum(image: Image) -> tuple[Float[np.ndarray, "depth height width"], float]:
    lowest = float(image.min())
    return image.astype(np.float64) - lowest, lowest


def _restore(magnitude: Float[np.ndarray, "depth height width"], lowest: float) -> Image:
    return _as_float32(magnitude + lowest)


def _as_float32(image: Float[np.ndarray, "depth height width"]) -> Image:
    return image.astype(np.float32)


def _resample(image: Float[np.ndarray, "..."], shape: tuple[int, ...] | list[int]) -> Image:
    """Linear resampling with aligned voxel borders to an exact shape."""
    factors = [new / old for new, old in zip(shape, image.shape, strict=True)]
    resampled: Image = ndimage.zoom(image, factors, order=1, mode="nearest", grid_mode=True)
    return resampled
