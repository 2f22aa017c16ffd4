"""Where a voxel of the array that nnU-Net's reader gave lies in the image's file.

Two readers of nnU-Net (``SimpleITKIOWithReorient``, ``NibabelIOWithReorient``) turn every image to
one orientation; files that are written are turned back, so positions have to be, too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import nibabel
import SimpleITK as sitk

_OPPOSITE = dict(zip("RLAPSI", "LRPAIS", strict=True))


def voxel_in_file(
    voxel: Sequence[float], shape: Sequence[int], properties: Mapping[str, Any]
) -> tuple[float, ...]:
    """A position in the array as indices of the file, both (z, y, x).

    Args:
        voxel: position in the array, fractions allowed.
        shape: of the array.
        properties: what nnU-Net's reader noted of the image.
    """
    axes = _orientations(properties)
    if axes is None:
        return tuple(voxel)
    here, there = axes
    place = {}
    for letter, position, length in zip(here, voxel, shape, strict=True):
        place[letter] = position
        place[_OPPOSITE[letter]] = length - 1 - position
    return tuple(place[letter] for letter in there)


def _orientations(properties: Mapping[str, Any]) -> tuple[str, str] | None:
    """Letters of the axes (z, y, x) in the array and in the file; None where nothing was turned."""
    if (noted := properties.get("nibabel_stuff", {})) and "reoriented_affine" in noted:
        here, there = (
            "".join(nibabel.aff2axcodes(noted[name]))
            for name in ("reoriented_affine", "original_affine")
        )
        return here[::-1], there[::-1]
    noted = properties.get("sitk_stuff", {})
    if "original_orientation" not in noted:
        return None
    turned = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(noted["direction"])
    return turned[::-1], noted["original_orientation"][::-1]
