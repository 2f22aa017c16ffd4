"""The Dice that a segmentation would get, foretold from its scores, with a lower bound.

Conventions:
    One prediction for a case, or for a label. A labelled case counts if its Dice and the main score
    are defined and something is segmented; a column is used if it is defined in all of these and
    differs between them. A new case with an undefined column has no prediction (NaN), nor has an
    empty segmentation, however well members agree on nothing.

Metrics:
    predicted Dice: the model that nested cross-validation chooses (see `dice_models`), fitted on
        all labelled cases.
    lower bound at level 1 - alpha: CV+, one-sided, on the scale of log-odds z. With ten folds of
        patients, models z_-k without fold k, and residuals R_i = z_-k(i)(x_i) - z(Dice_i), the
        bound is the conformal lower quantile of z_-k(i)(x) - R_i over labelled cases, patients
        weighted equally. The choice of the model is part of what is repeated in each fold.

Assumption:
    Exchangeability (see `conformal`). With n patients CV+ promises 1 - 2 alpha - sqrt(2 / n) in the
    worst case (as many folds as patients: 1 - 2 alpha) and holds 1 - alpha in practice
    (``documentation/results.md`` has what was measured). Patients count equally in the quantile,
    not in the fit of the models, which counts cases.

References:
    Barber, Candes, Ramdas and Tibshirani 2021, arXiv:1905.02928 (CV+). Lee, Barber and Willett
    2023, arXiv:2306.06342 (groups). ``documentation/decisions/015-conformal-lower-bounds.md``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Int

from nnunetv2_le.calibration.cases import LabelCases, group_numbers
from nnunetv2_le.calibration.conformal import require_enough
from nnunetv2_le.calibration.dice_models import (
    MIN_DICE,
    DiceModel,
    Scores,
    choose_model,
    dice_of,
    log_odds,
    rows,
)
from nnunetv2_le.calibration.groups import group_folds, group_weights
from nnunetv2_le.errors import InputError, SettingError

DEFAULT_LEVEL = 0.9
MIN_PATIENTS = 10
NUM_FOLDS = 10

MAIN_SCORES = (
    *("mirrors_soft_dice", "soft_dice", "consensus_dice"),
    *("aula_normalized", "entropy_foreground_mean"),
)
"""Scores of the simple model, the preferred one first."""

_COLUMN_ENDINGS = ("_dice", "_foreground_mean", "_boundary_mean")
_VOLUME = "volume_ml"
_COLUMNS = ("aula_normalized", _VOLUME, "volume_std_ml")


@dataclass(frozen=True)
class DicePrediction:
    """Predicted Dice and its lower bound; NaN of an empty segmentation or an undefined score."""

    dice: Float[np.ndarray, "cases"]
    lower: Float[np.ndarray, "cases"]


@dataclass(frozen=True)
class HeldOutFold:
    """A model that has not seen some patients, and how far it was off on them.

    Attributes:
        model: fitted without them.
        residuals: predicted minus true log-odds of each of their cases.
        weights: of each of their cases; over all folds they sum to 1.
    """

    model: DiceModel
    residuals: tuple[float, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True)
class PredictedDice:
    """A fitted prediction of Dice.

    Attributes:
        model: predicts.
        folds: give the lower bound.
        level: probability with which a new case's Dice reaches the lower bound.
        mean_absolute_error: cross-validated, the choice of the model included.
        baseline_error: the same of predicting the mean Dice of the other patients' cases.
        num_cases: labelled cases that count.
        num_groups: their patients.
        num_undefined: labelled cases that do not count.
    """

    model: DiceModel
    folds: tuple[HeldOutFold, ...]
    level: float
    mean_absolute_error: float
    baseline_error: float
    num_cases: int
    num_groups: int
    num_undefined: int

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that a new case must have."""
        models = (self.model, *(fold.model for fold in self.folds))
        return tuple(dict.fromkeys(column for model in models for column in model.columns))

    def predict(self, scores: Scores) -> DicePrediction:
        """Predict cases from their score columns.

        Raises:
            InputError: a column is missing.
        """
        missing = [column for column in self.columns if column not in scores]
        if missing:
            raise InputError(
                f"predicted Dice needs the columns {', '.join(missing)}, which the cases lack; "
                "predict with the members that the model was calibrated with"
            )
        predicted = dice_of(self.model.predict(scores))
        lower = np.minimum(self._lower(scores), predicted)
        undefined = ~(np.isfinite(predicted) & np.isfinite(lower)) | _is_empty(scores)
        return DicePrediction(
            np.where(undefined, np.nan, predicted), np.where(undefined, np.nan, lower)
        )

    def predict_case(self, scores: Mapping[str, float]) -> tuple[float, float]:
        """Predicted Dice of one case from its scores, and the lower bound."""
        needed = (*self.columns, _VOLUME)
        columns = {c: np.array([v], dtype=float) for c, v in scores.items() if c in needed}
        predicted = self.predict(columns)
        return float(predicted.dice[0]), float(predicted.lower[0])

    def _lower(self, scores: Scores) -> Float[np.ndarray, "cases"]:
        """Weighted lower quantile of what each labelled case says, a new case counted as worst."""
        said = np.concatenate(
            [fold.model.predict(scores)[:, None] - np.array(fold.residuals) for fold in self.folds],
            axis=1,
        )
        weights = np.concatenate([fold.weights for fold in self.folds])
        order = np.argsort(-said, axis=1, kind="stable")
        share = self.num_groups / (self.num_groups + 1)
        covered = np.cumsum(weights[order], axis=1) * share
        first = (covered < self.level - 1e-9).sum(axis=1)
        bound = dice_of(np.take_along_axis(said, order, axis=1)[np.arange(len(said)), first])
        # the clipped log-odds of a Dice of 0 come back a last bit above it
        return np.where(bound <= MIN_DICE * (1 + 1e-9), 0.0, bound)


