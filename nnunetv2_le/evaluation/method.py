"""How well do a method's scores find its failures? One row for each score and subset of cases.

Conventions:
    Risk = 1 - Dice (mean over labels). Correlations are of the score as it is written, so a good
    agreement score has a positive correlation with Dice and a good uncertainty a negative one;
    everything else uses the score turned so that higher is better, and ranks empty predictions
    without a score last. Cases without Dice or without the score are left out and counted. Fewer
    than three cases or a constant score: correlations are undefined; areas are still those of the
    tied or few cases.

Metrics:
    `correlation`, `failure_detection`, `quality_control`, with `bootstrap` intervals.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from nnunetv2_le.errors import first_few
from nnunetv2_le.evaluation import failure_detection as fd
from nnunetv2_le.evaluation.bootstrap import (
    DEFAULT_DRAWS,
    draw_counts,
    failure_detection_draws,
    percentile_interval,
)
from nnunetv2_le.evaluation.cases import Problem
from nnunetv2_le.evaluation.confidence_tables import (
    ConfidenceTables,
    Score,
    numbers,
    ranked_confidences,
)
from nnunetv2_le.evaluation.correlation import MIN_CASES, is_constant, pearson, spearman
from nnunetv2_le.evaluation.quality_control import quality_control_curve

OVERALL = "all"
DEFAULT_DICE_THRESHOLDS = (0.7, 0.8, 0.9)
_FIRST_COLUMNS = ["subset", "score", "direction", "num_cases"]  # all that a table without rows has


@dataclass(frozen=True)
class MethodSettings:
    """How scores are judged.

    Attributes:
        dice_thresholds: a case below one of these has failed, or is poor.
        num_draws: bootstrap samples; 0 leaves the intervals out.
        seed: of the bootstrap.
        domain_column: column of the case table that splits cases into domains.
        patient_column: column that says which cases belong together.
    """

    dice_thresholds: tuple[float, ...] = DEFAULT_DICE_THRESHOLDS
    num_draws: int = DEFAULT_DRAWS
    seed: int = 0
    domain_column: str | None = None
    patient_column: str | None = None


def score_table(
    cases: pd.DataFrame,
    labels: pd.DataFrame,
    *,
    scores: Sequence[Score],
    settings: MethodSettings,
) -> tuple[pd.DataFrame, list[Problem]]:
    """Judge every score: over all cases, for each domain and for each label.

    Args:
        cases: one row a case: figures and scores.
        labels: one row a case and label (``label_name``): figures and scores of that label.
        scores: columns to judge.
        settings: how.

    Returns:
        The table (columns ``subset``, ``score``, ``direction``, ...), and scores that cannot be
        judged.
    """
    subsets = [(OVERALL, cases)]
    if settings.domain_column is not None:
        groups = cases.groupby(given_column(cases, settings.domain_column), sort=True)
        subsets += [(f"{settings.domain_column}={name}", rows) for name, rows in groups]
    if len(labels):
        names = dict.fromkeys(labels["label_name"])
        subsets += [(f"label={name}", labels[labels["label_name"] == name]) for name in names]
    rows, problems = [], []
    for name, subset in subsets:
        # the table of labels lacks scores that are of whole cases alone
        known = [score for score in scores if name == OVERALL or score.name in subset]
        num_dice = int(np.isfinite(numbers(subset, "dice")).sum())
        if known and num_dice < MIN_CASES:  # a rare label: said once, not of every score
            text = f"{len(known)} scores over {name}: {num_dice} cases have Dice"
            problems.append(Problem("", f"{text}, {MIN_CASES} are needed"))
        for score in known:
            row = score_row(subset, score, settings=settings)
            rows.append({"subset": name, "score": score.name, "direction": score.direction, **row})
            if num_dice >= MIN_CASES:
                problems += _complaints(name, score, subset, row)
    return pd.DataFrame(rows, columns=None if rows else _FIRST_COLUMNS), problems


def score_row(cases: pd.DataFrame, score: Score, *, settings: MethodSettings) -> dict[str, float]:
    """All figures of one score over some cases.

    Args:
        cases: one row a case, with ``dice`` and the score.
        score: the column to judge.
        settings: how.
    """
    values, dice = numbers(cases, score.name), numbers(cases, "dice")
    ranked = ranked_confidences(cases, score)
    usable = np.isfinite(ranked) & np.isfinite(dice)
    mhd = numbers(cases, "modified_hausdorff_mm")
    row: dict[str, float] = {
        "num_cases": int(usable.sum()),
        "num_without_score": int((~np.isfinite(ranked)).sum()),
        "num_empty_ranked_last": int((np.isfinite(ranked) & ~np.isfinite(values)).sum()),
        "num_without_dice": int((~np.isfinite(dice)).sum()),
        "spearman_dice": spearman(values, dice),
        "pearson_dice": pearson(values, dice),
        "spearman_mhd": spearman(values, mhd),
        "pearson_mhd": pearson(values, mhd),
    }
    row |= {"spearman_risk": -row["spearman_dice"], "pearson_risk": -row["pearson_dice"]}
    if not usable.any():
        return row
    confidences = ranked[usable]
    row |= _failure_figures(1 - dice[usable], confidences)
    if settings.num_draws:
        row |= _intervals(cases[usable], 1 - dice[usable], confidences, settings)
    for threshold in settings.dice_thresholds:
        row |= _threshold_figures(dice[usable] < threshold, confidences, threshold)
    return row


def method_draws(
    cases: pd.DataFrame, score: Score, settings: MethodSettings
) -> dict[str, np.ndarray]:
    """Bootstrap samples of a score's figures; all cases must have the score and Dice."""
    confidences = ranked_confidences(cases, score)
    counts = _counts(cases, settings)
    return failure_detection_draws(1 - numbers(cases, "dice"), confidences, counts)


