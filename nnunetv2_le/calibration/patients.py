"""Which patient each case is of, and patients that a network knows from its training.

nnU-Net splits cases, not patients, into folds. Where a fold was trained on other cases of a patient
it predicts that patient better than a new one, and what is promised does not hold.
"""

import csv
import logging
from collections.abc import Collection, Sequence
from pathlib import Path

from nnunetv2_le.errors import InputError
from nnunetv2_le.inference.checkpoints import Fold

logger = logging.getLogger(__name__)

_GROUP_COLUMNS = ("group", "patient")


def read_patients(file: Path) -> tuple[str, dict[str, str]]:
    """Name of the column of patients, and the patient of every case of a table.

    Args:
        file: CSV with the columns ``case`` and ``patient`` or ``group``.

    Raises:
        InputError: the table cannot be read, lacks a column, or gives a case to two patients.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines)
            columns = reader.fieldnames or []
            given = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file} cannot be read as a table ({error}). Name it with -cases.") from (
            error
        )
    column = next((name for name in _GROUP_COLUMNS if name in columns), None)
    if "case" not in columns or column is None:
        raise InputError(
            f"Expected the columns case and {' or '.join(_GROUP_COLUMNS)} in {file}; got "
            f"{', '.join(columns) or 'none'}. Rename its columns."
        )
    # spreadsheets keep blanks around a name, which nobody sees: two patients of one
    rows = [{name: (row[name] or "").strip() for name in ("case", column)} for row in given]
    patients = {row["case"]: row[column] for row in rows}
    if torn := [row for row in rows if row[column] != patients[row["case"]]]:
        first, number = torn[0]["case"], len({row["case"] for row in torn})
        raise InputError(
            f"{file} gives {number} cases to more than one {column}, the first is {first}: "
            f"{torn[0][column]}, {patients[first]}. Leave one row for each case."
        )
    return column, patients


def read_groups(file: Path, cases: Sequence[str]) -> tuple[str, ...]:
    """The patient (group) of each case, from a table with a column ``case``.

    Args:
        file: CSV with the columns ``case`` and ``patient`` or ``group``.
        cases: names of the cases.

    Raises:
        InputError: the table cannot be read, lacks a column or a case, or gives a case to two
            patients.
    """
    column, groups = read_patients(file)
    if missing := [case for case in cases if not groups.get(case)]:
        raise InputError(
            f"{file} does not say to which {column} {len(missing)} of {len(cases)} cases belong, "
            f"the first is {missing[0]}. Add a row for each case."
        )
    return tuple(groups[case] for case in cases)


def warn_of_known_patients(
    cases: Sequence[str],
    *,
    patients: dict[str, str],
    trained: Collection[str],
    folds: Sequence[Fold],
) -> None:
    """Warn of labelled cases whose patient has other cases that the networks were trained on.

    Args:
        cases: names of the cases that calibrate.
        patients: of these cases, and of as many others as are known.
        trained: names of the cases that the folds were trained on.
        folds: of the networks that predict.
    """
    trained_on = {patients[case] for case in trained if patients.get(case)}
    if known := sorted({patients[case] for case in cases} & trained_on):
        logger.warning(
            "%d patients have cases that fold %s is calibrated with and others that it was trained "
            "on, the first is %s. New patients may fare worse than promised: split by patient "
            "before training.",
            len(known),
            ", ".join(map(str, folds)),
            known[0],
        )
