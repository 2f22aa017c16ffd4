"""What is fitted on the table of labelled cases alone: predicted Dice and the flag."""

from dataclasses import dataclass

import numpy as np

from nnunetv2_le.calibration.cases import CalibrationCases
from nnunetv2_le.calibration.dice_models import higher_is_better
from nnunetv2_le.calibration.flag import DEFAULT_ALPHA, FlagRule, fit_flag
from nnunetv2_le.calibration.predicted_dice import (
    DEFAULT_LEVEL,
    PredictedDice,
    fit_predicted_dice,
)
from nnunetv2_le.errors import InputError

PREDICTED_DICE = "predicted_dice"


@dataclass(frozen=True)
class FittedDecisions:
    """Predictions of Dice and the flag.

    Attributes:
        predicted_dice: of the case.
        predicted_dice_labels: of each label for which there are enough cases, by its name.
        flag: which cases to review.
        problems: for each label without a prediction, why.
    """

    predicted_dice: PredictedDice
    predicted_dice_labels: dict[str, PredictedDice]
    flag: FlagRule
    problems: dict[str, str]


def fit_decisions(
    cases: CalibrationCases,
    *,
    tolerance: float,
    alpha: float = DEFAULT_ALPHA,
    level: float = DEFAULT_LEVEL,
    flag_score: str = PREDICTED_DICE,
    seed: int = 0,
) -> FittedDecisions:
    """Fit predicted Dice of the case and of each label, and the flag.

    A flag on predicted Dice is fitted on cross-validated predictions: no case is judged by a model
    that has seen its patient.

    Args:
        cases: labelled cases that no model was trained on which predicted them.
        tolerance: mean Dice below which a case is poor.
        alpha: share of new cases that may be poor and not flagged.
        level: of the lower bounds of Dice.
        flag_score: ``predicted_dice``, or a column of the scores.
        seed: of the folds.

    Raises:
        SettingError: a setting that makes no sense.
        InputError: too few cases, constant scores, or an unknown ``flag_score``.
    """
    groups = cases.group_numbers
    fitted = fit_predicted_dice(cases.case, groups=groups, level=level, seed=seed)
    columns = {**cases.case.scores, PREDICTED_DICE: fitted.held_out}
    if flag_score not in columns:
        raise InputError(
            f"expected the score of the flag to be one of {', '.join(columns)}, got {flag_score!r}"
        )
    flag = fit_flag(
        np.asarray(columns[flag_score], dtype=float),
        np.asarray(cases.case.dice, dtype=float),
        tolerance=tolerance,
        alpha=alpha,
        groups=groups,
        score=flag_score,
        higher_is_better=flag_score == PREDICTED_DICE or higher_is_better(flag_score),
    )
    labels, problems = {}, {}
    for name, table in cases.labels.items():
        try:
            labels[name] = fit_predicted_dice(
                table, groups=groups, level=level, seed=seed
            ).predicted
        except InputError as error:  # a label that is rare does not spoil the others
            problems[name] = str(error)
    return FittedDecisions(fitted.predicted, labels, flag, problems)
