"""The checkpoints of a model folder have to be of one model: network, plans, meaning of channels.

nnU-Net keeps the plans and the data set's description in every checkpoint, but predicts with the
``plans.json`` and ``dataset.json`` of the folder, which the last training wrote. Whoever plans anew
between two folds leaves folds that cannot be averaged.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_le.errors import CheckpointError
from nnunetv2_le.inference.checkpoints import Checkpoint, Fold

# What a prediction takes from the plans, of a configuration and of the plans themselves. The rest
# (batch size, names of folders, median sizes) may differ from fold to fold.
_OF_CONFIGURATION = (
    "spacing",
    "patch_size",
    "normalization_schemes",
    "use_mask_for_norm",
    "preprocessor_name",
    "previous_stage",
)
_OF_PLANS = ("transpose_forward", "transpose_backward", "image_reader_writer")
_OF_DATASET = ("labels", "regions_class_order", "channel_names")
_LONGEST = 120  # characters of a value that a message shows


def require_one_model(checkpoints: Mapping[tuple[str, Fold], Checkpoint], folder: Path) -> None:
    """Refuse checkpoints that cannot be predicted together.

    Args:
        checkpoints: name and fold to checkpoint.
        folder: the model's folder.

    Raises:
        CheckpointError: naming the first difference.
    """
    (first_name, first_fold), first = next(iter(checkpoints.items()))
    for (name, fold), other in checkpoints.items():
        for what, value, expected in _differences(other, first):
            raise CheckpointError(
                f"The checkpoints of one model have to agree, but {folder}/fold_{fold}/{name} has "
                f"{what} {_shown(value)} where fold_{first_fold}/{first_name} has "
                f"{_shown(expected)}. Leave one of them out with -f or -chk."
            )


def _differences(other: Checkpoint, first: Checkpoint) -> Iterator[tuple[str, Any, Any]]:
    """What differs, as it is in one and in the other."""
    if other is first:
        return
    for what in ("configuration_name", "mirror_axes"):
        yield from _difference(what, getattr(other, what), getattr(first, what))
    if other.weights.keys() != first.weights.keys():  # other heads, or another network
        yield from _difference("trainer_name", other.trainer_name, first.trainer_name)
    yield from _different_plans(other, first)
    for what in _OF_DATASET:
        if other.dataset_json and first.dataset_json:
            yield from _difference(what, other.dataset_json.get(what), first.dataset_json.get(what))
    for name in (name for name in first.weights if name in other.weights):
        shapes = [tuple(getattr(of.weights[name], "shape", ())) for of in (other, first)]
        yield from _difference(f"{name} of shape", *shapes)


def _different_plans(other: Checkpoint, first: Checkpoint) -> Iterator[tuple[str, Any, Any]]:
    if other.plans == first.plans or not (other.plans and first.plans):
        return
    configurations = [
        PlansManager(of.plans).get_configuration(of.configuration_name).configuration
        for of in (other, first)
    ]
    for what in _OF_CONFIGURATION:
        yield from _difference(what, *(found.get(what) for found in configurations))
    for what in _OF_PLANS:
        yield from _difference(what, other.plans.get(what), first.plans.get(what))
    if "CTNormalization" in configurations[0].get("normalization_schemes", ()):
        what = "foreground_intensity_properties_per_channel"
        yield from _difference(what, other.plans.get(what), first.plans.get(what))


def _difference(what: str, value: Any, expected: Any) -> Iterator[tuple[str, Any, Any]]:
    if value != expected:
        yield what, value, expected


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
