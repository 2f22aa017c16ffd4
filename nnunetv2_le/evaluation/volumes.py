"""Label maps and voxel maps of a case, on the axes that nnU-Net's reader gives them.

Some readers of nnU-Net turn every image to one orientation (``NibabelIOWithReorient``,
``SimpleITKIOWithReorient``); predict writes maps in the orientation of the image's file. So a map
goes through the reader that turns the labels.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from jaxtyping import Float, Int

from nnunetv2_le.errors import InputError
from nnunetv2_le.evaluation.cases import require_name
from nnunetv2_le.evaluation.grids import Grid, grid_of
from nnunetv2_le.evaluation.overlap import label_map
from nnunetv2_le.inference.nifti_checks import count_bad_intensities, fault, what_itk_refuses


@dataclass(frozen=True)
class Segmentation:
    """A label map with its place.

    Attributes:
        labels: the value of each voxel.
        grid: where the voxels lie.
    """

    labels: Int[np.ndarray, "depth height width"]
    grid: Grid


def read_segmentation(file: Path, reader: Any) -> Segmentation:
    """A label map through nnU-Net's reader.

    Raises:
        InputError: if the file cannot be read, is not whole or holds no labels.
    """
    require_name(file)
    if file.is_file():
        _require_whole(file)
        _require_numbers(file)
    try:
        image, properties = reader.read_seg(str(file))
    except Exception as error:  # every reader raises its own
        raise InputError(f"{file} cannot be read: {_reason(file, error)}") from error
    if len(image) != 1:
        raise InputError(
            f"{file}: a label image must hold one volume or channel, got {len(image)}; save the "
            "labels alone"
        )
    try:
        return Segmentation(label_map(image[0]), grid_of(properties))
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def read_map(
    file: Path, reader: Any, *, shape: tuple[int, ...]
) -> Float[np.ndarray, "depth height width"]:
    """A voxel map that predict wrote, on the axes of the segmentation.

    Args:
        file: the map, NIfTI whatever the format of the images is.
        reader: nnU-Net's, of the segmentations.
        shape: of the case's segmentation.

    Raises:
        InputError: if it cannot be read, is not whole or has another shape.
    """
    require_name(file)
    if file.is_file():
        _require_whole(file)
    try:
        if file.name.endswith(tuple(reader.supported_file_endings)):
            volume = np.asarray(reader.read_images([str(file)])[0][0])
        else:  # readers of other formats turn nothing
            volume = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
    except Exception as error:  # every reader raises its own
        raise InputError(f"{file} cannot be read: {_reason(file, error)}") from error
    if volume.shape != shape:
        raise InputError(f"{file} has shape {volume.shape}, the segmentation has {shape}")
    return volume


def _require_whole(file: Path) -> None:
    """ITK reads a part of a file as if nothing were wrong."""
    if found := fault(file):
        raise InputError(f"{file} cannot be read: {found}")


def _require_numbers(file: Path) -> None:
    if count := count_bad_intensities(file):
        raise InputError(
            f"{file}: a label image must hold whole numbers, got {count} voxels with NaN or "
            "infinity; save it as integers"
        )


def _reason(file: Path, error: Exception) -> str:
    """What ITK is known to refuse, or the last line of the reader's error."""
    if file.is_file() and (refused := what_itk_refuses(file, error)):
        return refused
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
