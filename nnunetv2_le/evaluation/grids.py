"""Do two images lie on one grid? Spacing, origin and directions, as nnU-Net's readers note them.

Conventions:
    Only images of one reader are compared, so the order of the axes does not matter. Formats
    without geometry (PNG, TIFF) have a spacing alone. Rounding in headers is no difference: 0.1 %
    of the spacing, a tenth of a voxel of the origin, 0.001 of the directions' unit vectors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

_SPACING_SHARE = 1e-3
_ORIGIN_VOXELS = 0.1
_DIRECTION = 1e-3


@dataclass(frozen=True)
class Grid:
    """Where the voxels of an image lie.

    Attributes:
        spacing_mm: size of a voxel, in the order of the array's axes.
        origin_mm: centre of the first voxel; None where the format says nothing.
        directions: unit vectors of the image's axes, row after row of the matrix whose columns they
            are.
    """

    spacing_mm: tuple[float, ...]
    origin_mm: tuple[float, ...] | None = None
    directions: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Difference:
    """What differs between two grids, in words.

    Attributes:
        what: spacing, origin or direction.
        here: its value on the one.
        there: its value on the other.
    """

    what: str
    here: str
    there: str


def grid_of(properties: Mapping[str, Any]) -> Grid:
    """The grid that nnU-Net's reader noted beside an image."""
    spacing = tuple(float(size) for size in properties["spacing"])
    if "sitk_stuff" in properties:
        noted = properties["sitk_stuff"]
        return Grid(spacing, _floats(noted["origin"]), _floats(noted["direction"]))
    if "nibabel_stuff" in properties:
        noted = properties["nibabel_stuff"]
        affine = np.asarray(noted.get("reoriented_affine", noted["original_affine"]), float)
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        directions = affine[:3, :3] / np.where(lengths > 0, lengths, 1.0)
        return Grid(spacing, _floats(affine[:3, 3]), _floats(directions.ravel()))
    return Grid(spacing)


def difference(here: Grid, there: Grid) -> Difference | None:
    """The first of spacing, direction and origin that differs; None on one grid."""
    if not np.allclose(here.spacing_mm, there.spacing_mm, rtol=_SPACING_SHARE):
        return Difference("spacing", f"{here.spacing_mm} mm", f"{there.spacing_mm} mm")
    if _apart(here.directions, there.directions) > _DIRECTION:
        return Difference("direction", _short(here.directions), _short(there.directions))
    if _apart(here.origin_mm, there.origin_mm) > _ORIGIN_VOXELS * min(there.spacing_mm):
        names = [f"{_short(grid.origin_mm)} mm" for grid in (here, there)]
        return Difference("origin", *names)
    return None


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _apart(one: tuple[float, ...] | None, other: tuple[float, ...] | None) -> float:
    """The largest difference; 0 where there is nothing to compare."""
    if one is None or other is None or len(one) != len(other):
        return 0.0
    return float(np.abs(np.subtract(one, other)).max())


def _short(values: tuple[float, ...] | None) -> str:
    return f"({', '.join(f'{value:.5g}' for value in values or ())})"
