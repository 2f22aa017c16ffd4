"""Voxel maps as NIfTI files with the geometry of the image, whichever reader nnU-Net took."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk

from nnunetv2_le.inference.native_grid import NativeVolume
from nnunetv2_le.inference.whole_files import replace_whole

# Float maps hardly compress: higher levels of gzip cost seconds and save a few percent.
_COMPRESSION = 1


def write_map(
    path: Path, volume: NativeVolume, properties: dict[str, Any], *, output: Path
) -> None:
    """Write a voxel map.

    Args:
        path: a ``.nii.gz`` file, which appears whole or not at all.
        volume: the map on the image's grid, axes as nnU-Net's reader gave them.
        properties: what nnU-Net's reader noted of the image.
        output: OUT.
    """
    if "nibabel_stuff" in properties:
        image = _nibabel_image(volume.array(), properties["nibabel_stuff"])
        replace_whole(path, lambda part: nibabel.save(image, part), output=output)
        return
    picture = _sitk_image(volume, properties)
    replace_whole(
        path, lambda part: sitk.WriteImage(picture, str(part), True, _COMPRESSION), output=output
    )


def _sitk_image(volume: NativeVolume, properties: dict[str, Any]) -> sitk.Image:
    geometry = properties.get("sitk_stuff")
    is_slice = geometry is not None and len(geometry["spacing"]) == 2
    image = _filled(volume, is_slice=is_slice)
    if geometry is None:
        image.SetSpacing([abs(float(size)) for size in _reversed(properties["spacing"])])
        return image
    image.SetSpacing(geometry["spacing"])
    image.SetOrigin(geometry["origin"])
    image.SetDirection(geometry["direction"])
    orientation = geometry.get("original_orientation")  # nnU-Net's reorienting reader turned it
    return image if orientation is None else sitk.DICOMOrient(image, orientation)


def _filled(volume: NativeVolume, *, is_slice: bool) -> sitk.Image:
    """An image whose values never exist in a second copy; of two dimensions for a slice."""
    pixel = sitk.GetImageFromArray(np.zeros((1, 1), dtype=volume.dtype)).GetPixelID()
    image = sitk.Image(_reversed(volume.shape[1:] if is_slice else volume.shape), pixel)
    if volume.outside:
        image += volume.outside
    for place, values in volume.pieces:
        piece = sitk.GetImageFromArray(values[0] if is_slice else values)
        image[_reversed(place[1:] if is_slice else place)] = piece
    return image


def _nibabel_image(values: np.ndarray, geometry: dict[str, Any]) -> nibabel.Nifti1Image:
    """NIfTI with the original affine; arrays of the reorienting reader are turned back first."""
    volume = values.transpose(2, 1, 0)
    if "reoriented_affine" not in geometry:
        return nibabel.Nifti1Image(volume, affine=geometry["original_affine"])
    image = nibabel.Nifti1Image(volume, affine=geometry["reoriented_affine"])
    back = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"),
        nibabel.orientations.io_orientation(geometry["original_affine"]),
    )
    return image.as_reoriented(back)


def _reversed(values: Sequence[Any]) -> tuple[Any, ...]:
    """Axes of an array in the order of an image, or back."""
    return tuple(values)[::-1]
