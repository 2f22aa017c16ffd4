"""What a data set's files mean: ending, labels, reader, from ``dataset.json`` and ``plans.json``.

nnU-Net decides how a file is read and what its labels are; this asks nnU-Net.
"""

import io
import json
from collections.abc import Iterable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_le.errors import InputError
from nnunetv2_le.types import Labels

# what nnU-Net raises for a description that it cannot use
_NOT_ACCEPTED = (LookupError, RuntimeError, AssertionError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True)
class EvaluationDataset:
    """How the files of a data set are read.

    Attributes:
        file_ending: of segmentations, for example ``.nii.gz``.
        labels: foreground labels or regions.
        ignore_label: voxels with this reference value count nowhere.
        known_values: every label value of ``dataset.json``, the background included.
        reader: nnU-Net's reader of these files.
    """

    file_ending: str
    labels: Labels
    ignore_label: int | None
    known_values: tuple[int, ...]
    reader: Any


def read_dataset(
    dataset_file: Path, *, plans_file: Path | None = None, example_files: Iterable[Path] = ()
) -> EvaluationDataset:
    """Ask nnU-Net what a data set's labels are and how its segmentations are read.

    Args:
        dataset_file: ``dataset.json``.
        plans_file: ``plans.json``; the reader and a label manager of its own come from there. None
            takes nnU-Net's usual ones.
        example_files: segmentations; without a reader in the plans the first that can be read
            decides between readers of one file ending.

    Raises:
        InputError: if a file is missing or is not what it should be.
    """
    description = read_description(dataset_file)
    plans = None if plans_file is None else read_json(plans_file)
    if plans_file is not None and not isinstance(plans, dict):
        raise InputError(f"{plans_file} must be nnU-Net's plans.json, got {_kind(plans)}")
    try:
        manager = _label_manager(description, plans)
        return EvaluationDataset(
            file_ending=description["file_ending"],
            labels=_labels(description, manager),
            ignore_label=manager.ignore_label,
            known_values=tuple(int(value) for value in manager.all_labels)
            + (() if manager.ignore_label is None else (int(manager.ignore_label),)),
            reader=_reader(description, plans, example_files),
        )
    except _NOT_ACCEPTED as error:
        reason = str(error) or type(error).__name__
        plans_too = "" if plans_file is None else f" with {plans_file}"
        raise InputError(
            f"{dataset_file}{plans_too} is no dataset.json that nnU-Net accepts: {reason}"
        ) from error


def read_description(dataset_file: Path) -> dict[str, Any]:
    """The content of ``dataset.json``, which has ``labels`` and a ``file_ending``.

    Raises:
        InputError: if it is missing or is not what it should be.
    """
    content = read_json(dataset_file, hint="; check -pred, or name another with -djfile")
    if not isinstance(content, dict):
        raise InputError(f"{dataset_file} must be nnU-Net's dataset.json, got {_kind(content)}")
    labels, ending = content.get("labels"), content.get("file_ending")
    if not isinstance(labels, dict):
        raise InputError(
            f"{dataset_file} must give the labels as an object of names and numbers, got "
            f"{_kind(labels)}"
        )
    if not isinstance(ending, str) or not ending:
        raise InputError(
            f"{dataset_file} must give the file_ending of segmentations, for example '.nii.gz', "
            f"got {ending!r}"
        )
    return content


def read_json(path: Path, *, hint: str = "") -> Any:
    """The content of a JSON file.

    Args:
        path: of the file.
        hint: what to do where it is missing, for the message.

    Raises:
        InputError: if it is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} is needed and cannot be read: {error.strerror}{hint}") from error
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error


def _reader(
    description: dict[str, Any], plans: dict[str, Any] | None, example_files: Iterable[Path]
) -> Any:
    """The plans' reader, else that of the first example that can be read, else of the ending."""
    from nnunetv2.imageio.reader_writer_registry import (  # noqa: PLC0415  imports torch
        determine_reader_writer_from_dataset_json,
        recursive_find_reader_writer_by_name,
    )

    if plans and "image_reader_writer" in plans:
        return recursive_find_reader_writer_by_name(plans["image_reader_writer"])()
    for example in example_files:
        # it prints a traceback for every reader that fails
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            try:
                found = determine_reader_writer_from_dataset_json(
                    description, str(example), verbose=False
                )
            except RuntimeError:
                continue
        return found()
    return determine_reader_writer_from_dataset_json(description, verbose=False)()


def _kind(content: Any) -> str:
    """What JSON holds, in its own words."""
    return "nothing" if content is None else f"a {type(content).__name__}"


def _label_manager(description: dict[str, Any], plans: dict[str, Any] | None) -> Any:
    from nnunetv2.utilities.label_handling.label_handling import LabelManager  # noqa: PLC0415
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager  # noqa: PLC0415

    if plans is not None:
        return PlansManager(plans).get_label_manager(description)
    return LabelManager(description["labels"], description.get("regions_class_order"))


def _labels(description: dict[str, Any], manager: Any) -> Labels:
    """Names beside the labels or regions that nnU-Net evaluates, in its order."""
    names: dict[Any, str] = {}
    for name, value in description["labels"].items():
        names.setdefault(tuple(value) if isinstance(value, list) else int(value), name)
    foreground = manager.foreground_regions if manager.has_regions else manager.foreground_labels
    values = tuple(value if isinstance(value, tuple) else int(value) for value in foreground)
    return Labels(
        names=tuple(names.get(value, str(value)) for value in values),
        values=values,
        has_regions=manager.has_regions,
        region_values=tuple(manager.regions_class_order or ()) if manager.has_regions else (),
    )