def joined(
    figures: pd.DataFrame, tables: ConfidenceTables | None
) -> tuple[pd.DataFrame, list[Problem]]:
    """Figures and scores side by side, and cases that only one table has.

    Args:
        figures: one row a case, by its name.
        tables: scores of the prediction.
    """
    if tables is None:
        return figures, []
    problems = [
        Problem(str(case), "uncertainty.csv has no row for it")
        for case in figures.index.difference(tables.cases.index)
    ]
    return side_by_side(figures, tables.cases, "predicted"), problems


def side_by_side(table: pd.DataFrame, other: pd.DataFrame, name: str) -> pd.DataFrame:
    """Columns of both tables for the rows of the first; a column that both have gets ``_NAME``."""
    twice = {column: f"{column}_{name}" for column in other.columns if column in table.columns}
    return table.join(other.rename(columns=twice), how="left")


def given_column(table: pd.DataFrame, column: str) -> str:
    """Where a column of the user's case table stands: beside one of ours it is ``_given``."""
    given = f"{column}_given"
    return given if given in table.columns else column


def _failure_figures(risks: np.ndarray, confidences: np.ndarray) -> dict[str, float]:
    return {
        "aurc": fd.aurc(risks, confidences),
        "aurc_optimal": fd.optimal_aurc(risks),
        "aurc_random": fd.random_aurc(risks),
        "excess_aurc": fd.excess_aurc(risks, confidences),
        "normalized_aurc": fd.normalized_aurc(risks, confidences),
        "augrc": fd.augrc(risks, confidences),
        "augrc_optimal": fd.augrc(risks, -risks),
        "augrc_random": float(risks.mean()) / 2,
    }


def _threshold_figures(
    failures: np.ndarray, confidences: np.ndarray, threshold: float
) -> dict[str, float]:
    curve = quality_control_curve(failures, confidences)
    figures = {
        "auroc": fd.failure_auroc(failures, confidences),
        "average_precision": fd.failure_average_precision(failures, confidences),
        "quality_control_area": curve.area,
        "quality_control_area_ideal": curve.ideal_area,
        "quality_control_area_random": curve.random_area,
        "flagged_to_5_percent": curve.flagged_to_reach(),
    }
    if failures.all() or not failures.any():  # nothing to find
        figures = dict.fromkeys(figures, math.nan)
    named = {"failures": int(failures.sum()), **figures}
    return {f"{name}_dice_below_{threshold:g}": value for name, value in named.items()}


def _intervals(
    cases: pd.DataFrame, risks: np.ndarray, confidences: np.ndarray, settings: MethodSettings
) -> dict[str, float]:
    draws = failure_detection_draws(risks, confidences, _counts(cases, settings))
    row: dict[str, float] = {}
    for name, values in draws.items():
        interval = percentile_interval(values)
        row |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
    return row


def _counts(cases: pd.DataFrame, settings: MethodSettings) -> np.ndarray:
    patients = None
    if settings.patient_column is not None:
        column = given_column(cases, settings.patient_column)
        patients = tuple(str(patient) for patient in cases[column])
    return _cached_counts(len(cases), settings.num_draws, patients, settings.seed)


@lru_cache(maxsize=2)  # scores of one table are judged on the same draws
def _cached_counts(
    num_cases: int, num_draws: int, patients: tuple[str, ...] | None, seed: int
) -> np.ndarray:
    return draw_counts(num_cases, num_draws=num_draws, patients=patients, seed=seed)


def _complaints(
    subset: str, score: Score, cases: pd.DataFrame, row: dict[str, float]
) -> list[Problem]:
    where = f"score {score.name} over {subset}"
    complaints = []
    if row["num_cases"] < MIN_CASES:
        complaints.append(
            f"{where}: {row['num_cases']} cases have it and Dice, {MIN_CASES} are needed"
        )
    elif is_constant(numbers(cases, score.name)):
        complaints.append(f"{where}: it is constant, so it orders nothing")
    if subset == OVERALL and row["num_without_score"]:
        missing = cases.index[~np.isfinite(ranked_confidences(cases, score))]
        complaints.append(
            f"{where}: undefined in {len(missing)} cases ({first_few(missing)}), which are left out"
        )
    return [Problem("", complaint) for complaint in complaints]
