"""Tables and the summary of an evaluation as files.

Floats in full precision; what is undefined is an empty field in a table and null in JSON.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from nnunetv2_le.errors import OutputError
from nnunetv2_le.evaluation.calibration_error import CalibrationHistogram, ReliabilityBins
from nnunetv2_le.evaluation.case_metrics import MetricSettings
from nnunetv2_le.evaluation.confidence_tables import numbers
from nnunetv2_le.evaluation.evaluate import Evaluation
from nnunetv2_le.evaluation.method import MethodSettings
from nnunetv2_le.version import __version__

_HEADLINES = (
    "dice",
    "iou",
    "hd95_mm",
    "modified_hausdorff_mm",
    "mean_surface_distance_mm",
    "surface_dice",
    "volume_error_ml",
    "absolute_volume_error_ml",
    "relative_volume_error",
    "nll",
    "brier",
    "ece",
    "classwise_ece",
    "energy_distance_squared",
    "entropy_disagreement_pearson",
)


def write_evaluation(
    evaluation: Evaluation, folder: Path, *, metrics: MetricSettings, method: MethodSettings
) -> None:
    """Write ``cases.csv``, ``labels.csv``, ``scores.csv``, ``problems.csv`` and ``summary.json``.

    Args:
        evaluation: to write.
        folder: where to.
        metrics: settings, kept in the summary.
        method: settings, kept in the summary.

    Raises:
        OutputError: if the folder cannot be written.
    """
    problems = pd.DataFrame(
        [asdict(problem) for problem in evaluation.problems], columns=["case", "problem"]
    )
    write_table(evaluation.cases.reset_index(), folder / "cases.csv")
    write_table(evaluation.labels, folder / "labels.csv")
    write_table(evaluation.score_table, folder / "scores.csv")
    write_table(problems, folder / "problems.csv")
    write_json(
        summary(evaluation) | {"settings": {"metrics": asdict(metrics), "method": asdict(method)}},
        folder / "summary.json",
    )


def summary(evaluation: Evaluation) -> dict[str, Any]:
    """The headline figures of an evaluation, for a person or a program that reads JSON."""
    return {
        "version": __version__,
        "num_cases": len(evaluation.cases),
        "num_problems": len(evaluation.problems),
        "cases": {
            name: _description(evaluation.cases, name)
            for name in _HEADLINES
            if name in evaluation.cases.columns
        },
        "labels": {
            label: {name: _description(rows, name) for name in _HEADLINES if name in rows.columns}
            for label, rows in evaluation.labels.groupby("label_name", sort=False)
        },
        "calibration": None
        if evaluation.calibration is None
        else {
            name: _calibration(histogram, evaluation.dataset.labels.names)
            for name, histogram in zip(
                ("image", "region_of_interest"), evaluation.calibration, strict=True
            )
        },
        "scores": [
            {name: value for name, value in row.items() if not _is_undefined(value)}
            for row in evaluation.score_table.to_dict("records")
        ],
        "problems": [asdict(problem) for problem in evaluation.problems],
    }


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a CSV.

    Raises:
        OutputError: if it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(path, index=False, lineterminator="\n")
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error


def write_text(text: str, path: Path) -> None:
    """Write a text file.

    Raises:
        OutputError: if it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Write JSON; NaN and infinity become null, which every reader understands."""
    write_text(json.dumps(_plain(content), indent=2) + "\n", path)


def _description(table: pd.DataFrame, column: str) -> dict[str, float]:
    values = numbers(table, column)
    defined = values[~pd.isna(values)]
    return {
        "mean": float(defined.mean()) if len(defined) else float("nan"),
        "std": float(defined.std(ddof=1)) if len(defined) > 1 else float("nan"),
        "median": float(pd.Series(defined).median()),
        "num_defined": len(defined),
        "num_undefined": len(values) - len(defined),
    }


def _calibration(histogram: CalibrationHistogram, names: Sequence[str]) -> dict[str, Any]:
    """Figures, and the bins of the most probable class or, by its name, of each region."""
    bins = (
        {name: _bins(histogram.reliability(channel)) for channel, name in enumerate(names)}
        if histogram.has_regions
        else _bins(histogram.reliability())
    )
    return {**asdict(histogram.figures()), "bins": bins}


def _bins(bins: ReliabilityBins) -> dict[str, list[float]]:
    return {
        "counts": bins.counts.tolist(),
        "confidences": bins.confidences.tolist(),
        "accuracies": bins.accuracies.tolist(),
    }


def _plain(value: Any) -> Any:
    """The same in types that JSON has."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):  # NumPy scalars
        value = value.item()
    return None if _is_undefined(value) else value


def _is_undefined(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
