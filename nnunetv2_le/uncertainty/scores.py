"""Every score of one case: agreement, aggregated voxel maps, volumes and connected components."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from nnunetv2_le.types import (
    FUSED,
    Accumulated,
    CaseScores,
    Family,
    Labels,
    MemberPlan,
    OverlapCounts,
)
from nnunetv2_le.uncertainty.aggregation import MapSums, MaskRegions
from nnunetv2_le.uncertainty.agreement import (
    aula,
    aula_normalized,
    consensus_dice,
    layer_agreement,
    pairwise_dice,
)
from nnunetv2_le.uncertainty.columns import (
    ColumnDescription,
    aggregated_maps,
    case_columns,
    describe_columns,
)
from nnunetv2_le.uncertainty.components import component_scores
from nnunetv2_le.uncertainty.soft_dice import soft_dice

__all__ = ["ColumnDescription", "case_columns", "describe_columns", "score_case"]


@dataclass(frozen=True)
class _OfLabels:
    """A score of each label, 1 (AULA: n - 1) where no mask finds it that the score compares."""

    values: Float[np.ndarray, "labels"]
    is_found: Bool[np.ndarray, "labels"]

    def of_label(self, number: int) -> float:
        return float(self.values[number]) if self.is_found[number] else math.nan

    def of_case(self) -> float:
        defined = self.values[np.isfinite(self.values)]
        return float(defined.mean()) if len(defined) and self.is_found.any() else math.nan


def score_case(
    case: str,
    accumulated: Accumulated,
    *,
    plan: MemberPlan,
    labels: Labels,
    voxel_volume_ml: float,
    skip_heads: int = 0,
) -> CaseScores:
    """Score a case from what the accumulator kept.

    Agreement: one value a label, and their mean for the case. Of a label that all masks which a
    score compares leave empty the score is NaN (perfect agreement on nothing is not confidence),
    and Dice 1 in the mean of the case; if that is so for every label, the score of the case is NaN
    too. A score compares the members of its family (AULA: the heads that are left), consensus Dice
    these and the fused segmentation. The case is an empty prediction if every member and the fused
    segmentation leave every label empty. AULA needs an ordered family of at least two members, else
    it is NaN. Soft Dice of a label that the fused segmentation leaves empty is 0 where at least
    half of the members give it to a voxel, else undefined.

    Maps: aggregated over the fused mask of each label, and for the case over the union of these
    masks.

    Volumes: of a label its fused volume and the standard deviation (divisor: members) of its volume
    over the members of all families; of the case the volume of the union, and the standard
    deviation of each member's sum of label volumes. For classes that sum is the member's
    foreground; overlapping regions count as often in it as they overlap.

    Args:
        case: name of the case.
        accumulated: result of the accumulator.
        plan: the plan it was made with.
        labels: the labels it was made with.
        voxel_volume_ml: volume of a voxel of the network's grid.
        skip_heads: how many of the shallowest heads layer agreement leaves out.

    Raises:
        SettingError: ``skip_heads`` leaves fewer than two heads.
    """
    counts = accumulated.counts
    is_empty = not (counts.pairs.any() or counts.fused.any())
    curves = _curves(counts, plan, skip_heads)
    agreements = _agreements(accumulated, plan, curves, skip_heads=skip_heads)
    scores, per_label = _rows(
        accumulated, agreements, plan=plan, labels=labels, voxel_volume_ml=voxel_volume_ml
    )
    return CaseScores(
        case=case,
        scores=scores,
        per_label=per_label,
        components=component_scores(
            accumulated, plan=plan, labels=labels, voxel_volume_ml=voxel_volume_ml
        ),
        empty_prediction=is_empty,
        num_members=plan.num_family_members,
        layer_agreement=tuple(curves.mean(axis=0).tolist()),
    )


def _rows(
    accumulated: Accumulated,
    agreements: dict[str, _OfLabels],
    *,
    plan: MemberPlan,
    labels: Labels,
    voxel_volume_ml: float,
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Scores of the case, and of each label by its name."""
    sums = {
        name: MapSums(accumulated.maps[name]) for name in aggregated_maps(plan, accumulated.maps)
    }
    counts = accumulated.counts
    sizes = np.diagonal(counts.pairs, axis1=1, axis2=2) * voxel_volume_ml
    union = accumulated.fused_foreground
    scores = {
        **{column: score.of_case() for column, score in agreements.items()},
        **_aggregates(sums, union),
        "volume_ml": int(np.count_nonzero(union)) * voxel_volume_ml,
        "volume_std_ml": float(sizes.sum(axis=0).std()),
    }
    per_label = {
        name: {
            **{column: score.of_label(number) for column, score in agreements.items()},
            **_aggregates(sums, accumulated.fused_mask(number)),
            "volume_ml": int(counts.fused[number]) * voxel_volume_ml,
            "volume_std_ml": float(sizes[number].std()),
        }
        for number, name in enumerate(labels.names)
    }
    return scores, per_label


