"""Volume of a voxel, and images that have no thickness.

nnU-Net's readers give a two-dimensional image one slice of 999 times its pixel size. That is no
thickness; volumes of such an image are those of a slice of 1 mm, so that they are its areas.
"""

from collections.abc import Sequence

_NOMINAL_THICKNESS = 999
_SLICE_MM = 1.0


def has_nominal_thickness(spacing_mm: Sequence[float]) -> bool:
    """Whether the first of three voxel sizes is what nnU-Net's readers give an image of two axes.

    Args:
        spacing_mm: voxel size in millimetres, the order of axes as nnU-Net's readers give them.
    """
    first, *others = (float(size) for size in spacing_mm)
    return first >= _NOMINAL_THICKNESS * max(others) * 0.99


def voxel_volume_ml(spacing_mm: Sequence[float]) -> float:
    """Volume of a voxel in millilitres; of an image of two axes at a thickness of 1 mm.

    Args:
        spacing_mm: voxel size in millimetres, the order of axes as nnU-Net's readers give them.
    """
    first, second, third = (float(size) for size in spacing_mm)
    thickness = _SLICE_MM if has_nominal_thickness(spacing_mm) else first
    return thickness * second * third / 1000
