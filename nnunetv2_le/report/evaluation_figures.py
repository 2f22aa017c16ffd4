"""All figures of an evaluation or a comparison, as files."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from nnunetv2_le.errors import SettingError
from nnunetv2_le.evaluation.confidence_tables import Score, numbers, ranked_confidences
from nnunetv2_le.evaluation.evaluate import Evaluation
from nnunetv2_le.evaluation.method import given_column
from nnunetv2_le.report.figure_files import save_figure
from nnunetv2_le.report.quality_control_figure import is_informative, quality_control_figure
from nnunetv2_le.report.reliability_figure import reliability_figure
from nnunetv2_le.report.risk_coverage_figure import risk_coverage_figure
from nnunetv2_le.report.scatter_figure import scatter_figure

logger = logging.getLogger(__name__)

# those to look at first, then of each kind one; the tables have all scores
DEFAULT_SCORES = (
    "predicted_dice",
    "mirrors_soft_dice",
    "soft_dice",
    "consensus_dice",
    "aula_normalized",
    "entropy_foreground_mean",
    "heads_mutual_information_foreground_mean",
)

Pair = tuple[np.ndarray, np.ndarray]


def chosen_scores(available: Sequence[Score], names: Sequence[str] | None) -> list[Score]:
    """The scores to show: those named, else the usual ones, else the first.

    Raises:
        SettingError: if a score that was named does not exist.
    """
    by_name = {score.name: score for score in available}
    if names is not None:
        unknown = [name for name in names if name not in by_name]
        if unknown:
            there_are = ", ".join(by_name) or "none"
            raise SettingError(f"no score is called {unknown}; there are {there_are}")
        return [by_name[name] for name in names]
    usual = [by_name[name] for name in DEFAULT_SCORES if name in by_name]
    return usual or list(available[: len(DEFAULT_SCORES)])


def evaluation_figures(
    evaluation: Evaluation,
    folder: Path,
    *,
    scores: Sequence[Score],
    dice_thresholds: Sequence[float],
    domain_column: str | None = None,
) -> list[Path]:
    """Risk-coverage, quality-control, scatter and reliability figures of one method.

    Args:
        evaluation: to show.
        folder: where to.
        scores: which scores.
        dice_thresholds: a quality-control figure for each.
        domain_column: colours the scatter.
    """
    pairs = {
        score.name: pair
        for score in scores
        if (pair := dice_and_confidences(evaluation.cases, score)) is not None
    }
    files = failure_figures(pairs, folder, dice_thresholds=dice_thresholds)
    for score in scores:
        if score.name in pairs:
            domains = None
            if domain_column is not None:
                domains = list(evaluation.cases[given_column(evaluation.cases, domain_column)])
            figure = scatter_figure(
                numbers(evaluation.cases, score.name),
                numbers(evaluation.cases, "dice"),
                score_name=score.name,
                domains=domains,
                cases=list(evaluation.cases.index),
            )
            files += save_figure(figure, folder, f"scatter_{score.name}")
    if evaluation.calibration is not None:
        files += reliability_figures({"": evaluation}, folder)
    return files


def failure_figures(
    pairs: Mapping[str, Pair], folder: Path, *, dice_thresholds: Sequence[float]
) -> list[Path]:
    """The risk-coverage figure and a quality-control figure for each threshold.

    A threshold that no case or every case is below has no figure: there is nothing to find.

    Args:
        pairs: name to (Dice, confidences).
        folder: where to.
        dice_thresholds: a case below one is poor.
    """
    if not pairs:
        logger.info("No score is defined beside Dice: no failure-detection figures.")
        return []
    risks = {name: (1 - dice, confidences) for name, (dice, confidences) in pairs.items()}
    files = save_figure(risk_coverage_figure(risks), folder, "risk_coverage")
    for threshold in dice_thresholds:
        if not any(is_informative(dice, threshold) for dice, _ in pairs.values()):
            logger.debug("%s: no case or every case has Dice below %g", folder, threshold)
            continue
        figure = quality_control_figure(pairs, dice_threshold=threshold)
        files += save_figure(figure, folder, f"quality_control_dice_{threshold:g}")
    return files


def reliability_figures(methods: Mapping[str, Evaluation], folder: Path) -> list[Path]:
    """Reliability of the whole image and the region of interest, one curve a method (or region)."""
    bins = {}
    for name, evaluation in methods.items():
        if evaluation.calibration is None:
            continue
        for where, histogram in zip(
            ("image", "region of interest"), evaluation.calibration, strict=True
        ):
            labels = evaluation.dataset.labels
            if histogram.has_regions:
                for channel, region in enumerate(labels.names):
                    bins[" ".join(filter(None, (name, where, region)))] = histogram.reliability(
                        channel
                    )
            else:
                bins[" ".join(filter(None, (name, where)))] = histogram.reliability()
    if not any(one.counts.any() for one in bins.values()):
        return []
    whole = [name for name in bins if "region of interest" not in name]
    return save_figure(reliability_figure(bins, dashed=whole), folder, "reliability")


def dice_and_confidences(cases: pd.DataFrame, score: Score) -> Pair | None:
    """Dice and confidence of the cases that have both; None if there is no such case."""
    dice, confidences = numbers(cases, "dice"), ranked_confidences(cases, score)
    both = np.isfinite(dice) & np.isfinite(confidences)
    return (dice[both], confidences[both]) if both.any() else None
