"""``calibration.json`` beside a model: everything that was fitted, and what it belongs to.

Conventions:
    One JSON file that a person can read; the feature vectors of the known cases, which are many
    numbers, lie beside it in ``calibration_features.npz``. The JSON names that file's checksum and
    is written last, each file under another name first: a calibration is there whole or not at all.
    Neither file is a pickle, and reading them runs nothing.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from nnunetv2_le.calibration.contours import ContourMargins
from nnunetv2_le.calibration.flag import FlagRule
from nnunetv2_le.calibration.head_skip import HeadSkip
from nnunetv2_le.calibration.json_values import from_json, to_json
from nnunetv2_le.calibration.known_features import (
    FEATURES_FILE,
    KnownFeatures,
    checksum,
    packed,
    read_features,
)
from nnunetv2_le.calibration.predicted_dice import PredictedDice
from nnunetv2_le.calibration.prediction_sets import PredictionSets
from nnunetv2_le.calibration.temperature import Temperature
from nnunetv2_le.calibration.vector_scaling import VectorScaling
from nnunetv2_le.errors import InputError, OutputError
from nnunetv2_le.version import __version__

CALIBRATION_FILE = "calibration.json"
FORMAT = 1


@dataclass(frozen=True)
class Identity:
    """What a calibration belongs to.

    Attributes:
        dataset: name of the data set.
        trainer: name of the trainer.
        plans: name of the plans.
        configuration: for example ``3d_fullres``.
        folds: the folds that were calibrated, as text.
        checkpoint: file name of the checkpoints.
        families: names of the families of members, for example ``heads``, ``mirrors``.
        heads: names of the heads, shallow to deep.
        fused: names of the members that make the segmentation.
        labels: names of the labels or regions.
        checksums: fold to the SHA-256 of its checkpoint; ``plans`` to that of ``plans.json``.
        version: of this package.
        settings: what else the scores depend on, for example fusion, step size and the number of
            members of each family, as text.
    """

    dataset: str
    trainer: str
    plans: str
    configuration: str
    folds: tuple[str, ...]
    checkpoint: str
    families: tuple[str, ...]
    heads: tuple[str, ...]
    fused: tuple[str, ...]
    labels: tuple[str, ...]
    checksums: dict[str, str]
    version: str = __version__
    settings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Calibration:
    """Everything that was fitted; a part that is None was not.

    Attributes:
        identity: what it belongs to.
        num_cases: labelled cases.
        num_groups: labelled patients.
        head_skip: how many first heads are left out.
        temperature: of the members.
        vector_scaling: of the fused prediction.
        predicted_dice: of the case.
        predicted_dice_labels: of each label, by its name.
        flag: which cases to review.
        prediction_sets: which labels remain possible at a voxel.
        contours: margins of the inner and outer contours.
        outlier_alpha: share of in-distribution cases that may be called outliers.
        features: of the known cases, by fold; empty: distances are not known.
    """

    identity: Identity
    num_cases: int
    num_groups: int
    head_skip: HeadSkip | None = None
    temperature: Temperature | None = None
    vector_scaling: VectorScaling | None = None
    predicted_dice: PredictedDice | None = None
    predicted_dice_labels: dict[str, PredictedDice] = field(default_factory=dict)
    flag: FlagRule | None = None
    prediction_sets: PredictionSets | None = None
    contours: ContourMargins | None = None
    outlier_alpha: float | None = None
    features: dict[str, KnownFeatures] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class _Stored:
    """The JSON file."""

    format: int
    identity: Identity
    num_cases: int
    num_groups: int
    head_skip: HeadSkip | None
    temperature: Temperature | None
    vector_scaling: VectorScaling | None
    predicted_dice: PredictedDice | None
    predicted_dice_labels: dict[str, PredictedDice]
    flag: FlagRule | None
    prediction_sets: PredictionSets | None
    contours: ContourMargins | None
    outlier_alpha: float | None
    feature_groups: dict[str, tuple[str, ...]]
    features_sha256: str


def write_calibration(calibration: Calibration, folder: Path) -> Path:
    """Write ``calibration.json`` (and the features) into a model folder, whole or not at all.

    Args:
        calibration: what was fitted.
        folder: the model's folder, TRAINER__PLANS__CONFIGURATION.

    Returns:
        The JSON file.

    Raises:
        OutputError: it cannot be written.
    """
    features = packed(calibration.features)
    stored = _Stored(
        format=FORMAT,
        feature_groups={fold: known.groups for fold, known in calibration.features.items()},
        features_sha256=checksum(features),
        **{name: getattr(calibration, name) for name in _shared_fields()},
    )
    text = json.dumps(to_json(stored), indent=2, allow_nan=False) + "\n"
    try:
        if features:
            _replace(folder / FEATURES_FILE, features)
        _replace(folder / CALIBRATION_FILE, text.encode())
        if not features:
            (folder / FEATURES_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder / CALIBRATION_FILE} cannot be written: {error.strerror or error}"
        ) from error
    return folder / CALIBRATION_FILE


def read_calibration(folder: Path) -> Calibration:
    """Read the calibration of a model folder.

    Raises:
        InputError: there is none, or it is not one that this version understands.
    """
    path = folder / CALIBRATION_FILE
    stored = _read_json(path)
    features: dict[str, KnownFeatures] = {}
    if stored.features_sha256:
        arrays = read_features(
            folder / FEATURES_FILE, sha256=stored.features_sha256, made_with=CALIBRATION_FILE
        )
        features = {
            fold: KnownFeatures(arrays[fold], groups)
            for fold, groups in stored.feature_groups.items()
        }
    return Calibration(
        features=features, **{name: getattr(stored, name) for name in _shared_fields()}
    )


def require_matches(
    calibration: Calibration, model: Identity, *, path: Path | str = CALIBRATION_FILE
) -> None:
    """Refuse a calibration that was made with another model than the one that predicts.

    Everything has to be the same but the folds: those that predict have to be among the calibrated
    ones, and so do their checksums.

    Args:
        calibration: as read.
        model: what is about to predict.
        path: of the calibration, for the message.

    Raises:
        InputError: they differ; the message names the first thing that does.
    """
    made = calibration.identity
    for part in fields(Identity):
        theirs, ours = getattr(made, part.name), getattr(model, part.name)
        if part.name == "folds":
            matches = set(ours) <= set(theirs)
        elif isinstance(theirs, dict):
            matches = ours.items() <= theirs.items()
            theirs, ours = _differing(theirs, ours, length=_LENGTHS.get(part.name))
        else:
            matches = theirs == ours
        if not matches:
            first = "predict as it was calibrated, " if part.name in _OF_THE_COMMAND else ""
            raise InputError(
                f"{path} was made with {_WORDS.get(part.name, part.name)} {_said(theirs)}, but the "
                f"model has {_said(ours)}; {first}calibrate this model with "
                "nnUNetv2_le_calibrate, or predict without calibration (--no_calibration)"
            )


_WORDS = {
    "dataset": "data set",
    "fused": "fused members",
    "checksums": "files whose checksums are",
    "version": "nnunetv2_le version",
    "settings": "settings",
}
_OF_THE_COMMAND = ("folds", "families", "settings")  # others are the model's
_LENGTHS = {"checksums": 12}  # of what is shown; all of a setting has to be seen


def _said(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def _differing(
    theirs: dict[str, str], ours: dict[str, str], *, length: int | None
) -> tuple[str, str]:
    """The first checksum or setting that differs, of either side, short enough to be read."""
    for name, value in ours.items():
        if theirs.get(name) != value:
            other = theirs[name][:length] if name in theirs else "none (it does not say)"
            return f"{name}: {other}", f"{name}: {value[:length]}"
    return "", ""


def _shared_fields() -> list[str]:
    return [part.name for part in fields(Calibration) if part.name != "features"]


def _read_json(path: Path) -> _Stored:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}; make one with nnUNetv2_le_calibrate"
        ) from error
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}; calibrate again") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise InputError(
            f"{path} has format {found!r}, this version reads format {FORMAT}; calibrate again"
        )
    try:
        return from_json(_Stored, content)
    except InputError as error:
        raise InputError(f"{path} is damaged: {error}; calibrate again") from error


def _replace(path: Path, content: bytes) -> None:
    """Write under another name, then rename."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def fold_names(folds: Sequence[int | str]) -> tuple[str, ...]:
    """Folds as an `Identity` names them."""
    return tuple(str(fold) for fold in folds)
