"""Loading what nnU-Net trained: plans, and one network with its parameters a checkpoint."""

import copy
import inspect
import io
import logging
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from nnunetv2_le.inference.checkpoints import (
    Checkpoint,
    CheckpointReader,
    Fold,
    available_folds,
    checkpoint_names,
)
from nnunetv2_le.inference.model_files import (
    read_configuration,
    read_dataset_json,
    read_label_manager,
    read_plans,
    restored,
)
from nnunetv2_le.inference.one_model import require_one_model
from nnunetv2_le.network.head_sources import HeadSource, decoder_heads_learned, head_source
from nnunetv2_le.training.registry import register_trainers
from nnunetv2_le.types import Labels

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Model:
    """A trained model, ready to predict.

    Attributes:
        folder: where it was loaded from.
        sources: the network of each checkpoint of each fold behind the interface of head sources,
            on the CPU: all folds of the first checkpoint, then those of the next.
        folds: the folds, numbers first and from the smallest.
        checkpoint_names: the checkpoints of each fold.
        mirror_axes: spatial axes that may be mirrored, or None.
    """

    folder: Path
    sources: tuple[HeadSource, ...]
    folds: tuple[Fold, ...]
    trainer_name: str
    checkpoint_names: tuple[str, ...]
    plans: PlansManager
    configuration: ConfigurationManager
    configuration_name: str
    dataset_json: dict[str, Any]
    label_manager: LabelManager
    labels: Labels
    mirror_axes: tuple[int, ...] | None


def load_model(
    folder: Path,
    *,
    folds: Sequence[Fold] | None = None,
    checkpoint_name: str | Sequence[str] = "checkpoint_final.pth",
    reader: CheckpointReader | None = None,
) -> Model:
    """Load a model folder as nnU-Net wrote it.

    Args:
        folder: ``.../TRAINER__PLANS__CONFIGURATION``, with ``plans.json``, ``dataset.json`` and
            ``fold_X`` folders.
        folds: which folds, in any order; None takes all numbered folds that have the checkpoints.
        checkpoint_name: file name of the checkpoint within each fold, or several names, or shell
            patterns of names.
        reader: reads checkpoints; give the same one for the models of one run, which bounds their
            memory together.

    Raises:
        ModelFolderError: the folder, a fold or a file is not there, a file lacks something, or a
            pattern matches nothing.
        CheckpointError: a checkpoint cannot be read or does not fit the network, or checkpoints
            differ in trainer, configuration or mirroring.
    """
    register_trainers()
    dataset_json, plans = read_dataset_json(folder), read_plans(folder)
    label_manager = read_label_manager(plans, dataset_json, folder)
    wanted = [checkpoint_name] if isinstance(checkpoint_name, str) else list(checkpoint_name)
    chosen = _in_order(folds) if folds else available_folds(folder, wanted)
    names = checkpoint_names(folder, wanted, folds=chosen)
    checkpoints = _read_all(folder, chosen, names, reader or CheckpointReader())
    first = next(iter(checkpoints.values()))
    configuration = read_configuration(plans, first.configuration_name, folder)
    trainer = _find_trainer(first.trainer_name)
    with restored(folder / "plans.json", "The network"):
        network = _build_network(trainer, plans, configuration, dataset_json)
    trained_deep = _trained_deep(trainer, list(checkpoints.values()))
    sources = []
    for (name, fold), checkpoint in checkpoints.items():
        file = folder / f"fold_{fold}" / name
        _require_trainer(checkpoint.trainer_name, like=trainer, checkpoint=file)
        loaded = _load_weights(copy.deepcopy(network), checkpoint.weights, file)
        sources.append(head_source(loaded, deep_supervision=trained_deep).eval())
    return Model(
        folder=folder,
        sources=tuple(sources),
        folds=chosen,
        trainer_name=first.trainer_name,
        checkpoint_names=names,
        plans=plans,
        configuration=configuration,
        configuration_name=first.configuration_name,
        dataset_json=dataset_json,
        label_manager=label_manager,
        labels=describe_labels(label_manager),
        mirror_axes=first.mirror_axes,
    )


def _trained_deep(trainer: type[nnUNetTrainer], checkpoints: Sequence[Checkpoint]) -> bool:
    """Whether heads before the last are predictions: those of deep supervision."""
    if issubclass(trainer, no_deep_supervision.nnUNetTrainerNoDeepSupervision):
        return False
    return all(decoder_heads_learned(checkpoint.weights) for checkpoint in checkpoints)


def _require_trainer(name: str, *, like: type[nnUNetTrainer], checkpoint: Path) -> None:
    """Refuse a trainer that makes the segmentation of other heads of the same network.

    Raises:
        CheckpointError: saying so.
    """
    if name == like.__name__:
        return
    fused, expected = (
        getattr(trainer, "num_fused_heads", None) for trainer in (_find_trainer(name), like)
    )
    if fused != expected:
        raise CheckpointError(
            f"The checkpoints of one model have to agree, but {checkpoint} was trained by {name!r} "
            f"(last heads fused: {fused}), others of {checkpoint.parents[1]} by "
            f"{like.__name__!r} ({expected}). Leave one of them out with -f or -chk."
        )


def _in_order(folds: Sequence[Fold]) -> tuple[Fold, ...]:
    """Each once, in one order however they were named: features are those of the first."""
    return tuple(sorted(set(folds), key=lambda fold: (isinstance(fold, str), fold)))


def _read_all(
    folder: Path, folds: Sequence[Fold], names: Sequence[str], reader: CheckpointReader
) -> dict[tuple[str, Fold], Checkpoint]:
    """Every named checkpoint of every fold; they have to be of one kind of network."""
    checkpoints = {
        (name, fold): reader.read(folder, fold, name) for name in names for fold in folds
    }
    require_one_model(checkpoints, folder)
    return checkpoints


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


def _load_weights(network: nn.Module, weights: dict[str, Tensor], checkpoint: Path) -> nn.Module:
    """The network with these weights themselves, or copies where its precision is another."""
    own = network.state_dict()
    fitting = {
        name: value.to(own[name].dtype)
        if name in own and isinstance(value, Tensor) and value.is_floating_point()
        else value
        for name, value in weights.items()
    }
    try:
        network.load_state_dict(fitting, assign=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"{checkpoint} does not fit the network that its plans "
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
