"""From observed cases to a calibration: every fit, in the order in which one needs the other.

The flag looks at predicted Dice of models that have not seen the case, the temperature's figures
are cross-validated, and so is what is reported (`held_out`); but for the choice of heads, and for
the temperature (or vector scaling) under prediction sets, which are fitted on all cases.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Int

from nnunetv2_le.calibration.calibration_file import Calibration, Identity
from nnunetv2_le.calibration.cases import group_numbers
from nnunetv2_le.calibration.conformal import ROUNDING, cases_needed, is_share, rounded_up
from nnunetv2_le.calibration.contours import fit_contours
from nnunetv2_le.calibration.fit import fit_decisions
from nnunetv2_le.calibration.head_skip import HeadSkip, fit_head_skip
from nnunetv2_le.calibration.known_features import KnownFeatures
from nnunetv2_le.calibration.observed_case import FUSED, ObservedCase
from nnunetv2_le.calibration.observed_tables import boundary_table, case_table, set_curves
from nnunetv2_le.calibration.out_of_distribution import OutOfDistribution, require_enough_known
from nnunetv2_le.calibration.predicted_dice import MIN_PATIENTS
from nnunetv2_le.calibration.prediction_sets import fit_prediction_sets
from nnunetv2_le.calibration.temperature import Temperature, TemperatureSearch, fit_temperature
from nnunetv2_le.calibration.vector_scaling import VectorScaling, fit_vector_scaling
from nnunetv2_le.errors import InputError, SettingError, first_few
from nnunetv2_le.types import Labels

logger = logging.getLogger(__name__)

Part = TypeVar("Part")


@dataclass(frozen=True)
class FitSettings:
    """What a calibration is to promise.

    Attributes:
        tolerance: Dice below which a case is poor.
        alpha: share of new cases that may be poor and not flagged.
        level: probability with which a case's Dice reaches its lower bound.
        set_alpha: share of a new case's voxels whose true label may be missing in the set.
        contour_alpha: share of new cases in which a label's boundary may lie beyond the contours.
        contour_share: share of a label's voxels that may lie beyond its contours all the same.
        outlier_alpha: share of known cases that may be called out of distribution.
        is_shared_temperature: one temperature in all, instead of one a head.
        use_vector_scaling: try a weight and a bias for each channel of the fused prediction.
        seed: of every random choice.
    """

    tolerance: float = 0.8
    alpha: float = 0.05
    level: float = 0.9
    set_alpha: float = 0.05
    contour_alpha: float = 0.1
    contour_share: float = 0.0
    outlier_alpha: float = 0.05
    is_shared_temperature: bool = False
    use_vector_scaling: bool = False
    seed: int = 0


def require_enough_cases(num_groups: int, settings: FitSettings) -> None:
    """Refuse what makes no sense, or what so few cases cannot support, before predicting any.

    Raises:
        SettingError: a share or the tolerance is not between 0 and 1.
        InputError: more cases are needed; the message says how many.
    """
    _require_shares(settings)
    if not 0 < settings.tolerance <= 1:
        raise SettingError(
            f"-tolerance is a Dice above 0 and at most 1, got {settings.tolerance!r}; a case below "
            "it is poor"
        )
    if not 0 <= settings.contour_share < 1:
        raise SettingError(
            "-contour_share is a share of voxels, 0 or more and below 1, got "
            f"{settings.contour_share!r}"
        )
    if num_groups < MIN_PATIENTS:
        raise InputError(
            f"{num_groups} labelled cases (patients) are too few to calibrate with: predicted Dice "
            f"needs at least {MIN_PATIENTS}. Label more cases or, without -i, name more folds "
            "with -f."
        )
    _require_promises(num_groups, settings)


def _require_promises(num_groups: int, settings: FitSettings) -> None:
    """All that so few cases cannot promise, in one message with what they can."""
    least = rounded_up(1 / (num_groups + 1), 4)
    promises = {  # share that may fail, and the value of the flag that so few cases can keep
        "alpha": (settings.alpha, least),
        "level": (1 - settings.level, 1 - least),
        "set_alpha": (settings.set_alpha, least),
        "contour_alpha": (settings.contour_alpha / 2, 2 * least),  # half inside, half outside
        "outlier_alpha": (settings.outlier_alpha, least),
    }
    needed = {name: cases_needed(alpha) for name, (alpha, _) in promises.items()}
    if too_much := [name for name in promises if num_groups < needed[name]]:
        asked = (f"-{name} {getattr(settings, name):g} (needs {needed[name]})" for name in too_much)
        possible = (f"-{name} {promises[name][1]:g}" for name in too_much)
        raise InputError(
            f"{num_groups} labelled cases (patients) are too few for {', '.join(asked)}. Label "
            "more cases, name more folds with -f (without -i), or promise less: "
            f"{' '.join(possible)}."
        )


def _require_shares(settings: FitSettings) -> None:
    for name in ("alpha", "level", "set_alpha", "contour_alpha", "outlier_alpha"):
        if not is_share(getattr(settings, name)):
            raise SettingError(
                f"-{name} is a share between 0 and 1, got {getattr(settings, name)!r}; name one "
                f"that is further than {ROUNDING:g} from either"
            )
    if settings.seed < 0:
        raise SettingError(f"-seed is 0 or more, got {settings.seed!r}")


def fit_score_heads(
    observed: Sequence[ObservedCase], *, default_fused: int, groups: Int[np.ndarray, "cases"]
) -> HeadSkip | None:
    """How many first heads to leave out; None where heads are no members, or cases too few.

    AULA is not judged on empty segmentations: deep heads may agree on nothing there, and the case
    is flagged whatever AULA says.
    """
    heads = observed[0].members[:-1]
    if len(heads) < 3 or not len(observed[0].fused_dice):
        return None
    is_empty = [case.scores.get("volume_ml") == 0 for case in observed]
    return _or_none(
        "the choice of heads",
        lambda: fit_head_skip(
            heads,
            agreements=np.stack([case.agreements for case in observed]),
            dice=np.where(is_empty, np.nan, [case.dice for case in observed]),
            fused_dice=np.stack([case.fused_dice for case in observed]),
            default_fused_skip=len(heads) - default_fused,
            groups=groups,
        ),
    )


def fit_calibration(
    observed: Sequence[ObservedCase],
    *,
    identity: Identity,
    labels: Labels,
    groups: Sequence[str],
    head_skip: HeadSkip | None,
    settings: FitSettings,
) -> Calibration:
    """Fit everything but the choice of heads.

    Args:
        observed: predicted with the chosen heads.
        identity: of the model and its members.
        labels: what channels mean.
        groups: the patient of each case; empty: every case is one.
        head_skip: the choice of heads.
        settings: what to promise.

    Raises:
        InputError: too few cases, or scores that do not differ between cases.
        SettingError: a share is not between 0 and 1.
    """
    table = case_table(observed, labels, groups=groups, head_skip=head_skip)
    numbers = table.group_numbers
    temperature, vector = _probabilities(observed, labels, numbers, settings)
    decisions = fit_decisions(
        table,
        tolerance=settings.tolerance,
        alpha=settings.alpha,
        level=settings.level,
        seed=settings.seed,
    )
    for problem in dict.fromkeys(decisions.problems.values()):  # of many rare labels the same
        names = [name for name, its in decisions.problems.items() if its == problem]
        logger.warning("Predicted Dice of %s is left out: %s.", first_few(names), problem)
    curves = set_curves(observed, labels, temperature=temperature, vector=vector)
    return Calibration(
        identity=identity,
        num_cases=len(observed),
        num_groups=len(np.unique(numbers)),
        head_skip=head_skip,
        temperature=temperature,
        vector_scaling=vector,
        predicted_dice=decisions.predicted_dice,
        predicted_dice_labels=decisions.predicted_dice_labels,
        flag=decisions.flag,
        prediction_sets=fit_prediction_sets(curves, alpha=settings.set_alpha, groups=numbers),
        contours=fit_contours(
            boundary_table(observed, labels), alpha=settings.contour_alpha, groups=numbers
        ),
        outlier_alpha=settings.outlier_alpha,
        features=_known_features(observed, groups, alpha=settings.outlier_alpha),
    )


def _probabilities(
    observed: Sequence[ObservedCase], labels: Labels, groups: np.ndarray, settings: FitSettings
) -> tuple[Temperature, VectorScaling | None]:
    search = TemperatureSearch(
        observed[0].members, has_regions=labels.has_regions, seed=settings.seed
    )
    for case in observed:
        search.add(case.logits, case.truth)
    temperature = fit_temperature(search, is_shared=settings.is_shared_temperature, groups=groups)
    if not settings.use_vector_scaling:
        return temperature, None
    return temperature, fit_vector_scaling(search, FUSED, groups=groups)


def _known_features(
    observed: Sequence[ObservedCase], groups: Sequence[str], *, alpha: float
) -> dict[str, KnownFeatures]:
    """Features of each fold's cases; folds whose cases are too few are left out."""
    known = {}
    for fold in dict.fromkeys(case.fold for case in observed):
        numbers = [n for n, case in enumerate(observed) if case.fold == fold]
        of_fold = tuple(groups[n] for n in numbers) if groups else ()
        features = np.stack([observed[n].features for n in numbers])
        if not features.shape[1]:
            continue

        def check(
            features: np.ndarray = features, of_fold: tuple[str, ...] = of_fold
        ) -> KnownFeatures:
            OutOfDistribution(features, groups=group_numbers(of_fold, len(features)))
            return KnownFeatures(features, of_fold)

        found = _or_none(f"distances to the known cases of fold {fold}", check)
        if found is not None:
            known[fold] = found
            _warn_of_few(fold, len(set(of_fold)) or len(features), alpha)
    return known


def _warn_of_few(fold: str, num_known: int, alpha: float) -> None:
    """Networks of different folds are not compared: each knows its own cases alone."""
    try:
        require_enough_known(num_known, alpha)
    except InputError as error:
        logger.warning(
            "With fold %s no case is ever flagged as out of distribution: %s.", fold, error
        )


def _or_none(what: str, fit: Callable[[], Part]) -> Part | None:
    """A part that a calibration can do without."""
    try:
        return fit()
    except InputError as error:
        logger.warning("Left out: %s (%s).", what, error)
        return None
