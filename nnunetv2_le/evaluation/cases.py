"""Which files belong to which case, and what is missing.

A prediction folder holds CASE.nii.gz; a reference folder holds a file of the same name, or several
raters' files CASE_r0.nii.gz, CASE_r1.nii.gz, ...; several reference folders are several raters.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_le.errors import InputError
from nnunetv2_le.inference.settings import is_utf8

_RATER = re.compile(r"(?P<case>.+)_r\d+")


@dataclass(frozen=True)
class Problem:
    """Something that kept a case, or a part of it, out of the figures.

    Attributes:
        case: its name; empty for what concerns a score or the whole.
        problem: what was expected and what came.
    """

    case: str
    problem: str


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case.

    Attributes:
        case: its name.
        prediction: the fused segmentation.
        references: one file a rater.
        probabilities: saved probabilities, if there are any.
        heads: saved probabilities of each head, shallow to deep.
        entropy: map of the entropy, if it was written.
    """

    case: str
    prediction: Path
    references: tuple[Path, ...]
    probabilities: Path | None = None
    heads: tuple[Path, ...] = ()
    entropy: Path | None = None


def find_cases(
    prediction_folder: Path, reference_folders: Sequence[Path], *, file_ending: str
) -> tuple[list[CaseFiles], list[Problem]]:
    """Pair predictions with references by name.

    Args:
        prediction_folder: OUT, as nnUNetv2_le_predict (or nnUNetv2_predict) wrote it.
        reference_folders: one folder, or one a rater.
        file_ending: of segmentations.

    Returns:
        The cases that have both sides, by name, and what is missing on either side.

    Raises:
        InputError: if a folder is missing or there is no case with both sides.
    """
    problems = _looked_at([prediction_folder, *reference_folders], file_ending)
    predictions = _by_case(prediction_folder, file_ending)
    references = [_references(folder, file_ending) for folder in reference_folders]
    cases = []
    for case, prediction in predictions.items():
        found = tuple(file for rater in references for file in rater.get(case, ()))
        if not found:
            problems.append(Problem(case, "it was predicted, but has no reference"))
            continue
        lacking = [
            str(folder)
            for folder, rater in zip(reference_folders, references, strict=True)
            if case not in rater
        ]
        if lacking:
            problems.append(
                Problem(case, f"no reference in {', '.join(lacking)}; the others are used")
            )
        cases.append(_files(case, prediction, found, prediction_folder))
    lonely = _not_predicted(references, predictions)
    for case in lonely:
        problems.append(Problem(case, "it has a reference, but was not predicted"))
    if not cases:
        raise InputError(
            f"no case has both a prediction and a reference: {len(predictions)} *{file_ending} "
            f"files in {prediction_folder}, {len(lonely)} cases in "
            f"{', '.join(map(str, reference_folders))}; are the folders and the file ending right?"
        )
    return cases, problems


def require_name(path: Path) -> None:
    """Refuse a path that is not UTF-8: ITK ends the whole process at one.

    Raises:
        InputError: if it is not.
    """
    if not is_utf8(path):
        raise InputError(_complaint(path))


def _complaint(path: Path) -> str:
    return f"{_shown(str(path))} is no UTF-8, so image libraries cannot open it; rename it"


def _shown(name: str) -> str:
    """A name of any bytes as every stream and table takes it."""
    return name.encode(errors="backslashreplace").decode()


def _looked_at(folders: Sequence[Path], file_ending: str) -> list[Problem]:
    """Refuse what is no folder; files of cases that cannot be opened for their names."""
    problems = []
    for folder in folders:
        require_name(folder)
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder")
        problems += [
            Problem(_shown(file.name[: -len(file_ending)]), _complaint(file))
            for file in sorted(folder.iterdir())
            if file.name.endswith(file_ending) and not is_utf8(file)
        ]
    return problems


def _not_predicted(
    references: Sequence[Mapping[str, tuple[Path, ...]]], predictions: Collection[str]
) -> list[str]:
    """Cases with a reference alone.

    CASE_r0, ... are raters of CASE, not cases, unless one of them was predicted itself: then they
    are, and CASE is none.
    """
    names = {case for rater in references for case in rater} - set(predictions)
    of_predicted = {match["case"] for case in predictions if (match := _RATER.fullmatch(case))}
    lonely = []
    for name in sorted(names):
        match = _RATER.fullmatch(name)
        if match is None:
            is_case = name not in of_predicted
        else:
            is_case = match["case"] in of_predicted and match["case"] not in predictions
        if is_case:
            lonely.append(name)
    return lonely


def _files(case: str, prediction: Path, references: tuple[Path, ...], folder: Path) -> CaseFiles:
    probabilities = folder / f"{case}.npz"
    entropy = folder / "uncertainty" / f"{case}_entropy.nii.gz"
    # one that is missing among others stays, so that reading it says so; none is renumbered
    heads = [head / f"{case}.npz" for head in sorted(folder.glob("heads/head_*"))]
    return CaseFiles(
        case,
        prediction,
        references,
        probabilities=probabilities if probabilities.is_file() else None,
        heads=tuple(heads) if any(head.is_file() for head in heads) else (),
        entropy=entropy if entropy.is_file() else None,
    )


def _by_case(folder: Path, file_ending: str) -> dict[str, Path]:
    named = (file for file in folder.iterdir() if is_utf8(file))
    files = sorted(file for file in named if file.name.endswith(file_ending) and file.is_file())
    return {file.name[: -len(file_ending)]: file for file in files if not file.name.startswith(".")}


def _references(folder: Path, file_ending: str) -> dict[str, tuple[Path, ...]]:
    """Reference files of each case: its own file, or else its raters' files."""
    files = _by_case(folder, file_ending)
    raters: dict[str, list[Path]] = {}
    for name, file in files.items():
        match = _RATER.fullmatch(name)
        if match:
            raters.setdefault(match["case"], []).append(file)
    single = {name: (file,) for name, file in files.items()}
    return {**{case: tuple(group) for case, group in raters.items()}, **single}