def _curves(
    counts: OverlapCounts, plan: MemberPlan, skip_heads: int
) -> Float[np.ndarray, "labels agreements"]:
    """Layer agreement of the ordered family; an empty curve without two ordered members."""
    ordered = _ordered_family(plan)
    if ordered is None or len(ordered.members) < 2:
        return np.empty((len(counts.fused), 0))
    heads = plan.numbers(ordered)
    curves = layer_agreement(counts, heads, skip_heads)
    return curves if counts.found(heads[skip_heads:]).any() else np.full_like(curves, math.nan)


def _ordered_family(plan: MemberPlan) -> Family | None:
    return next((family for family in plan.families if family.ordered), None)


def _agreements(
    accumulated: Accumulated,
    plan: MemberPlan,
    curves: Float[np.ndarray, "labels agreements"],
    *,
    skip_heads: int,
) -> dict[str, _OfLabels]:
    """Agreement and soft Dice of each label, in the order of the columns."""
    counts, ordered = accumulated.counts, _ordered_family(plan)

    def consensus(members: range) -> _OfLabels:
        return _OfLabels(
            consensus_dice(counts, members), counts.found(members) | (counts.fused > 0)
        )

    by_heads = counts.found(range(0) if ordered is None else plan.numbers(ordered)[skip_heads:])
    scores = {
        "aula": _OfLabels(aula(curves), by_heads),
        "aula_normalized": _OfLabels(aula_normalized(curves), by_heads),
        "consensus_dice": consensus(range(plan.num_family_members)),
    }
    for family in plan.families:
        members = plan.numbers(family)
        pairwise = pairwise_dice(counts, members)
        scores[f"{family.name}_pairwise_dice"] = _OfLabels(pairwise, counts.found(members))
        scores[f"{family.name}_consensus_dice"] = consensus(members)
    for column, values in _soft_dice(accumulated, plan).items():
        scores[column] = _OfLabels(values, np.isfinite(values))
    return {name: scores[name] for name in case_columns(plan) if name in scores}


def _soft_dice(
    accumulated: Accumulated, plan: MemberPlan
) -> dict[str, Float[np.ndarray, "labels"]]:
    counts = accumulated.counts
    found = np.diagonal(counts.pairs, axis1=1, axis2=2) > 0
    is_missing = (counts.fused == 0) & (found.mean(axis=1) >= 0.5)
    undefined = np.full(len(counts.fused), math.nan)
    columns = {"soft_dice": FUSED}
    columns |= {f"{family.name}_soft_dice": family.name for family in plan.families}
    return {
        column: np.where(is_missing, 0.0, soft_dice(accumulated.soft_sums[name], counts.fused))
        if name in accumulated.soft_sums
        else undefined
        for column, name in columns.items()
    }


def _aggregates(
    sums: dict[str, MapSums], mask: Bool[np.ndarray, "depth height width"]
) -> dict[str, float]:
    regions = MaskRegions(mask)
    return {
        f"{name}_{aggregation}": value
        for name, values in sums.items()
        for aggregation, value in values.aggregate(regions).items()
    }
