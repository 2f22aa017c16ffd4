"""What is said of a case that nnU-Net could not read or preprocess.

nnU-Net prints the shapes and spacings of channels that do not fit, and says nothing in its error;
a voxel size that is no millimetres becomes an error of memory or of an empty array.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape

from nnunetv2_le.inference.model import Model
from nnunetv2_le.inference.nifti_checks import what_itk_refuses


@dataclass(frozen=True)
class _Geometry:
    """Of a file, as its header states it; axes as arrays have them, (z, y, x)."""

    file: str
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.file}: {_product(self.shape)} voxels of {_product(self.spacing_mm)} mm"


def what_failed(images: Sequence[Path], model: Model, error: Exception) -> str:
    """One line that names the cause where headers show it, and the error where not.

    Args:
        images: files of the case; paths are UTF-8.
        model: the model that the case was preprocessed for.
        error: what nnU-Net raised.
    """
    spacing = _spacing_file(images[0], model)
    if spacing is not None and _spacing_in(spacing) is None:
        return (
            f'{spacing} has to hold the voxel size in millimetres, such as {{"spacing": '
            f"[2.5, 1.0, 1.0]}} (z, y, x); without it {images[0].name} cannot be read. Mend it, or "
            "remove it for 1 mm."
        )
    if (refused := _refused(images)) is not None:
        return refused
    try:
        found = [_geometry(path) for path in images]
    except RuntimeError:  # not even the header can be read
        found = []
    if any(not _fits(one, found[0]) for one in found):
        return (
            f"Expected channels of one shape and voxel size in {images[0].parent}; got (z, y, x) "
            f"{', '.join(map(str, found))}. Resample them to one grid."
        )
    if found and spacing is not None:
        found[0] = replace(found[0], spacing_mm=_spacing_in(spacing) or found[0].spacing_mm)
    grid = _network_grid(found[0], model) if found else ()
    if 0 in grid or (grid and isinstance(error, MemoryError)):
        return (
            f"{images[0]} cannot be preprocessed: its {_product(found[0].shape)} voxels of "
            f"{_product(found[0].spacing_mm)} mm (z, y, x) make {_product(grid)} at the model's "
            "spacing. Check the voxel size, which has to be in millimetres."
        )
    return (
        f"{images[0]} cannot be read or preprocessed ({type(error).__name__}: "
        f"{_last_line(error)}). Check that the file is complete and opens in a viewer."
    )


def _refused(images: Sequence[Path]) -> str | None:
    """A line about the first file whose header ITK does not accept, where it is known why."""
    for path in images:
        try:
            _geometry(path)
        except RuntimeError as error:
            if refused := what_itk_refuses(path, error):
                return f"{path} cannot be read: {refused}."
    return None


def _spacing_file(image: Path, model: Model) -> Path | None:
    """The file in which nnU-Net looks for the voxel size of a 3D TIFF, if it is there."""
    if not issubclass(model.plans.image_reader_writer_class, Tiff3DIO):
        return None
    file = image.with_name(f"{image.stem[: -len('_0000')]}.json")
    return file if file.is_file() else None


def _spacing_in(file: Path) -> tuple[float, ...] | None:
    """The voxel size that a file states; None of what is none."""
    try:
        sizes = json.loads(file.read_text(encoding="utf-8"))["spacing"]
        is_size = len(sizes) == 3 and all(0 < size < math.inf for size in sizes)
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return tuple(float(size) for size in sizes) if is_size else None


def _geometry(path: Path) -> _Geometry:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return _Geometry(path.name, reader.GetSize()[::-1], reader.GetSpacing()[::-1])


def _fits(one: _Geometry, other: _Geometry) -> bool:
    """Whether nnU-Net takes both for channels of one image."""
    return one.shape == other.shape and np.allclose(one.spacing_mm, other.spacing_mm)


def _network_grid(image: _Geometry, model: Model) -> tuple[int, ...]:
    """Shape of a volume on the network's grid without cropping; empty of what is no volume."""
    if len(image.shape) != 3:
        return ()
    axes = model.plans.transpose_forward
    shape, spacing = ([values[a] for a in axes] for values in (image.shape, image.spacing_mm))
    target = list(model.configuration.spacing)
    target = spacing[: 3 - len(target)] + target  # nnU-Net's 2d models leave the first axis
    grid = compute_new_shape(shape, spacing, target)
    return tuple(int(grid[axes.index(axis)]) for axis in range(3))


def _product(values: Sequence[float]) -> str:
    return " x ".join(
        f"{value:.6g}" if isinstance(value, float) else str(value) for value in values
    )


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else "no reason given"
