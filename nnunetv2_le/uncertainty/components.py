"""Connected components of the fused segmentation: lesions, their size, members' agreement."""

import cc3d
import numpy as np
from jaxtyping import Bool, Float, Integer

from nnunetv2_le.types import Accumulated, ComponentScores, Labels, MemberPlan
from nnunetv2_le.uncertainty.aggregation import bounding_box

_CONNECTIVITY = 26  # voxels that share a corner are one component; in a single slice that is 8
_PIECE_VOXELS = 2**20
MAX_COMPONENTS = 1000  # of a label: a network that did not learn leaves millions of single voxels


def component_scores(
    accumulated: Accumulated, *, plan: MemberPlan, labels: Labels, voxel_volume_ml: float
) -> tuple[ComponentScores, ...]:
    """Scores of the connected components of every label, the largest of a label first.

    Components are voxels that share a face, an edge or a corner (26 neighbours; 8 in a single
    slice). Ones of equal size keep the order of their first voxels. A label has its
    ``MAX_COMPONENTS`` largest.

    Args:
        accumulated: fused masks and voxel maps of a case.
        plan: the families.
        labels: names of the labels.
        voxel_volume_ml: volume of a voxel of the network's grid.

    Returns:
        For each component the mean of ``entropy`` (nats) and of each family's agreement over its
        voxels. For overlapping regions the agreement of a voxel is the mean over regions, as in the
        map.
    """
    maps = {"entropy_mean": accumulated.maps["entropy"]} | {
        f"{family.name}_agreement": accumulated.maps[f"{family.name}_agreement"]
        for family in plan.families
    }
    return tuple(
        component
        for number, name in enumerate(labels.names)
        for component in _of_label(name, accumulated.fused_mask(number), maps, voxel_volume_ml)
    )


def _of_label(
    label: str,
    mask: Bool[np.ndarray, "depth height width"],
    maps: dict[str, Float[np.ndarray, "depth height width"]],
    voxel_volume_ml: float,
) -> list[ComponentScores]:
    box = bounding_box(mask)
    if not box[0].stop:
        return []
    # cc3d raises on a single row of voxels of which every second one is empty; pad to several rows
    padded = np.pad(mask[box], ((0, 0), (0, 1), (0, 1)))
    numbers = cc3d.connected_components(padded, connectivity=_CONNECTIVITY)
    statistics = cc3d.statistics(numbers)
    sizes = np.asarray(statistics["voxel_counts"])[1:]
    numbers = numbers[:, :-1, :-1]
    means = {
        name: _sums(numbers, values[box], num_components=len(sizes)) / sizes
        for name, values in maps.items()
    }
    corner = np.array([span.start for span in box])
    centres = np.asarray(statistics["centroids"])[1:] + corner
    largest = np.argsort(-sizes.astype(np.int64), kind="stable")[:MAX_COMPONENTS]
    return [
        ComponentScores(
            label=label,
            component=rank,
            centre_voxels=(float(centres[i, 0]), float(centres[i, 1]), float(centres[i, 2])),
            volume_ml=float(sizes[i]) * voxel_volume_ml,
            scores={name: float(values[i]) for name, values in means.items()},
        )
        for rank, i in enumerate(largest, start=1)
    ]


def _sums(
    numbers: Integer[np.ndarray, "depth height width"],
    values: Float[np.ndarray, "depth height width"],
    *,
    num_components: int,
) -> Float[np.ndarray, "components"]:
    """Sum of a map over each component; NumPy's copies are of some rows at a time."""
    sums = np.zeros(num_components + 1)
    step = max(1, _PIECE_VOXELS // max(1, values[0].size))
    for first in range(0, len(values), step):
        rows = slice(first, first + step)
        sums += np.bincount(
            numbers[rows].ravel(), weights=values[rows].ravel(), minlength=len(sums)
        )
    return sums[1:]
