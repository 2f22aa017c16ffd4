"""Loading what nnU-Net trained: plans, and one network with its parameters a fold.

nnU-Net keeps checkpoints as pickles. They are read here with ``weights_only`` and the few NumPy
types that nnU-Net's own log puts into them; a checkpoint that needs more is read as nnU-Net reads
it, which runs code that the file brings along (``documentation/security.md``).
"""

import copy
import inspect
import io
import json
import logging
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
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
from torch import Tensor, nn

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
        sources: the network of each fold behind the interface of head sources, on the CPU.
        folds: the folds, in the order of ``sources``.
        mirror_axes: spatial axes that may be mirrored, or None.
    """

    folder: Path
    sources: tuple[HeadSource, ...]
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


@dataclass(frozen=True)
class _Checkpoint:
    """What a prediction needs of a checkpoint; the optimizer's state is as large again."""

    weights: dict[str, Tensor]
    trainer_name: str
    configuration_name: str
    mirror_axes: tuple[int, ...] | None


def load_model(
    folder: Path,
    *,
    folds: Sequence[Fold] | None = None,
    checkpoint_name: str = "checkpoint_final.pth",
) -> Model:
    """Load a model folder as nnU-Net wrote it.

    Args:
        folder: ``.../TRAINER__PLANS__CONFIGURATION``, with ``plans.json``, ``dataset.json`` and
            ``fold_X`` folders.
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
    configuration = _configuration(plans, first.configuration_name, folder)
    trainer = _find_trainer(first.trainer_name)
    network = _build_network(trainer, plans, configuration, dataset_json)
    trained_deep = not issubclass(trainer, no_deep_supervision.nnUNetTrainerNoDeepSupervision)
    sources = []
    for fold, checkpoint in zip(chosen, checkpoints, strict=True):
        loaded = _load_weights(copy.deepcopy(network), checkpoint.weights, fold, folder)
        sources.append(head_source(loaded, deep_supervision=trained_deep).eval())
    label_manager = plans.get_label_manager(dataset_json)
    return Model(
        folder=folder,
        sources=tuple(sources),
        folds=chosen,
        trainer_name=first.trainer_name,
        checkpoint_name=checkpoint_name,
        plans=plans,
        configuration=configuration,
        configuration_name=first.configuration_name,
        dataset_json=dataset_json,
        label_manager=label_manager,
        labels=describe_labels(label_manager),
        mirror_axes=first.mirror_axes,
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
            f"Expected a trained nnU-Net model in {folder}, but it has no {name}. Name the folder "
            "that holds plans.json, dataset.json and the fold_X folders "
            "(TRAINER__PLANS__CONFIGURATION)."
        )
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelFolderError(
            f"{path} is not valid JSON ({error}). Restore it from the training machine."
        ) from error
    return content


def _available_folds(folder: Path, checkpoint_name: str) -> tuple[Fold, ...]:
    """Numbered folds that have the checkpoint, as nnU-Net finds them; else ``fold_all``."""
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
        f"No fold of {folder} has a {checkpoint_name}. Finish a training, or name another "
        "checkpoint with -chk (for example checkpoint_best.pth)."
    )


def _read_checkpoint(folder: Path, fold: Fold, checkpoint_name: str) -> _Checkpoint:
    path = folder / f"fold_{fold}" / checkpoint_name
    if not path.is_file():
        there = sorted(other.parent.name for other in folder.glob(f"fold_*/{checkpoint_name}"))
        raise ModelFolderError(
            f"Expected {path}, which does not exist. Folds with a {checkpoint_name} here: "
            f"{', '.join(there) or 'none'}. Choose with -f, or name another checkpoint with -chk."
        )
    try:
        content = _load(path)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}: {reason}). It may be "
            "cut off: copy it again from the training machine."
        ) from error
    needed = {"network_weights", "trainer_name", "init_args"}
    if not isinstance(content, Mapping) or not needed <= set(content):
        raise CheckpointError(
            f"{path} is not a checkpoint of nnU-Net v2: it lacks network_weights, trainer_name or "
            "init_args. Name a file that nnUNetv2_train wrote."
        )
    axes = content.get("inference_allowed_mirroring_axes")
    return _Checkpoint(
        # copies: nothing of the mapped file is left
        weights={
            name: values.clone() if isinstance(values, Tensor) else values
            for name, values in content["network_weights"].items()
        },
        trainer_name=content["trainer_name"],
        configuration_name=content["init_args"]["configuration"],
        mirror_axes=tuple(axes) if axes else None,
    )


def _load(path: Path) -> Any:
    """Read a checkpoint; its file is mapped, so that only what is used is ever read."""
    mapped = zipfile.is_zipfile(path)
    numpy_types: list[Any] = [np.dtype, np.float32, np.float64]
    numpy_types += [type(np.dtype("float32")), type(np.dtype("float64"))]
    core = np._core if hasattr(np, "_core") else np.core
    numpy_types += [core.multiarray.scalar, torch.device]
    try:
        with torch.serialization.safe_globals(numpy_types):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:
        if "weights_only" not in str(error) and "WeightsUnpickler" not in str(error):
            raise
        logger.debug("%s needs more than weights: %s", path, error)
        return torch.load(path, map_location="cpu", weights_only=False, mmap=mapped)


def _configuration(plans: PlansManager, name: str, folder: Path) -> ConfigurationManager:
    if name not in plans.available_configurations:
        raise ModelFolderError(
            f"The checkpoint was trained with configuration {name!r}, but {folder / 'plans.json'} "
            f"has {', '.join(plans.available_configurations)}. Restore the plans.json of the "
            "training."
        )
    return plans.get_configuration(name)


def _build_network(
    trainer: type[nnUNetTrainer],
    plans: PlansManager,
    configuration: ConfigurationManager,
    dataset_json: dict[str, Any],
) -> nn.Module:
    """The network that a trainer builds, by the new or the old signature, as nnU-Net calls it."""
    inputs = determine_num_input_channels(plans, configuration, dataset_json)
    outputs = plans.get_label_manager(dataset_json).num_segmentation_heads
    build = trainer.build_network_architecture
    arguments: tuple[Any, ...] = (plans, configuration)
    if "plans_manager" not in inspect.signature(build).parameters:
        arguments = (
            configuration.network_arch_class_name,
            configuration.network_arch_init_kwargs,
            configuration.network_arch_init_kwargs_req_import,
        )
    network: nn.Module = build(*arguments, inputs, outputs, enable_deep_supervision=False)
    return network


def _load_weights(
    network: nn.Module, weights: dict[str, Tensor], fold: Fold, folder: Path
) -> nn.Module:
    try:
        network.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"The checkpoint of fold {fold} in {folder} does not fit the network that its plans "
            f"describe ({' '.join(str(error).split())[:200]}). Use the plans.json that the model "
            "was trained with."
        ) from error
    return network


def _find_trainer(name: str) -> type[nnUNetTrainer]:
    said = io.StringIO()  # nnU-Net prints how it searches, and imports what warns of its own
    try:
        with redirect_stdout(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer: type[nnUNetTrainer] = recursive_find_trainer_class_by_name(name)
    except RuntimeError as error:
        raise ModelFolderError(
            f"The model was trained with {name!r}, a trainer that is neither nnU-Net's nor in "
            "nnUNet_extTrainer. Install it, or add its folder to nnUNet_extTrainer."
        ) from error
    logger.debug("%s", said.getvalue())
    return trainer
