"""``plans.json`` and ``dataset.json`` of a model folder, with what a prediction needs of them."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunetv2_le.errors import LayerEnsembleError, ModelFolderError

_PLANS = (
    *("dataset_name", "plans_name", "image_reader_writer"),
    *("transpose_forward", "transpose_backward", "configurations"),
)
_RESAMPLING = tuple(
    f"resampling_fn_{kind}{kwargs}"
    for kind in ("data", "probabilities")
    for kwargs in ("", "_kwargs")
)
_CONFIGURATION = (
    *("preprocessor_name", "spacing", "patch_size", "normalization_schemes", "use_mask_for_norm"),
    *_RESAMPLING,
)
_RESTORE = "Restore it from the training machine."


def read_dataset_json(folder: Path) -> dict[str, Any]:
    """The description of the data set; ``modality`` is an old name of ``channel_names``.

    Raises:
        ModelFolderError: it is missing, no JSON, or lacks something.
    """
    content = _read_json(folder / "dataset.json")
    if "modality" in content:
        content.setdefault("channel_names", content["modality"])
    _require_keys(content, ("file_ending", "labels", "channel_names"), folder / "dataset.json")
    return content


def read_plans(folder: Path) -> PlansManager:
    """The plans.

    Raises:
        ModelFolderError: they are missing, no JSON, or lack something.
    """
    content = _read_json(folder / "plans.json")
    _require_keys(content, _PLANS, folder / "plans.json")
    return PlansManager(content)


def read_configuration(plans: PlansManager, name: str, folder: Path) -> ConfigurationManager:
    """A configuration of the plans, with what it inherits.

    Raises:
        ModelFolderError: there is no such configuration, or it lacks something.
    """
    file = folder / "plans.json"
    if name not in plans.available_configurations:
        raise ModelFolderError(
            f"The checkpoint was trained with configuration {name!r}, but {file} "
            f"has {', '.join(plans.available_configurations)}. Restore the plans.json of the "
            "training."
        )
    with restored(file, f"The configuration {name!r}"):
        configuration = plans.get_configuration(name)
    _require_keys(configuration.configuration, _CONFIGURATION, file)
    return configuration


def read_label_manager(
    plans: PlansManager, dataset_json: dict[str, Any], folder: Path
) -> LabelManager:
    """What the labels mean, as nnU-Net's label manager says it.

    Raises:
        ModelFolderError: the labels make no sense.
    """
    with restored(folder / "dataset.json", "The labels"):
        return plans.get_label_manager(dataset_json)


@contextmanager
def restored(file: Path, what: str) -> Iterator[None]:
    """Say of which file something cannot be used.

    Raises:
        ModelFolderError: whatever else goes wrong inside.
    """
    try:
        yield
    except LayerEnsembleError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelFolderError(
            f"{what} in {file} cannot be used ({type(error).__name__}: {reason}). {_RESTORE}"
        ) from error


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ModelFolderError(
            f"Expected a trained nnU-Net model in {file.parent}, but it has no {file.name}. Name "
            "the folder that holds plans.json, dataset.json and the fold_X folders "
            "(TRAINER__PLANS__CONFIGURATION)."
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelFolderError(f"{file} is not valid JSON ({error}). {_RESTORE}") from error
    if not isinstance(content, dict):
        raise ModelFolderError(
            f"{file} has to hold an object ({{...}}), it holds a {type(content).__name__}. "
            f"{_RESTORE}"
        )
    return content


def _require_keys(content: Mapping[str, Any], needed: tuple[str, ...], file: Path) -> None:
    if missing := [key for key in needed if key not in content]:
        raise ModelFolderError(f"{file} lacks {', '.join(missing)}. {_RESTORE}")
