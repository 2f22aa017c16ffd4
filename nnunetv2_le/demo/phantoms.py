"""A small phantom data set in nnU-Net's raw layout: no patients, no download, known truth.

A phantom is a head in air with two touching structures of irregular shape. What makes real outlines
ambiguous is there: soft edges, stretches of outline without contrast, texture, unlabelled tissue of
similar intensity, a bias field and noise. The truth is the geometry, whatever the image shows.

Conventions: arrays are ``(z, y, x)`` with voxels of 1 mm; labels are 0 background, 1 body, 2 tail.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from batchgenerators.utilities.file_and_folder_operations import maybe_mkdir_p
from jaxtyping import Float, UInt8
from nnunetv2.dataset_conversion.generate_dataset_json import generate_dataset_json
from scipy import ndimage

from nnunetv2_le.demo.shifts import SHIFTS, bias_field

DATASET_NAME = "Dataset999_Phantom"
LABELS = {"background": 0, "body": 1, "tail": 2}
MAX_SHAPE = (24, 32, 32)  # a multiple of 8: nnU-Net plans a patch of this size

# Mean intensities; body and tail differ little, and unlabelled tissue looks like the tail.
_AIR, _TISSUE, _BODY, _TAIL, _LOOKALIKE = 0.02, 0.35, 0.78, 0.64, 0.6


@dataclass(frozen=True)
class Phantom:
    """One image and its truth.

    Attributes:
        image: intensities of an arbitrary unit.
        labels: 0 background, 1 body, 2 tail.
    """

    image: Float[np.ndarray, "depth height width"]
    labels: UInt8[np.ndarray, "depth height width"]


@dataclass(frozen=True)
class PhantomDataset:
    """Where the data set lies and what its cases are called.

    Attributes:
        folder: nnU-Net's raw folder of the data set.
        training: cases in ``imagesTr`` and ``labelsTr``.
        clean: cases in ``imagesTs`` and ``labelsTs`` that are like the training cases.
        shifted: the same phantoms with a simulated shift: ``shifted_002_ghosting`` shows what
            ``clean_002`` shows.
    """

    folder: Path
    training: tuple[str, ...]
    clean: tuple[str, ...]
    shifted: tuple[str, ...]


def write_phantom_dataset(
    folder: Path,
    *,
    num_training: int,
    num_test: int,
    seed: int,
    kinds: Sequence[str] = tuple(SHIFTS),
    severity: int = 3,
) -> PhantomDataset:
    """Write ``Dataset999_Phantom`` with its images, labels and ``dataset.json``.

    Args:
        folder: nnU-Net's raw folder (``nnUNet_raw``); the data set becomes a folder in it.
        num_training: training cases.
        num_test: clean test cases; as many shifted ones.
        seed: the same seed writes the same data set.
        kinds: names of shifts, taken in turn.
        severity: of the shifts, 1 to 3.

    Returns:
        The folder and the names of all cases.
    """
    dataset = Path(folder) / DATASET_NAME
    for part in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        maybe_mkdir_p(str(dataset / part))
    training = tuple(f"phantom_{number:03d}" for number in range(num_training))
    for number, case in enumerate(training):
        _write(
            dataset, "Tr", case=case, phantom=make_phantom(np.random.default_rng([seed, 0, number]))
        )
    clean, shifted = [], []
    for number in range(num_test):
        phantom = make_phantom(np.random.default_rng([seed, 1, number]))
        kind = kinds[number % len(kinds)]
        image = SHIFTS[kind](phantom.image, severity, np.random.default_rng([seed, 2, number]))
        clean.append(f"clean_{number:03d}")
        shifted.append(f"shifted_{number:03d}_{kind}")
        _write(dataset, "Ts", case=clean[-1], phantom=phantom)
        _write(dataset, "Ts", case=shifted[-1], phantom=Phantom(image, phantom.labels))
    generate_dataset_json(
        str(dataset),
        channel_names={0: "phantom"},
        labels=LABELS,
        num_training_cases=num_training,
        file_ending=".nii.gz",
        dataset_name="Phantom",
        description="Generated images of two touching structures; no patient data.",
        license="CC0-1.0",
        converted_by="nnunetv2_le",
    )
    return PhantomDataset(dataset, training, tuple(clean), tuple(shifted))


def make_phantom(rng: np.random.Generator) -> Phantom:
    """One phantom of up to 24 x 32 x 32 voxels.

    Args:
        rng: source of chance; the same state gives the same phantom.

    Returns:
        Image (float32) and labels (uint8), both labels present.
    """
    shape = tuple(int(size - rng.integers(0, 4)) for size in MAX_SHAPE)
    grid = _warped_grid(shape, rng)
    labels = _structures(grid, rng)
    clean = np.full(shape, _TISSUE)
    for centre in rng.uniform(-0.7, 0.7, (6, 3)):
        clean[_ellipsoid(grid, centre, radii=rng.uniform(0.12, 0.25, 3)) < 1] = _LOOKALIKE
    visible = 1 / (1 + np.exp(-4 * (_smooth_noise(shape, rng, scale=4) + 1.2)))
    for value, intensity in ((1, _BODY), (2, _TAIL)):
        inside = labels == value
        clean[inside] = (_TISSUE + (intensity - _TISSUE) * visible)[inside]
    clean[_ellipsoid(grid, np.zeros(3), radii=np.full(3, 0.95)) > 1] = _AIR
    soft = ndimage.gaussian_filter(clean, 0.8)
    textured = soft * (1 + 0.12 * _smooth_noise(shape, rng, scale=1.0))
    noisy = np.hypot(textured + rng.normal(0, 0.04, shape), rng.normal(0, 0.04, shape))
    return Phantom(bias_field(1000 * noisy, 1, rng), labels)


def _structures(
    grid: Float[np.ndarray, "3 depth height width"], rng: np.random.Generator
) -> UInt8[np.ndarray, "depth height width"]:
    """Two ellipsoids that touch, one behind the other along y; a voxel is in the nearer one."""
    centre = rng.uniform(-0.12, 0.12, 3)
    gap = np.array([rng.uniform(-0.15, 0.15), rng.uniform(0.5, 0.6), rng.uniform(-0.15, 0.15)])
    body = _ellipsoid(
        grid, centre - gap / 2, radii=rng.uniform((0.4, 0.32, 0.3), (0.55, 0.45, 0.45))
    )
    tail = _ellipsoid(
        grid, centre + gap / 2, radii=rng.uniform((0.3, 0.3, 0.25), (0.42, 0.42, 0.38))
    )
    labels = np.where(body <= tail, 1, 2).astype(np.uint8)
    labels[np.minimum(body, tail) > 1] = 0
    return labels


def _ellipsoid(
    grid: Float[np.ndarray, "3 depth height width"],
    centre: Float[np.ndarray, "3"],
    *,
    radii: Float[np.ndarray, "3"],
) -> Float[np.ndarray, "depth height width"]:
    """Squared distance from the centre in units of the radii: below 1 inside."""
    offset = (grid - centre[:, None, None, None]) / radii[:, None, None, None]
    return np.asarray((offset**2).sum(axis=0))


def _warped_grid(
    shape: tuple[int, ...], rng: np.random.Generator
) -> Float[np.ndarray, "3 depth height width"]:
    """Coordinates from -1 to 1 along each axis, bent smoothly so that ellipsoids get irregular."""
    axes = [np.linspace(-1, 1, size) for size in shape]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"))
    return grid + np.stack([0.06 * _smooth_noise(shape, rng, scale=4) for _ in shape])


def _smooth_noise(
    shape: tuple[int, ...], rng: np.random.Generator, *, scale: float
) -> Float[np.ndarray, "depth height width"]:
    """Gaussian noise, smoothed over ``scale`` voxels, of mean 0 and standard deviation 1."""
    field = ndimage.gaussian_filter(rng.normal(size=shape), scale, mode="reflect")
    return np.asarray((field - field.mean()) / field.std())


def _write(dataset: Path, part: str, *, case: str, phantom: Phantom) -> None:
    image = sitk.GetImageFromArray(phantom.image.astype(np.float32))
    sitk.WriteImage(image, str(dataset / f"images{part}" / f"{case}_0000.nii.gz"))
    labels = sitk.GetImageFromArray(phantom.labels)
    sitk.WriteImage(labels, str(dataset / f"labels{part}" / f"{case}.nii.gz"))