@dataclass(frozen=True)
class FittedDice:
    """What a fit gives.

    Attributes:
        predicted: to be stored.
        held_out: prediction of each labelled case by a model that has not seen its patient; what a
            flag has to be fitted on. NaN where a case does not count.
    """

    predicted: PredictedDice
    held_out: Float[np.ndarray, "cases"]


def fit_predicted_dice(
    table: LabelCases,
    *,
    groups: Int[np.ndarray, "cases"],
    level: float = DEFAULT_LEVEL,
    score: str | None = None,
    seed: int = 0,
) -> FittedDice:
    """Choose a model by nested cross-validation, fit it, and find its lower bound.

    Args:
        table: scores and Dice of the labelled cases.
        groups: the number of each case's patient.
        level: of the lower bound.
        score: column of the simple model; None takes the first of ``MAIN_SCORES`` that differs
            between cases, unless another predicts clearly better.
        seed: of the folds.

    Raises:
        SettingError: ``level`` is not between 0 and 1.
        InputError: too few patients, or a score that does not differ between cases.
    """
    if not 0 < level < 1:
        raise SettingError(f"expected a level between 0 and 1 for predicted Dice, got {level!r}")
    main = _main_score(table, score)
    counts = _counting(table, main)
    dice, scores = np.asarray(table.dice)[counts], rows(table.scores, counts)
    patients = group_numbers(groups[counts].tolist(), len(dice))
    num_patients = len(np.unique(patients))
    _require_patients(num_patients, level)
    choose = partial(
        choose_model,
        candidates=_usable(scores, MAIN_SCORES if score is None else (main,)) or (main,),
        columns=_usable(scores, filter(is_of_linear_model, scores)) or (main,),
        seed=seed,
    )
    weights, folds = group_weights(patients), []
    held_out, baseline = np.full(len(dice), np.nan), np.full(len(dice), np.nan)
    for training, asked in group_folds(patients, NUM_FOLDS, seed=seed):
        model = choose(rows(scores, training), dice[training], groups=patients[training])
        odds = model.predict(rows(scores, asked))
        held_out[asked], baseline[asked] = dice_of(odds), dice[training].mean()
        residuals = odds - log_odds(dice[asked])
        folds.append(HeldOutFold(model, tuple(residuals.tolist()), tuple(weights[asked].tolist())))
    predicted = PredictedDice(
        model=choose(scores, dice, groups=patients),
        folds=tuple(folds),
        level=float(level),
        mean_absolute_error=float(weights @ np.abs(held_out - dice)),
        baseline_error=float(weights @ np.abs(baseline - dice)),
        num_cases=len(dice),
        num_groups=num_patients,
        num_undefined=int(np.count_nonzero(~counts)),
    )
    of_all = np.full(len(counts), np.nan)
    of_all[counts] = held_out
    return FittedDice(predicted, of_all)


def _counting(table: LabelCases, main: str) -> Bool[np.ndarray, "cases"]:
    """The labelled cases that count; an empty segmentation lacks scores of the foreground."""
    defined = np.isfinite(table.dice) & np.isfinite(table.scores[main])
    return np.asarray(defined & ~_is_empty(table.scores))


def _is_empty(scores: Scores) -> Bool[np.ndarray, "*same"]:
    """Whether nothing is segmented; without volumes that is not known of any case."""
    return np.asarray(np.equal(scores.get(_VOLUME, np.nan), 0))


def _require_patients(number: int, level: float) -> None:
    if number < MIN_PATIENTS:
        raise InputError(
            f"predicted Dice needs at least {MIN_PATIENTS} labelled patients with a segmentation, "
            f"got {number}; label more cases"
        )
    require_enough(number, 1 - level, purpose="a lower bound of Dice")


def _main_score(table: LabelCases, score: str | None) -> str:
    """The asked score, or the first usual one, that differs between cases."""
    asked = MAIN_SCORES if score is None else (score,)
    for column in asked:
        if column in table.scores and _differs(np.asarray(table.scores[column], dtype=float)):
            return column
    raise InputError(
        f"{', '.join(asked)}: missing, undefined or the same in every labelled case, so Dice "
        "cannot be predicted; predict with more members, or name another score"
    )


def is_of_linear_model(column: str) -> bool:
    """Whether the linear model looks at a column."""
    return column in _COLUMNS or column.endswith(_COLUMN_ENDINGS)


def _usable(scores: Scores, columns: Iterable[str]) -> tuple[str, ...]:
    """Columns that are there, defined in every case and not constant."""
    return tuple(
        column
        for column in columns
        if column in scores and np.isfinite(scores[column]).all() and _differs(scores[column])
    )


def _differs(values: np.ndarray) -> bool:
    defined = values[np.isfinite(values)]
    return len(defined) > 1 and bool(np.ptp(defined) > 1e-12 * np.abs(defined).max())
