"""Loading what nnU-Net trained: plans, network, one set of parameters a fold.

nnU-Net keeps checkpoints as pickles. They are read here with ``weights_only`` and the few NumPy types that nnU-Net's
own log puts into them; a checkpoint that needs more is read as nnU-Net reads it, which runs code that the file brings
along: load only models from people you trust.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.network_architecture import (
    nnUNetTrainerNoDeepSupervision as no_deep_supervision,
)
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.label_handling.label_handling import (
    LabelManager,
    determine_num_input_channels,
)
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor

from nnunetv2_le.errors import CheckpointError, ModelFolderError
from nnunetv2_le.network.head_sources import HeadSource, head_source
from nnunetv2_le.training.registry import register_trainers
from nnunetv2_le.types import Labels

logger = logging.getLogger(__name__)

Fold = int | str


@dataclass(frozen=True)
class Model:
    """A trained model, ready to predict.

    Attributes:
        folder: where it was loaded from.
        source: the network behind the interface of head sources, on the CPU.
        parameters: state dicts of the network, one a fold.
        folds: the folds, in the order of ``parameters``.
        mirror_axes: spatial axes that may be mirrored, or None.
    """

    folder: Path
    source: HeadSource
    parameters: tuple[dict[str, Tensor], ...]
    folds: tuple[Fold, ...]
    trainer_name: str
    checkpoint_name: str
    plans: PlansManager
    configuration: ConfigurationManager
    configuration_name: str
    dataset_json: dict[str, Any]
    label_manager: LabelManager
    labels: Labels
    mirror_axes: tuple[int, ...] | None


def load_model(
    folder: Path, *, folds: Sequence[Fold] | None = None, checkpoint_name: str = "checkpoint_final.pth"
) -> Model:
    """Load a model folder as nnU-Net wrote it.

    Args:
        folder: ``.../TRAINER__PLANS__CONFIGURATION``, with ``plans.json``, ``dataset.json`` and ``fold_X`` folders.
        folds: which folds; None takes all numbered folds that have the checkpoint.
        checkpoint_name: file name of the checkpoint within each fold.

    Raises:
        ModelFolderError: the folder, a fold or a file is not there.
        CheckpointError: a checkpoint cannot be read or does not fit the network.
    """
    register_trainers()
    dataset_json = _read_json(folder, "dataset.json")
    plans = PlansManager(_read_json(folder, "plans.json"))
    chosen = tuple(folds) if folds else _available_folds(folder, checkpoint_name)
    checkpoints = [_read_checkpoint(folder, fold, checkpoint_name) for fold in chosen]
    first = checkpoints[0]
    configuration_name = first["init_args"]["configuration"]
    configuration = plans.get_configuration(configuration_name)
    label_manager = plans.get_label_manager(dataset_json)
    trainer = _find_trainer(first["trainer_name"])
    network = trainer.build_network_architecture(
        plans,
        configuration,
        determine_num_input_channels(plans, configuration, dataset_json),
        label_manager.num_segmentation_heads,
        enable_deep_supervision=False,
    )
    parameters = tuple(checkpoint["network_weights"] for checkpoint in checkpoints)
    for fold, weights in zip(chosen, parameters, strict=True):
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise CheckpointError(
                f"The checkpoint of fold {fold} in {folder} does not fit the network that its plans describe "
                f"({str(error).splitlines()[0]}). Use the plans.json that the model was trained with."
            ) from error
    network.load_state_dict(parameters[0])
    trained_deep = not issubclass(trainer, no_deep_supervision.nnUNetTrainerNoDeepSupervision)
    axes = first.get("inference_allowed_mirroring_axes")
    return Model(
        folder=folder,
        source=head_source(network, deep_supervision=trained_deep).eval(),
        parameters=parameters,
        folds=chosen,
        trainer_name=first["trainer_name"],
        checkpoint_name=checkpoint_name,
        plans=plans,
        configuration=configuration,
        configuration_name=configuration_name,
        dataset_json=dataset_json,
        label_manager=label_manager,
        labels=describe_labels(label_manager),
        mirror_axes=tuple(axes) if axes else None,
    )


def describe_labels(manager: LabelManager) -> Labels:
    """What nnU-Net's label manager knows, as the package's own type."""
    names = {_freeze(value): name for name, value in manager.label_dict.items()}
    if manager.has_regions:
        regions = [_freeze(region) for region in manager.foreground_regions]
        return Labels(
            names=tuple(names[region] for region in regions),
            values=tuple(regions),
            has_regions=True,
            region_values=tuple(int(value) for value in manager.regions_class_order),
        )
    values = tuple(int(value) for value in manager.foreground_labels)
    return Labels(names=tuple(names.get(value, str(value)) for value in values), values=values)


def _freeze(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(int(part) for part in value)
    return int(value)


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    if not path.is_file():
        raise ModelFolderError(
            f"Expected a trained nnU-Net model in {folder}, but it has no {name}. Name the folder that holds plans.json, "
            f"dataset.json and the fold_X folders (TRAINER__PLANS__CONFIGURATION)."
        )
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelFolderError(f"{path} is not valid JSON ({error}). Restore it from the training machine.") from error
    return content


def _available_folds(folder: Path, checkpoint_name: str) -> tuple[Fold, ...]:
    """Numbered folds that have the checkpoint, as nnU-Net detects them; ``fold_all`` where there are none."""
    numbers = sorted(
        int(path.name[5:])
        for path in folder.glob("fold_*")
        if path.name[5:].isdigit() and (path / checkpoint_name).is_file()
    )
    if numbers:
        return tuple(numbers)
    if (folder / "fold_all" / checkpoint_name).is_file():
        return ("all",)
    raise ModelFolderError(
        f"No fold of {folder} has a {checkpoint_name}. Finish a training, or name another checkpoint with -chk "
        f"(for example checkpoint_best.pth)."
    )


def _read_checkpoint(folder: Path, fold: Fold, checkpoint_name: str) -> dict[str, Any]:
    path = folder / f"fold_{fold}" / checkpoint_name
    if not path.is_file():
        there = sorted(other.parent.name for other in folder.glob(f"fold_*/{checkpoint_name}"))
        raise ModelFolderError(
            f"Expected {path}, which does not exist. Folds with a {checkpoint_name} here: {', '.join(there) or 'none'}. "
            f"Choose with -f, or name another checkpoint with -chk."
        )
    try:
        checkpoint = _load(path)
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}: {str(error).splitlines()[0]}). It may be "
            f"cut off: copy it again from the training machine."
        ) from error
    if not isinstance(checkpoint, dict) or not {"network_weights", "trainer_name", "init_args"} <= set(checkpoint):
        raise CheckpointError(
            f"{path} is not a checkpoint of nnU-Net v2: it lacks network_weights, trainer_name or init_args. "
            f"Name a file that nnUNetv2_train wrote."
        )
    return checkpoint


def _load(path: Path) -> Any:
    import numpy as np

    numpy_types = [np.dtype, np.float32, np.float64, type(np.dtype("float32")), type(np.dtype("float64"))]
    numpy_types.append(np._core.multiarray.scalar if hasattr(np, "_core") else np.core.multiarray.scalar)
    numpy_types.append(torch.device)
    try:
        with torch.serialization.safe_globals(numpy_types):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if "weights_only" not in str(error) and "WeightsUnpickler" not in str(error):
            raise
        logger.debug("%s needs more than weights: %s", path, error)
        return torch.load(path, map_location="cpu", weights_only=False)


def _find_trainer(name: str) -> type[nnUNetTrainer]:
    try:
        trainer: type[nnUNetTrainer] = recursive_find_trainer_class_by_name(name)
    except RuntimeError as error:
        raise ModelFolderError(
            f"The model was trained with {name!r}, a trainer that is neither nnU-Net's nor in nnUNet_extTrainer. "
            f"Install it, or add its folder to nnUNet_extTrainer."
        ) from error
    return trainer
