"""What a calibration belongs to: the model, its members and the settings that scores depend on."""

from nnunetv2_le.calibration.calibration_file import Identity, fold_names
from nnunetv2_le.inference.model import Model
from nnunetv2_le.inference.model_checksums import checksums
from nnunetv2_le.inference.settings import PredictionSettings
from nnunetv2_le.types import MemberPlan

EACH_ALONE = "each alone"
"""How folds predicted the labelled cases: the network of each its own validation cases."""


def identity_of(
    model: Model, plan: MemberPlan, settings: PredictionSettings, *, folds_alone: bool
) -> Identity:
    """What a calibration of this model is compared with.

    Args:
        model: with the folds that predict.
        plan: the members.
        settings: of the prediction.
        folds_alone: whether the labelled cases were predicted by one fold each, not by all.
    """
    folds = tuple(sorted(fold_names(model.folds)))  # their order changes no score
    names = [member for family in plan.families for member in family.members] + list(plan.extra)
    return Identity(
        dataset=model.plans.dataset_name,
        trainer=model.trainer_name,
        plans=model.plans.plans_name,
        configuration=model.configuration_name,
        folds=folds,
        checkpoint=" ".join(model.checkpoint_names),
        families=tuple(family.name for family in plan.families),
        heads=model.sources[0].head_names,
        fused=tuple(names[number] for number in plan.fused),
        labels=model.labels.names,
        checksums=checksums(model),
        settings={
            "fusion": settings.fusion,
            "mirroring": str(settings.use_mirroring and bool(model.mirror_axes)),
            "step size": str(settings.step_size),
            "Gaussian weights": str(settings.use_gaussian),
            "folds together": EACH_ALONE if folds_alone else " ".join(folds),
            "members": ", ".join(
                f"{family.name} {len(family.members)}" for family in plan.families
            ),
        },
    )


def use_fused_heads(model: Model, num_fused_heads: int) -> None:
    """Let the last so many heads make the segmentation."""
    for source in model.sources:
        source.num_fused_heads = num_fused_heads
