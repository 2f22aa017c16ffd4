"""Cases that share an output folder: those of this run, and those of earlier ones."""

import json
import logging
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunetv2_le.errors import InputError, SettingError, first_few
from nnunetv2_le.inference.set_aside import is_recorded
from nnunetv2_le.inference.tables import record_names

logger = logging.getLogger(__name__)

_ENDING_OF_NIFTI = re.compile(r"(\.(nii|nia|hdr|img)(\.gz)?)+\Z", re.IGNORECASE)


def require_own_files(cases: Sequence[str], maps: Sequence[str]) -> None:
    """Two cases whose names differ by a map's would write one file.

    Args:
        cases: names of the cases of a run.
        maps: names of the voxel maps that are written.

    Raises:
        InputError: there are such cases.
    """
    owners = defaultdict(list)
    for case in cases:
        for name in dict.fromkeys(maps):
            owners[f"{case}_{name}"].append(case)
    for file, both in owners.items():
        if len(both) > 1:
            raise InputError(
                f"Each case needs files of its own, but {' and '.join(both)} would both write the "
                f"map {file}.nii.gz. Rename one of them."
            )


def require_names_for_itk(cases: Sequence[str], ending: str) -> None:
    """Refuse names with an ending of NIfTI before their own: ITK writes another file for them.

    ``scan.nii.nii.gz`` would become ``scan.nii.gz``, which is that of the case ``scan``.

    Args:
        cases: names of the cases of a run, written by SimpleITK.
        ending: of the files.

    Raises:
        InputError: there are such cases.
    """
    if ending not in (".nii", ".nii.gz"):
        return
    if twice := [name for name in cases if _ENDING_OF_NIFTI.search(name)]:
        raise InputError(
            f"Expected names of cases without an ending of NIfTI, because ITK does not write a "
            f"file named {twice[0]}{ending}; got {first_few(twice)}. Rename the images, for "
            f"example {twice[0]}_0000{ending} to "
            f"{_ENDING_OF_NIFTI.sub('', twice[0])}_0000{ending}."
        )


def require_no_other_dataset(folder: Path, dataset_json: Mapping[str, Any]) -> None:
    """Refuse a folder whose ``dataset.json`` would be lost, such as that of a raw data set.

    What an earlier run or nnU-Net's own prediction wrote may be replaced.

    Args:
        folder: OUT.
        dataset_json: of the model, which is written to OUT.

    Raises:
        SettingError: the folder has another one.
    """
    file = folder / "dataset.json"
    ours = any(
        (folder / name).exists()
        for name in ("uncertainty.json", "cases", "predict_from_raw_data_args.json")
    )
    if ours or not file.exists():
        return
    try:
        is_same = json.loads(file.read_text(encoding="utf-8")) == dataset_json
    except (OSError, ValueError):
        is_same = False
    if not is_same:
        raise SettingError(
            f"Expected -o to be a folder for results; {folder} has a dataset.json that is not the "
            "model's and would be replaced (a raw data set?). Name another folder."
        )


def warn_of_unrecorded(folder: Path, segmentations: Mapping[str, Path]) -> None:
    """Say how many segmentations will be replaced that no record shows to be this command's.

    Args:
        folder: OUT.
        segmentations: file of each case of the run.
    """
    found = [
        path.name
        for case, path in segmentations.items()
        if path.is_file() and not is_recorded(folder, case)
    ]
    if found:
        logger.warning(
            "%d segmentations in %s are of another program, or of a run that was killed (%s): "
            "they will be replaced.",
            len(found),
            folder,
            first_few(found),
        )


def warn_of_other_settings(
    folder: Path, cases: Collection[str], *, settings: Mapping[str, Any]
) -> None:
    """Say so where the tables will have cases of another kind beside those of this run.

    Args:
        folder: OUT.
        cases: names of the cases of this run.
        settings: what records note of this run.
    """
    others = [name for name in record_names(folder) if name not in cases]
    different = [
        name
        for name in others
        # one that cannot be read is being written, or left to --continue_prediction
        if has_settings(folder / "cases" / f"{name}.json", settings) is False
    ]
    if different:
        logger.warning(
            "%d cases of an earlier run with another model, other members or settings (%s) stay "
            "in %s and in its tables. Give each kind of run a folder of its own.",
            len(different),
            first_few(different),
            folder,
        )


def has_settings(record_file: Path, settings: Mapping[str, Any]) -> bool | None:
    """Whether the record of a case notes these settings; None where it cannot be read.

    Args:
        record_file: the case's record.
        settings: what records note of a run.
    """
    try:
        record = json.loads(record_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict):
        return None
    return all(record.get(name) == value for name, value in settings.items())
