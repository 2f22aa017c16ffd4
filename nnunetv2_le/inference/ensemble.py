"""All networks of a run: several models, their checkpoints and folds, and where these may differ.

Models that see an image alike (spacing, patch, preprocessing, mirroring) are predicted tile by tile
together. A model that sees it otherwise is predicted on its own grid.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_le.errors import ModelFolderError
from nnunetv2_le.inference.checkpoints import CheckpointReader, Fold
from nnunetv2_le.inference.model import Model, load_model
from nnunetv2_le.network.head_sources import HeadSource


@dataclass(frozen=True)
class TrainedNetwork:
    """One network with its parameters, and where it stands in each family of networks.

    Attributes:
        source: its heads.
        places: family (``folds``, ``checkpoints``, ``models``) to the member it belongs to.
    """

    source: HeadSource
    places: dict[str, str]


@dataclass(frozen=True)
class Ensemble:
    """The models of a run.

    Attributes:
        models: all models; the grid is the first one's.
        names: a name for each that no other has.
    """

    models: tuple[Model, ...]
    names: tuple[str, ...]

    @property
    def first(self) -> Model:
        """The model on whose grid the run is scored."""
        return self.models[0]

    @property
    def others(self) -> dict[str, Model]:
        """The models that see an image otherwise than the first, by name."""
        view = _view(self.first)
        return {
            name: model
            for name, model in zip(self.names, self.models, strict=True)
            if _view(model) != view
        }

    @property
    def networks(self) -> tuple[TrainedNetwork, ...]:
        """The networks that see an image as the first does: models, their checkpoints, folds."""
        return tuple(
            network
            for name, model in zip(self.names, self.models, strict=True)
            if name not in self.others
            for network in model_networks(model, name)
        )

    @property
    def has_one_kind_of_heads(self) -> bool:
        """Whether a head of one network is the same head of every other."""
        kinds = {
            (source.family_name, source.head_names, source.num_fused_heads)
            for model in self.models
            for source in model.sources
        }
        return len(kinds) == 1 and not self.others


def load_ensemble(
    folders: Sequence[Path],
    *,
    folds: Sequence[Fold] | None = None,
    checkpoint_name: str | Sequence[str] = "checkpoint_final.pth",
) -> Ensemble:
    """Load one or several model folders.

    Args:
        folders: folders as nnU-Net wrote them.
        folds: folds of every model; None takes all numbered folds that have the checkpoints.
        checkpoint_name: checkpoints of every fold; see ``load_model``.

    Raises:
        ModelFolderError: a folder is missing or named twice, or models differ in labels, channels,
            file ending, folds or checkpoints.
        CheckpointError: a checkpoint cannot be read or does not fit.
    """
    resolved = [folder.resolve() for folder in folders]
    if twice := [str(folder) for folder, count in Counter(resolved).items() if count > 1]:
        raise ModelFolderError(f"A model is named twice: {', '.join(twice)}. Name each once.")
    reader = CheckpointReader()
    models = [
        load_model(folder, folds=folds, checkpoint_name=checkpoint_name, reader=reader)
        for folder in folders
    ]
    return as_ensemble(models)


def as_ensemble(models: Sequence[Model]) -> Ensemble:
    """Models as one ensemble.

    Raises:
        ModelFolderError: models differ in labels, channels, file ending, folds or checkpoints.
    """
    first = models[0]
    for other in models[1:]:
        for what, ours, theirs in zip(_COMPARED, _facts(first), _facts(other), strict=True):
            if ours != theirs:
                raise ModelFolderError(
                    f"The models of a run need the same {what}, but {first.folder} has {ours!r} "
                    f"and {other.folder} has {theirs!r}. Leave one of them out."
                )
    return Ensemble(tuple(models), _short_names([model.folder for model in models]))


def model_networks(model: Model, name: str = "") -> list[TrainedNetwork]:
    """The networks of one model: the folds of the first checkpoint, then those of the next."""
    places = [
        {"folds": f"fold_{fold}", "checkpoints": Path(checkpoint).stem, "models": name}
        for checkpoint in model.checkpoint_names
        for fold in model.folds
    ]
    return [
        TrainedNetwork(source, place) for source, place in zip(model.sources, places, strict=True)
    ]


_COMPARED = ("labels", "channels", "file ending", "folds (-f)", "checkpoints (-chk)")


def _facts(model: Model) -> tuple[Any, ...]:
    """What all models of a run have in common."""
    labels = model.labels
    said = dict(zip(labels.names, labels.values, strict=True))
    return (
        said | ({"regions_class_order": labels.region_values} if labels.has_regions else {}),
        list(model.dataset_json["channel_names"].values()),
        model.dataset_json["file_ending"],
        list(model.folds),
        list(model.checkpoint_names),
    )


def _view(model: Model) -> tuple[Any, ...]:
    """How a model sees an image: preprocessing, tiles, mirroring."""
    plans, configuration = model.plans, model.configuration
    settings = configuration.configuration
    keys = ("resampling_fn_data", "resampling_fn_data_kwargs", "use_mask_for_norm")
    return (
        configuration.preprocessor_name,
        list(configuration.spacing),
        list(configuration.patch_size),
        list(configuration.normalization_schemes),
        [settings.get(key) for key in keys],
        configuration.previous_stage_name,
        list(plans.transpose_forward),
        plans.foreground_intensity_properties_per_channel,
        plans.plans["image_reader_writer"],
        model.mirror_axes,
    )


def _short_names(folders: Sequence[Path]) -> tuple[str, ...]:
    """What tells folders apart: their paths without what all of them begin and end with."""
    parts = [list(folder.resolve().parts) for folder in folders]
    if len(parts) == 1:
        return (folders[0].resolve().name,)
    for end in (0, -1):
        while all(parts) and len({part[end] for part in parts}) == 1:
            for part in parts:
                del part[end]
    return tuple("/".join(part) or "." for part in parts)
