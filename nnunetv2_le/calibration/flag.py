"""Which cases a person has to look at, so that few poor ones go through unseen.

Conventions:
    A case is poor if its Dice lies below ``tolerance``. It is flagged if its score is undefined or
    below the threshold (for a score of which higher is worse: above). ``alpha`` bounds the share of
    ALL new cases that are both poor and not flagged; the share among the cases that are not flagged
    is larger by one over their share.

Metrics:
    loss of a case at a threshold t: 1[Dice < tolerance and not flagged at t], between 0 and 1 and
    never rising as t flags more. The threshold is the mildest with (K R(t) + 1) / (K + 1) <= alpha,
    K groups, R their mean loss; then E[loss of a new case] <= alpha.
    workload: the share of labelled cases that the threshold flags. The risk counts patients
        equally, the workload (and the share of poor cases) counts cases, as work does.

Assumption:
    Exchangeability (see `conformal`). The score must not have been fitted on the cases given here.

References:
    Angelopoulos, Bates, Fisch, Lei and Schuster 2022, arXiv:2208.02814 (conformal risk control).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from nnunetv2_le.calibration.conformal import (
    ROUNDING,
    controlled_threshold,
    require_enough,
    risk_bounds,
)
from nnunetv2_le.errors import InputError, SettingError

DEFAULT_ALPHA = 0.05


@dataclass(frozen=True)
class WorkloadPoint:
    """One choice between risk and work.

    Attributes:
        alpha: bound on the share of cases that are poor and not flagged.
        threshold: of the score; None flags every case.
        workload: share of labelled cases that is flagged.
    """

    alpha: float
    threshold: float | None
    workload: float


@dataclass(frozen=True)
class FlagRule:
    """A threshold on a score, what it guarantees and what it costs.

    Attributes:
        score: the column it looks at, for example ``predicted_dice``.
        higher_is_better: direction of that score.
        threshold: cases below it (above, if higher is worse) are flagged; None: every case.
        tolerance: Dice below which a case is poor.
        alpha: bound on the share of new cases that are poor and not flagged.
        workload: share of the labelled cases that is flagged.
        poor: share of the labelled cases that is poor.
        num_cases: labelled cases.
        num_groups: labelled patients.
        curve: what every other alpha would have cost, ascending alpha.
    """

    score: str
    higher_is_better: bool
    threshold: float | None
    tolerance: float
    alpha: float
    workload: float
    poor: float
    num_cases: int
    num_groups: int
    curve: tuple[WorkloadPoint, ...]

    def flags(self, values: Float[np.ndarray, "cases"]) -> Bool[np.ndarray, "cases"]:
        """Whether each case is flagged; undefined values are."""
        if self.threshold is None:
            return np.ones(len(values), dtype=bool)
        return _flagged(values, self.threshold, higher_is_better=self.higher_is_better)

    def flag(self, value: float) -> bool:
        """Whether a case with this score is flagged."""
        return bool(self.flags(np.array([value], dtype=float))[0])


def fit_flag(
    scores: Float[np.ndarray, "cases"],
    dice: Float[np.ndarray, "cases"],
    *,
    tolerance: float,
    alpha: float = DEFAULT_ALPHA,
    groups: Int[np.ndarray, "cases"],
    score: str = "predicted_dice",
    higher_is_better: bool = True,
) -> FlagRule:
    """Choose the threshold that flags the fewest cases and keeps the risk at or below ``alpha``.

    Args:
        scores: of each labelled case, from a model that has not seen its Dice; NaN: always flagged.
        dice: of each labelled case; cases with NaN (nothing there, nothing found) are never poor.
        tolerance: Dice below which a case is poor, between 0 and 1.
        alpha: share of new cases that may be poor and not flagged.
        groups: the number of each case's patient.
        score: name of the score.
        higher_is_better: direction of the score.

    Raises:
        SettingError: ``tolerance`` or ``alpha`` is not between 0 and 1.
        InputError: too few cases for ``alpha``, or a score that is the same in every case.
    """
    if not 0 < tolerance <= 1:
        raise SettingError(f"expected a tolerated Dice between 0 and 1, got {tolerance!r}")
    require_enough(len(np.unique(groups)), alpha, purpose="a flag")
    scores, dice = np.asarray(scores, dtype=float), np.asarray(dice, dtype=float)
    thresholds = _thresholds(scores, score, higher_is_better=higher_is_better)
    flagged = np.stack(
        [_flagged(scores, t, higher_is_better=higher_is_better) for t in thresholds[:-1]]
        + [np.ones(len(scores), dtype=bool)],
        axis=1,
    )
    losses = (~flagged & (dice < tolerance)[:, None]).astype(float)
    workloads = flagged.mean(axis=0)
    chosen = controlled_threshold(losses, alpha, groups=groups, purpose="a flag")
    return FlagRule(
        score=score,
        higher_is_better=higher_is_better,
        threshold=_stored(thresholds[chosen]),
        tolerance=float(tolerance),
        alpha=float(alpha),
        workload=float(workloads[chosen]),
        poor=float(np.mean(dice < tolerance)),
        num_cases=len(scores),
        num_groups=len(np.unique(groups)),
        curve=_curve(risk_bounds(losses, groups), thresholds, workloads),
    )


FlagStatus = Literal["ok", "review", "out_of_distribution", "empty"]


@dataclass(frozen=True)
class CaseDecision:
    """What is said of a new case.

    Attributes:
        flag: ``ok``, or why a person has to look at it. Where several reasons hold: ``empty``
            before ``out_of_distribution`` before ``review``.
        reason: every reason, in words; empty for ``ok``.
    """

    flag: FlagStatus
    reason: str


def decide_case(
    scores: Mapping[str, float],
    *,
    rule: FlagRule | None,
    is_empty: bool,
    outlier_quantile: float | None = None,
    outlier_alpha: float = DEFAULT_ALPHA,
) -> CaseDecision:
    """Flag a new case.

    Args:
        scores: the case's scores, with the one that the rule looks at.
        rule: the fitted threshold; None: no such reason.
        is_empty: whether the segmentation is empty.
        outlier_quantile: share of in-distribution cases that lie nearer, see `out_of_distribution`;
            None or NaN: not known.
        outlier_alpha: share of in-distribution cases that may be called outliers.

    Raises:
        InputError: the case lacks the score that the rule looks at.
    """
    reasons: list[tuple[FlagStatus, str]] = []
    if is_empty:
        reasons.append(("empty", "the segmentation is empty"))
    if outlier_quantile is not None and outlier_quantile >= 1 - outlier_alpha - ROUNDING:
        reasons.append(
            (
                "out_of_distribution",
                f"its features lie further out than {outlier_quantile:.1%} of the known cases",
            )
        )
    if rule is not None and not is_empty:
        if rule.score not in scores:
            raise InputError(
                f"the flag looks at {rule.score}, which the case does not have; it has "
                f"{', '.join(scores)}"
            )
        if rule.flag(scores[rule.score]):
            reasons.append(("review", _review_reason(scores[rule.score], rule)))
    if not reasons:
        return CaseDecision("ok", "")
    return CaseDecision(reasons[0][0], "; ".join(text for _, text in reasons))


def _review_reason(value: float, rule: FlagRule) -> str:
    if np.isnan(value):
        return f"{rule.score} is undefined"
    if rule.threshold is None:
        return f"alpha {rule.alpha:g} asks for every case to be looked at"
    side = "below" if rule.higher_is_better else "above"
    return f"{rule.score} {value:.3g} lies {side} {rule.threshold:.3g}"


def _flagged(
    scores: np.ndarray, threshold: float, *, higher_is_better: bool
) -> Bool[np.ndarray, "cases"]:
    passes = scores >= threshold if higher_is_better else scores <= threshold
    return np.asarray(~passes)


def _thresholds(
    scores: np.ndarray, score: str, *, higher_is_better: bool
) -> Float[np.ndarray, "thresholds"]:
    """Every score that occurs, mildest first, and at last one that flags every case."""
    defined = np.unique(scores[np.isfinite(scores)])
    if len(defined) < 2:
        raise InputError(
            f"{score} has {len(defined)} different values in {len(scores)} labelled cases, at "
            "least 2 are needed; choose another score"
        )
    return np.append(defined if higher_is_better else defined[::-1], np.inf)


def _curve(
    bounds: np.ndarray, thresholds: np.ndarray, workloads: np.ndarray
) -> tuple[WorkloadPoint, ...]:
    """The mildest threshold of each bound that can be reached, by ascending alpha."""
    firsts = [number for number in range(len(bounds)) if (bounds[:number] > bounds[number]).all()]
    return tuple(
        WorkloadPoint(float(bounds[n]), _stored(thresholds[n]), float(workloads[n]))
        for n in reversed(firsts)
    )


def _stored(threshold: float) -> float | None:
    return float(threshold) if np.isfinite(threshold) else None
