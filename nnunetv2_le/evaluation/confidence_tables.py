"""The scores of a prediction, from the tables that predict wrote.

They are ``uncertainty.csv`` and ``uncertainty_per_label.csv``; ``uncertainty.json`` describes them.
A score's direction is what ``uncertainty.json`` states; a column without a direction (volume,
number of members) is no score.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from nnunetv2_le.errors import InputError
from nnunetv2_le.evaluation.dataset import read_json
from nnunetv2_le.types import Direction

_DIRECTIONS = ("higher_is_better", "higher_is_worse", "none")
_NO_NUMBER = ("na", "n/a", "#n/a", "nan", "null", "none")  # what programs write for an empty field


@dataclass(frozen=True)
class Score:
    """A column that says how far to trust a case."""

    name: str
    direction: Direction

    def confidences(self, values: Float[np.ndarray, "cases"]) -> Float[np.ndarray, "cases"]:
        """The score with higher meaning better."""
        return values if self.direction == "higher_is_better" else -values


@dataclass(frozen=True)
class ConfidenceTables:
    """The scores of a prediction.

    Attributes:
        scores: columns with a direction, in the order of the table.
        cases: one row a case, by its name.
        labels: one row a case and label, by case and label name; None where that table was not
            written.
    """

    scores: tuple[Score, ...]
    cases: pd.DataFrame
    labels: pd.DataFrame | None = None


def read_confidence_tables(folder: Path) -> ConfidenceTables | None:
    """Read the tables of a prediction folder.

    Args:
        folder: OUT of nnUNetv2_le_predict.

    Returns:
        The tables, or None for a folder without ``uncertainty.csv`` (a stock prediction).

    Raises:
        InputError: if a table is broken, a case is in it twice, or ``uncertainty.json`` is missing
            beside it.
    """
    if not (folder / "uncertainty.csv").is_file():
        return None
    cases = _read_table(folder / "uncertainty.csv", ["case"])
    labels = None
    if (folder / "uncertainty_per_label.csv").is_file():
        labels = _read_table(folder / "uncertainty_per_label.csv", ["case", "label_name"])
    description = read_json(folder / "uncertainty.json")
    scores = _scores(description, cases, folder / "uncertainty.json")
    _require_numbers(cases, scores, folder / "uncertainty.csv")
    if labels is not None:
        _require_numbers(labels, scores, folder / "uncertainty_per_label.csv")
    return ConfidenceTables(scores, cases, labels)


def ranked_confidences(table: pd.DataFrame, score: Score) -> Float[np.ndarray, "cases"]:
    """The score of each row, higher is better, with empty segmentations at the end of the queue.

    Where nothing is segmented, or every member agrees on nothing, scores are undefined; but the
    tables show it (``volume_ml`` 0, ``empty_prediction``), so whoever works them off sees the case
    first: it gets a confidence below all others, one for all of them. Leaving it out instead would
    reward a method for failing there. Other rows without the score stay NaN.

    Args:
        table: rows with the score, and ``volume_ml`` and ``empty_prediction`` where the prediction
            has them.
        score: the column.
    """
    confidences = score.confidences(numbers(table, score.name))
    is_empty = numbers(table, "volume_ml") == 0
    if "empty_prediction" in table.columns:
        is_empty |= table["empty_prediction"].astype(str).str.lower().to_numpy() == "true"
    defined = confidences[np.isfinite(confidences)]
    lowest = float(defined.min()) if len(defined) else 0.0
    below = np.nextafter(lowest, -np.inf)  # of large scores, 1 less is the same number
    return np.where(is_empty & ~np.isfinite(confidences), below, confidences)


def numbers(table: pd.DataFrame, column: str) -> Float[np.ndarray, "cases"]:
    """A column as floats; what is no number (an empty field) is NaN."""
    if column not in table.columns:
        return np.full(len(table), np.nan)
    return np.asarray(pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=float))


def _read_table(path: Path, index: list[str]) -> pd.DataFrame:
    try:
        # a label may be called NA or None; what is undefined is an empty field
        table = pd.read_csv(
            path, dtype=dict.fromkeys(index, str), keep_default_na=False, na_values=[""]
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as a table: {error}; save it as CSV with commas, in UTF-8"
        ) from error
    table = table.dropna(how="all")  # spreadsheets leave empty rows at the end
    missing = [column for column in index if column not in table.columns]
    if missing:
        raise InputError(
            f"{path} must have the columns {index}, separated by commas; it has "
            f"{list(table.columns)}"
        )
    twice = table[table.duplicated(index)]
    if len(twice):
        raise InputError(
            f"{path} names {len(twice)} rows twice, the first is {tuple(twice.iloc[0][index])}; "
            "predict into an empty folder"
        )
    return table.set_index(index)


def _require_numbers(table: pd.DataFrame, scores: Sequence[Score], path: Path) -> None:
    """Refuse texts, such as numbers with a decimal comma, that would count as undefined scores."""
    for score in scores:
        if score.name not in table.columns:
            continue
        given = table[score.name][np.isnan(numbers(table, score.name))].dropna().astype(str)
        texts = given[~given.str.strip().str.lower().isin(_NO_NUMBER)]
        if len(texts):
            raise InputError(
                f"{path}: {score.name} must hold numbers with a decimal point, got "
                f"{texts.iloc[0]!r} for {texts.index[0]!r}; save the table without changing them"
            )


def _scores(description: Any, cases: pd.DataFrame, path: Path) -> tuple[Score, ...]:
    columns = description.get("columns") if isinstance(description, dict) else None
    if not isinstance(columns, dict):
        raise InputError(f"{path} must describe the columns of uncertainty.csv under 'columns'")
    scores = []
    for name in cases.columns:
        column = columns.get(name, {})
        if not isinstance(column, dict):
            raise InputError(
                f"{path} must describe {name} as an object with its 'direction', got {column!r}"
            )
        direction = column.get("direction", "none")
        if direction not in _DIRECTIONS:
            raise InputError(
                f"{path}: direction of {name} must be one of {_DIRECTIONS}, got {direction!r}"
            )
        if direction != "none":
            scores.append(Score(str(name), direction))
    return tuple(scores)
