"""The Dice that a segmentation would get, foretold from its scores, with a lower bound.

(Filled in below.)
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from nnunetv2_le.calibration.cases import LabelCases

DEFAULT_LEVEL = 0.9


@dataclass(frozen=True)
class DicePrediction:
    """Predicted Dice and its lower bound; NaN where a score that is needed is undefined."""

    dice: Float[np.ndarray, "cases"]
    lower: Float[np.ndarray, "cases"]


@dataclass(frozen=True)
class PredictedDice:
    """A fitted prediction of Dice.

    Attributes:
        level: probability with which a new case's Dice reaches the lower bound.
        mean_absolute_error: cross-validated, the choice of the model included.
        baseline_error: mean absolute error of predicting the mean Dice of the other cases.
        num_cases: labelled cases with all scores.
        num_undefined: labelled cases that were left out, because a score or the Dice is undefined.
    """

    level: float
    mean_absolute_error: float
    baseline_error: float
    num_cases: int
    num_undefined: int

    def predict(self, scores: Mapping[str, Float[np.ndarray, "cases"]]) -> DicePrediction:
        """Predict cases from their score columns.

        Raises:
            InputError: a column is missing.
        """
        raise NotImplementedError

    def predict_case(self, scores: Mapping[str, float]) -> tuple[float, float]:
        """Dice and lower bound of one case from its scores."""
        raise NotImplementedError


@dataclass(frozen=True)
class FittedDice:
    """What a fit gives.

    Attributes:
        predicted: to be stored.
        held_out: prediction of each labelled case by a model that has not seen its patient; what a
            flag has to be fitted on. NaN for cases that were left out.
    """

    predicted: PredictedDice
    held_out: Float[np.ndarray, "cases"]


def fit_predicted_dice(
    table: LabelCases,
    *,
    groups: Int[np.ndarray, "cases"],
    level: float = DEFAULT_LEVEL,
    seed: int = 0,
) -> FittedDice:
    """Choose a model by nested cross-validation, fit it, and find its lower bound.

    Args:
        table: scores and Dice of the labelled cases.
        groups: the number of each case's patient.
        level: of the lower bound.
        seed: of the folds.

    Raises:
        SettingError: ``level`` is not between 0 and 1.
        InputError: too few cases, or no score that differs between cases.
    """
    raise NotImplementedError
