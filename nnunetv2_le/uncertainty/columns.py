"""The columns of the score tables: names, order, units and what each means."""

from collections.abc import Collection
from dataclasses import dataclass

from nnunetv2_le.types import Direction, MemberPlan
from nnunetv2_le.uncertainty.aggregation import AGGREGATIONS, Aggregation
from nnunetv2_le.uncertainty.map_names import map_names

_AGGREGATION_TEXT: dict[Aggregation, str] = {
    "foreground_mean": "mean over the fused foreground",
    "image_mean": "mean over the image",
    "boundary_mean": "mean over one voxel either side of the fused boundary",
    "non_boundary_mean": "mean over all voxels but one either side of the fused boundary",
    "patch_max": "highest mean of a sliding 10-voxel cube",
    "boundary_ratio": "100 x sum over the image / number of voxels that touch the fused mask from "
    "outside",
}


@dataclass(frozen=True)
class ColumnDescription:
    """What a column holds.

    Attributes:
        unit: ``1`` for pure numbers.
        direction: whether a higher value means a better or a worse segmentation.
        description: one line for a reader of the table.
    """

    unit: str
    direction: Direction
    description: str


JUDGED_COLUMNS = {
    "predicted_dice": ColumnDescription(
        "1", "higher_is_better", "Dice that a calibrated model expects of the segmentation"
    ),
    "predicted_dice_lower": ColumnDescription(
        "1", "higher_is_better", "Dice that is reached with the stated probability"
    ),
    "out_of_distribution": ColumnDescription(
        "1",
        "higher_is_worse",
        "Mahalanobis distance of the image's encoder features to those of the known cases",
    ),
    "out_of_distribution_nearest": ColumnDescription(
        "1", "higher_is_worse", "mean distance of these features to the nearest known cases"
    ),
    "out_of_distribution_quantile": ColumnDescription(
        "1", "higher_is_worse", "share of known patients whose cases lie nearer"
    ),
    "flag": ColumnDescription(
        "", "none", "ok, review, out_of_distribution or empty (the segmentation is)"
    ),
    "flag_reason": ColumnDescription("", "none", "why the case is flagged, in words"),
}
"""Columns that a calibrated model adds to the table of cases, in order; the first two to the table
of labels too."""


def case_columns(plan: MemberPlan, maps: Collection[str] = ()) -> tuple[str, ...]:
    """Names of ``CaseScores.scores`` in the order of the tables."""
    return tuple(describe_columns(plan, maps))


def describe_columns(plan: MemberPlan, maps: Collection[str] = ()) -> dict[str, ColumnDescription]:
    """Unit, direction and meaning of every column of ``CaseScores.scores``, in order.

    Args:
        plan: the members of the run.
        maps: voxel maps that were asked for; those made on demand have columns only then.
    """
    columns = {
        "aula": _agreement(
            "area under the curve of Dice between each head and the next (trapezoid, spacing 1)"
        ),
        "aula_normalized": _agreement("aula divided by its width: mean height of that curve"),
        "consensus_dice": _agreement(
            "mean Dice of the members of all families with the fused segmentation"
        ),
        "soft_dice": _agreement("Dice of the fused probability with the fused segmentation"),
    }
    for family in plan.families:
        columns[f"{family.name}_pairwise_dice"] = _agreement(
            f"mean Dice over all pairs of members of {family.name}"
        )
        columns[f"{family.name}_consensus_dice"] = _agreement(
            f"mean Dice of the members of {family.name} with the fused segmentation"
        )
        columns[f"{family.name}_soft_dice"] = _agreement(
            f"Dice of the mean probability of {family.name} with the fused segmentation"
        )
    for name, (unit, text) in _aggregated_maps(plan, maps).items():
        for aggregation in AGGREGATIONS:
            columns[f"{name}_{aggregation}"] = ColumnDescription(
                unit, "higher_is_worse", f"{text}: {_AGGREGATION_TEXT[aggregation]}"
            )
    columns["volume_ml"] = ColumnDescription(
        "ml", "none", "volume of the written segmentation (images of two axes: of a slice of 1 mm)"
    )
    columns["volume_std_ml"] = ColumnDescription(
        "ml",
        "higher_is_worse",
        "standard deviation over members of the sum of their labels' volumes, on the network's "
        "grid",
    )
    return columns


def describe_component_columns(plan: MemberPlan) -> dict[str, ColumnDescription]:
    """Unit, direction and meaning of the columns of the table of connected components, in order.

    Args:
        plan: the members of the run.
    """
    columns = {
        "component": ColumnDescription("1", "none", "number within the label, the largest is 1")
    }
    for axis in "zyx":
        columns[f"centre_{axis}"] = ColumnDescription(
            "voxels", "none", f"centre on the grid of the image, axis {axis}, counted from 0"
        )
    columns["volume_ml"] = ColumnDescription("ml", "none", "volume on the network's grid")
    columns["entropy_mean"] = ColumnDescription(
        "nats", "higher_is_worse", "entropy of the fused probability: mean over the component"
    )
    for family in plan.families:
        columns[f"{family.name}_agreement"] = _agreement(
            f"share of members of {family.name} that give a voxel the label it has: mean over the "
            "component"
        )
    return columns


def aggregated_maps(plan: MemberPlan, maps: Collection[str] = ()) -> tuple[str, ...]:
    """Names of the voxel maps that are aggregated to scores, in order."""
    return tuple(_aggregated_maps(plan, maps))


def _aggregated_maps(plan: MemberPlan, maps: Collection[str]) -> dict[str, tuple[str, str]]:
    """Unit and meaning of each map."""
    texts = {"entropy": ("nats", "entropy of the fused probability")}
    for family in plan.families:
        name = family.name
        information = f"mutual information between prediction and member of {name}"
        texts[f"{name}_mutual_information"] = ("nats", information)
        texts[f"{name}_variance"] = ("1", f"variance over the members of {name}")
        texts[f"{name}_entropy"] = ("nats", f"entropy of the mean of {name}")
        test = f"p-value, where at least 0.05, of the two most probable classes over {name}"
        texts[f"{name}_ttest"] = ("1", test)
        texts[f"{name}_total_entropy"] = ("nats", f"entropy summed over all {name}")
    return {name: texts[name] for name in map_names(plan.families, maps) if name in texts}


def _agreement(description: str) -> ColumnDescription:
    return ColumnDescription("1", "higher_is_better", description)
