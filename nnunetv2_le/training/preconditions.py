"""What has to be there before a training starts, each want told in one line."""

import json
import os
from pathlib import Path
from typing import Any

from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

from nnunetv2_le.errors import InputError, SettingError


def require_folders() -> None:
    """The environment variables that nnU-Net needs for a training.

    Raises:
        SettingError: one is missing.
    """
    for variable in ("nnUNet_preprocessed", "nnUNet_results"):
        if not os.environ.get(variable):
            raise SettingError(
                f"The environment variable {variable} has to name a folder, but it is not set. "
                f"Set it as for every nnU-Net command: export {variable}=/path/to/{variable}"
            )


def dataset_name(name_or_id: str) -> str:
    """The whole name of a data set, from its name or its number in nnU-Net's folders.

    Raises:
        SettingError: neither a name like ``Dataset004_Hippocampus`` nor a number.
        InputError: no data set of this number, or several.
    """
    try:
        return str(maybe_convert_to_dataset_name(name_or_id))
    except ValueError as error:  # nnU-Net takes what does not begin with Dataset for a number
        raise SettingError(
            "The data set has to be a name like Dataset004_Hippocampus or a number like 4, got "
            f"{name_or_id!r}."
        ) from error
    except RuntimeError as error:  # none of this number, or several
        several = str(error).startswith("More than one")
        raise InputError(
            f"{'Several data sets have' if several else 'No data set has'} the number "
            f"{name_or_id!r} in {_folders()}. "
            f"{'Give the full name' if several else 'Check the number and the folders'}."
        ) from error


def preprocessed_dataset(name_or_id: str) -> Path:
    """The folder of a preprocessed data set, from its name or number.

    Raises:
        SettingError: neither a name like ``Dataset004_Hippocampus`` nor a number.
        InputError: no such data set, several of the same number, or not preprocessed.
    """
    name = dataset_name(name_or_id)
    folder = Path(os.environ["nnUNet_preprocessed"]) / name
    if not (folder / "dataset.json").is_file():
        raise InputError(
            f"The data set {name!r} is not preprocessed: no dataset.json in {folder}. Run "
            f"nnUNetv2_plan_and_preprocess for it first."
        )
    return folder


def require_configuration(dataset: Path, plans: str, *, configuration: str) -> None:
    """Plans, configuration in them, and its preprocessed cases.

    Args:
        dataset: folder of the preprocessed data set.
        plans: name of the plans.
        configuration: for example ``3d_fullres``.

    Raises:
        InputError: plans or preprocessed cases are missing.
        SettingError: the plans have no such configuration.
    """
    file = dataset / f"{plans}.json"
    if not file.is_file():
        found = sorted(path.stem for path in dataset.glob("*.json") if _is_plans(path))
        raise InputError(
            f"No plans {plans!r} in {dataset}; there are: {_listed(found)}. Choose by -p."
        )
    configurations = _configurations(file)
    if configuration not in configurations:
        raise SettingError(
            f"The plans {plans!r} have no configuration {configuration!r}; they have: "
            f"{_listed(list(configurations))}."
        )
    identifier = _inherited(file, configuration).get("data_identifier")
    if not identifier:
        raise InputError(
            f"The configuration {configuration!r} of {file} lacks data_identifier. Plan again with "
            "nnUNetv2_plan_experiment."
        )
    folder = dataset / identifier
    if not (folder.is_dir() and any(folder.iterdir())):
        raise InputError(
            f"The configuration {configuration!r} is not preprocessed: {folder} has no cases. Run "
            f"nnUNetv2_preprocess -c {configuration} for it first."
        )


def require_batch_for(num_gpus: int, plans: Path, *, configuration: str) -> None:
    """An image of the batch for each GPU.

    Args:
        num_gpus: GPUs that share the batch.
        plans: file of the plans.
        configuration: for example ``3d_fullres``.

    Raises:
        SettingError: there are fewer images.
    """
    batch = _inherited(plans, configuration).get("batch_size")
    if isinstance(batch, int) and batch < num_gpus:
        raise SettingError(
            f"{num_gpus} GPUs share the batch of {configuration!r}, which has {batch} images. "
            f"Train with -num_gpus {batch}, or raise batch_size in {plans}."
        )


def require_previous_stage(trainer: Any, *, only_validation: bool = False) -> None:
    """Segmentations of the previous stage, for every case of the fold of a cascade.

    Args:
        trainer: nnU-Net's trainer, before its training.
        only_validation: ask for the cases of the validation alone.

    Raises:
        InputError: some are missing.
    """
    if not trainer.is_cascaded:
        return
    folder = Path(trainer.folder_with_segs_from_previous_stage)
    training, validation = trainer.do_split()
    cases = sorted({*validation} if only_validation else {*training, *validation})
    if missing := [case for case in cases if not _is_case(folder, case)]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(
            f"The previous stage {trainer.configuration_manager.previous_stage_name} has not been "
            f"predicted for {missing[0]}{more}, expected in {folder}. Train all folds of that "
            "stage with the same -tr first; their validation writes it."
        )


def _configurations(file: Path) -> dict[str, dict[str, Any]]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))["configurations"]
        return {name: dict(own) for name, own in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file} is no plans file of nnU-Net ({type(error).__name__}: {error}). Restore it, or "
            "plan again with nnUNetv2_plan_experiment."
        ) from error


def _is_plans(file: Path) -> bool:
    return file.name not in ("dataset.json", "dataset_fingerprint.json", "splits_final.json")


def _is_case(folder: Path, case: str) -> bool:
    """Whether one of nnU-Net's formats of preprocessed data has the case."""
    return any((folder / f"{case}{ending}").is_file() for ending in (".b2nd", ".npz", ".npy"))


def _inherited(file: Path, name: str) -> dict[str, Any]:
    """A configuration with what it takes over from its parents."""
    configurations = _configurations(file)
    whole = configurations.pop(name)
    while (parent := whole.pop("inherits_from", None)) is not None:
        if parent not in configurations:
            raise InputError(
                f"The configuration {name!r} of {file} has inherits_from {parent!r}, which is "
                "missing there or inherits from it. Correct it."
            )
        whole = configurations.pop(parent) | whole
    return whole


def _folders() -> str:
    names = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
    return ", ".join(f"{name}={os.environ.get(name, '(not set)')}" for name in names)


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"
