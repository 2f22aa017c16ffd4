"""Which labelled cases a calibration looks at: the validation cases of a fold, or a folder's.

A case is never predicted by a network that was trained on it. For folds nnU-Net's own split
(``splits_final.json`` of the preprocessed data set) says which cases these are. Cases of a folder
are told by their names; where it is not known what a fold was trained on, that is logged.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from nnunetv2_le.errors import InputError, SettingError
from nnunetv2_le.inference.cases import Case, find_cases, list_images
from nnunetv2_le.inference.checkpoints import Fold
from nnunetv2_le.inference.model import Model

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledCase:
    """A case with its reference labels."""

    case: Case
    reference: Path


def validation_cases(
    model: Model, fold: Fold, *, previous_stage: Path | None = None
) -> list[LabelledCase]:
    """The cases that the training of a fold left out, with their labels.

    Args:
        model: the model, of this fold alone.
        fold: a numbered fold.
        previous_stage: segmentations of a cascade's previous stage.

    Raises:
        SettingError: the fold is ``all``, which left out no case.
        InputError: the split, the fold in it, or a file of a case is missing.
    """
    if not isinstance(fold, int):
        raise SettingError(
            f"Fold {fold!r} was trained on every case, so none is left to calibrate it with. Name "
            "numbered folds with -f, or labelled cases with -i and -ref."
        )
    splits = read_splits(model.plans.dataset_name)
    if splits is None:
        raise InputError(
            f"Expected {_splits_file(model.plans.dataset_name)}, which says what each fold was "
            "trained on, but it is not there. Copy it from the training machine, or name labelled "
            "cases with -i and -ref."
        )
    if fold >= len(splits):
        raise InputError(
            f"Fold {fold} is not in {_splits_file(model.plans.dataset_name)}, which has folds 0 to "
            f"{len(splits) - 1}. Name others with -f."
        )
    files = _training_files(model)
    wanted = sorted(set(splits[fold]["val"]))
    if missing := [case for case in wanted if case not in files]:
        raise InputError(
            f"{len(missing)} validation cases of fold {fold} have no image in nnUNet_raw, the "
            f"first is {missing[0]}. Restore the raw data set."
        )
    images = [[Path(image) for image in files[case]["images"]] for case in wanted]
    cases = find_cases(images, model, previous_stage=previous_stage)
    return _labelled(cases, {case: Path(files[case]["label"]) for case in wanted})


def folder_cases(
    images: Path, references: Path, model: Model, *, previous_stage: Path | None = None
) -> list[LabelledCase]:
    """The cases of a folder of images that have labels in another one.

    Args:
        images: in nnU-Net's naming.
        references: CASE and the data set's file ending.
        model: every fold that predicts them together.
        previous_stage: segmentations of a cascade's previous stage.

    Raises:
        InputError: a folder or the labels of a case are missing, or a fold was trained on a case of
            this name.
    """
    ending = model.dataset_json["file_ending"]
    cases = find_cases(images, model, previous_stage=previous_stage)
    _require_not_trained(model, [case.name for case in cases], images)
    return _labelled(cases, {case.name: references / f"{case.name}{ending}" for case in cases})


def trained_cases(model: Model, names: Sequence[str]) -> tuple[set[str], list[str]]:
    """Cases that the folds of a model were trained on, and folds of which that is not known.

    Args:
        model: the model.
        names: of the cases that are asked about.

    Raises:
        InputError: the split is not what nnU-Net writes.
    """
    splits = read_splits(model.plans.dataset_name) or []
    listed = _preprocessed_cases(model)
    trained: set[str] = set()
    unknown = []
    for fold in model.folds:
        if isinstance(fold, int) and fold < len(splits):
            trained.update(splits[fold]["train"])
        elif fold == "all" and (listed or splits):  # nnU-Net then trains on every case
            trained.update(listed, *(cases for split in splits for cases in split.values()))
        elif not listed or set(names) & listed:  # beyond the file nnU-Net splits at random
            unknown.append(str(fold))
    return trained, unknown


def _require_not_trained(model: Model, names: Sequence[str], images: Path) -> None:
    """Refuse names that a fold was trained on; say where that cannot be known."""
    trained, unknown = trained_cases(model, names)
    if seen := [name for name in names if name in trained]:
        raise InputError(
            f"{len(seen)} cases of {images} have names of cases that the model was trained on, the "
            f"first is {seen[0]}. Leave these out; rename them if they are others."
        )
    if unknown:
        logger.warning(
            "It cannot be checked whether the model has seen these cases: %s does not say what "
            "fold %s was trained on. Make sure that it has seen none of them, or the calibration "
            "promises too much.",
            _splits_file(model.plans.dataset_name),
            ", ".join(unknown),
        )


def _preprocessed_cases(model: Model) -> set[str]:
    """Every case of the preprocessed data set; none where it is not there."""
    data_set = _splits_file(model.plans.dataset_name).parent
    folder = data_set / model.configuration.data_identifier
    try:
        return set(infer_dataset_class(str(folder)).get_identifiers(str(folder)))
    except (OSError, AssertionError, KeyError):  # no folder, or not what nnU-Net writes
        return set()


def read_splits(dataset: str) -> list[dict[str, list[str]]] | None:
    """nnU-Net's split of a data set into folds; None where it is not there.

    Raises:
        InputError: the file is not what nnU-Net writes.
    """
    path = _splits_file(dataset)
    if not path.is_file():
        return None
    try:
        splits = json.loads(path.read_text(encoding="utf-8"))
        return [{part: list(split[part]) for part in ("train", "val")} for split in splits]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no split that nnU-Net wrote ({type(error).__name__}: {error}). Restore it "
            "from the training machine."
        ) from error


def _splits_file(dataset: str) -> Path:
    root = str(nnUNet_preprocessed) if nnUNet_preprocessed.is_set() else "nnUNet_preprocessed"
    return Path(root) / dataset / "splits_final.json"


def _training_files(model: Model) -> dict[str, dict[str, Any]]:
    """Images and labels of every training case, where nnU-Net finds them."""
    if not nnUNet_raw.is_set():
        raise InputError(
            "nnUNet_raw is not set, so the validation cases' images cannot be found. Set it, or "
            "name labelled cases with -i and -ref."
        )
    folder = Path(str(nnUNet_raw)) / model.plans.dataset_name
    if "dataset" in model.dataset_json:
        listed: dict[str, dict[str, Any]] = get_filenames_of_train_images_and_targets(
            str(folder), model.dataset_json
        )
        return listed
    # nnU-Net's function starts twelve processes for this
    ending = model.dataset_json["file_ending"]
    files = {}
    for images in list_images(folder / "imagesTr", ending):
        case = images[0].name[: -len(ending) - 5]
        files[case] = {"images": images, "label": folder / "labelsTr" / f"{case}{ending}"}
    return files


def _labelled(cases: Sequence[Case], references: dict[str, Path]) -> list[LabelledCase]:
    if missing := [case.name for case in cases if not references[case.name].is_file()]:
        raise InputError(
            f"{len(missing)} of {len(cases)} cases have no reference labels, the first that is "
            f"missing is {references[missing[0]]}. Add them, or leave the cases out."
        )
    return [LabelledCase(case, references[case.name]) for case in cases]
