"""The record of a case: everything that the tables need, as JSON. Undefined numbers are null."""

import math
from typing import Any

from nnunetv2_le.inference.file_orientation import voxel_in_file
from nnunetv2_le.inference.judging import Judgement
from nnunetv2_le.inference.prediction import CasePrediction
from nnunetv2_le.inference.settings import PredictionSettings
from nnunetv2_le.types import Choice, ComponentScores, MemberPlan
from nnunetv2_le.uncertainty.map_names import on_demand_maps
from nnunetv2_le.version import __version__


def case_record(prediction: CasePrediction) -> dict[str, Any]:
    """What ``cases/CASE.json`` holds: scores, components and the voxel counts of agreement.

    The counts allow every agreement score to be computed again for other members (heads skipped,
    families joined) without a new prediction.
    """
    scores, counts = prediction.scores, prediction.accumulated.counts
    return {
        "case": prediction.case,
        "version": __version__,
        "empty_prediction": scores.empty_prediction,
        "num_members": scores.num_members,
        "scores": defined(scores.scores),
        "layer_agreement": [_number(value) for value in scores.layer_agreement],
        "labels": {label: defined(row) for label, row in scores.per_label.items()},
        "label_values": dict(zip(prediction.labels.names, prediction.labels.values, strict=True)),
        "components": [_component(component, prediction) for component in scores.components],
        **_choice(prediction.accumulated.choice),
        "ordered": [family.name for family in prediction.plan.families if family.ordered],
        "counts": {
            "pairs": counts.pairs.tolist(),
            "with_fused": counts.with_fused.tolist(),
            "fused": counts.fused.tolist(),
        },
    }


def with_volumes(
    record: dict[str, Any], volume_ml: float, by_label: dict[str, float]
) -> dict[str, Any]:
    """The record with the volumes of the segmentation that is written.

    Args:
        record: what ``case_record`` gives, with volumes of the masks on the network's grid.
        volume_ml: of the foreground.
        by_label: of each label.
    """
    labels = {name: row | {"volume_ml": by_label[name]} for name, row in record["labels"].items()}
    return record | {"scores": record["scores"] | {"volume_ml": volume_ml}, "labels": labels}


def judgement_record(judgement: Judgement) -> dict[str, Any]:
    """What ``cases/CASE.json`` holds of a calibrated case besides."""
    return {
        "numbers": defined(judgement.numbers),
        "texts": judgement.texts,
        "labels": {label: defined(row) for label, row in judgement.labels.items()},
    }


def settings_record(
    settings: PredictionSettings,
    plan: MemberPlan,
    *,
    has_mirrors: bool,
    weights: str,
    calibration: str | None,
) -> dict[str, Any]:
    """What scores and columns of a case depend on, apart from the image.

    Args:
        settings: of the run.
        plan: its members.
        has_mirrors: the model was trained with mirroring.
        weights: what tells its weights from others.
        calibration: the same of its calibration.
    """
    with_columns = set(settings.maps) & set(on_demand_maps(plan.families))
    return {
        "fusion": settings.fusion,
        "skip_heads": settings.skip_heads,
        "step_size": settings.step_size,
        "use_mirroring": settings.use_mirroring and has_mirrors,
        "use_gaussian": settings.use_gaussian,
        "on_demand_maps": sorted(with_columns),
        "weights": weights,
        "members": {family.name: list(family.members) for family in plan.families},
        "calibration": calibration,
    }


def defined(scores: dict[str, float]) -> dict[str, float | None]:
    """Scores with null for what is undefined."""
    return {name: _number(value) for name, value in scores.items()}


def _component(component: ComponentScores, prediction: CasePrediction) -> dict[str, Any]:
    network_shape = prediction.accumulated.fused_logits.shape[1:]
    grid = prediction.grid
    centre = voxel_in_file(
        grid.native_voxel(component.centre_voxels, network_shape),
        grid.native_shape,
        prediction.properties,
    )
    return {
        "label": component.label,
        "component": component.component,
        "centre_voxels": list(centre),
        "volume_ml": component.volume_ml,
        "scores": defined(component.scores),
    }


def _choice(choice: Choice | None) -> dict[str, Any]:
    """Which member ``-fusion lowest_uncertainty`` took, and what it compared."""
    if choice is None:
        return {}
    ratios = defined(choice.entropy_boundary_ratio)
    return {
        "chosen": {
            "family": choice.family,
            "member": choice.member,
            "entropy_boundary_ratio": ratios,
        }
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
