"""The two models of Dice, small enough to be read in a file: one score, or all of them.

Conventions:
    Models predict ln(Dice / (1 - Dice)), Dice clipped to [0.005, 0.995]: effects of scores add up
    on that scale, and beyond the labelled cases a line leads towards 0 and 1, not past them.

Models:
    isotonic: monotone in one score (scikit-learn), linear between its knots. Isotonic regression
        alone is flat beyond the labelled cases, so that no new case could be foretold worse than
        the worst labelled one; here a line goes on with the slope of a linear regression of the
        log-odds on that score.
    linear: ridge regression of the log-odds on all standardised scores, its penalty by
        leave-one-out (scikit-learn).

References:
    Zadrozny and Elkan 2002 (isotonic calibration). Hoerl and Kennard 1970 (ridge).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import RidgeCV

from nnunetv2_le.calibration.groups import group_folds, group_means, is_clear

MIN_DICE = 0.005  # its log-odds stand for a Dice of 0
_PENALTIES = np.logspace(-2, 4, 7)
_INNER_FOLDS = 5
_ALL_SCORES = "all scores"

CLEAR_SCORE = 2.0  # standard errors: of several scores one may look better by chance
CLEAR_ALL = 1.0

Scores = Mapping[str, Float[np.ndarray, "cases"]]


@dataclass(frozen=True)
class IsotonicModel:
    """Monotone in one score.

    Attributes:
        score: its column.
        knots: values of the score, ascending.
        log_odds: prediction at each knot, monotone.
        slope: of the log-odds per unit of the score beyond the knots.
    """

    score: str
    knots: tuple[float, ...]
    log_odds: tuple[float, ...]
    slope: float
    kind: Literal["isotonic"] = "isotonic"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it looks at."""
        return (self.score,)

    def predict(self, scores: Scores) -> Float[np.ndarray, "cases"]:
        """Log-odds of Dice; NaN where the score is undefined."""
        values = np.asarray(scores[self.score], dtype=float)
        inside = np.clip(values, self.knots[0], self.knots[-1])
        within = np.interp(inside, self.knots, self.log_odds)
        return np.asarray(within + self.slope * (values - inside))


@dataclass(frozen=True)
class LinearModel:
    """intercept + sum over scores of weight * (score - mean) / scale.

    Attributes:
        columns: of the scores.
        means: of each score over labelled cases.
        scales: standard deviation of each.
        weights: of each standardised score.
        intercept: log-odds at the means.
        penalty: of ridge regression, for the record.
    """

    columns: tuple[str, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float
    penalty: float
    kind: Literal["linear"] = "linear"

    def predict(self, scores: Scores) -> Float[np.ndarray, "cases"]:
        """Log-odds of Dice; NaN where a score is undefined."""
        total = np.full(np.shape(scores[self.columns[0]]), self.intercept)
        for column, mean, scale, weight in zip(
            self.columns, self.means, self.scales, self.weights, strict=True
        ):
            # one column after another: the last bit does not depend on how many cases there are
            total = total + weight * ((np.asarray(scores[column], dtype=float) - mean) / scale)
        return total


DiceModel = IsotonicModel | LinearModel


def log_odds(dice: Float[np.ndarray, "cases"]) -> Float[np.ndarray, "cases"]:
    """ln(Dice / (1 - Dice)), Dice clipped to [0.005, 0.995]."""
    return np.asarray(logit(np.clip(dice, MIN_DICE, 1 - MIN_DICE)))


def dice_of(odds: Float[np.ndarray, "cases"]) -> Float[np.ndarray, "cases"]:
    """Dice of log-odds."""
    return np.asarray(expit(odds))


def higher_is_better(column: str) -> bool:
    """Whether a score is an agreement."""
    return column.startswith("aula") or column.endswith("_dice")


def fit_isotonic(scores: Scores, dice: Float[np.ndarray, "cases"], *, score: str) -> IsotonicModel:
    """Fit Dice on one score.

    Args:
        scores: columns of the labelled cases, all defined.
        dice: of the labelled cases.
        score: the column; it must differ between cases.
    """
    values = np.asarray(scores[score], dtype=float)
    rises = higher_is_better(score)
    fitted = IsotonicRegression(increasing=rises).fit(values, dice)
    away = values - values.mean()
    spread = float(away @ away)
    slope = float(away @ log_odds(dice)) / spread if spread > 0 else 0.0
    return IsotonicModel(
        score=score,
        knots=tuple(map(float, fitted.X_thresholds_)),
        log_odds=tuple(map(float, log_odds(fitted.y_thresholds_))),
        slope=max(0.0, slope) if rises else min(0.0, slope),
    )


def fit_linear(
    scores: Scores, dice: Float[np.ndarray, "cases"], *, columns: tuple[str, ...]
) -> LinearModel:
    """Fit Dice on many scores.

    Args:
        scores: columns of the labelled cases, all defined.
        dice: of the labelled cases.
        columns: those to use; one that does not differ between these cases gets weight 0.
    """
    table = np.stack([np.asarray(scores[column], dtype=float) for column in columns], axis=1)
    means, scales = table.mean(axis=0), table.std(axis=0)
    scales[scales <= 1e-12 * np.abs(means)] = np.inf
    fitted = RidgeCV(_PENALTIES).fit((table - means) / scales, log_odds(dice))
    finite = np.where(np.isfinite(scales), scales, 1.0)
    weights = np.where(np.isfinite(scales), fitted.coef_, 0.0)
    return LinearModel(
        columns=columns,
        means=tuple(map(float, means)),
        scales=tuple(map(float, finite)),
        weights=tuple(map(float, weights)),
        intercept=float(fitted.intercept_),
        penalty=float(fitted.alpha_),
    )


def choose_model(
    scores: Scores,
    dice: Float[np.ndarray, "cases"],
    *,
    groups: Int[np.ndarray, "cases"],
    candidates: tuple[str, ...],
    columns: tuple[str, ...],
    seed: int,
) -> DiceModel:
    """Isotonic on one score, unless another or all scores together are clearly better.

    All predict held-out folds of patients and are compared by their absolute errors, mean of each
    patient. The first score gives way to another only where the difference exceeds two standard
    errors over patients, and the one that is left to all scores where it exceeds one. With fewer
    patients than columns the linear model is out of the question.

    Args:
        scores: columns of the labelled cases, all defined.
        dice: of the labelled cases.
        groups: the number of each case's patient.
        candidates: columns of isotonic models, the one that is preferred first.
        columns: of the linear model.
        seed: of the folds.
    """
    fits: dict[str, Callable[..., DiceModel]] = {
        score: partial(fit_isotonic, score=score) for score in candidates
    }
    if len(np.unique(groups)) >= len(columns):
        fits[_ALL_SCORES] = partial(fit_linear, columns=columns)
    errors = _held_out_errors(fits, scores, dice, groups=groups, seed=seed)
    best, *others = fits
    for other in others:
        clear = CLEAR_ALL if other == _ALL_SCORES else CLEAR_SCORE
        if is_clear(errors[best] - errors[other], clear):
            best = other
    return fits[best](scores, dice)


def _held_out_errors(
    fits: Mapping[str, Callable[..., DiceModel]],
    scores: Scores,
    dice: Float[np.ndarray, "cases"],
    *,
    groups: Int[np.ndarray, "cases"],
    seed: int,
) -> dict[str, Float[np.ndarray, "patients"]]:
    """Mean absolute error of each patient, by each model, on folds that it was not fitted on."""
    predicted = {name: np.full(len(dice), np.nan) for name in fits}
    for training, held_out in group_folds(groups, _INNER_FOLDS, seed=seed):
        known, asked = rows(scores, training), rows(scores, held_out)
        for name, fit in fits.items():
            predicted[name][held_out] = fit(known, dice[training]).predict(asked)
    return {
        name: group_means(np.abs(dice_of(odds) - dice), groups) for name, odds in predicted.items()
    }


def rows(scores: Scores, chosen: np.ndarray) -> dict[str, np.ndarray]:
    """Some of the cases of every column."""
    return {name: np.asarray(values, dtype=float)[chosen] for name, values in scores.items()}
