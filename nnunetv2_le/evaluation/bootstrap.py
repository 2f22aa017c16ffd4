"""How far would a figure move with other cases? Bootstrap intervals and paired comparisons.

Conventions:
    Cases, or whole patients where a column names them, are drawn with replacement; a draw is how
    often each case was drawn. Two methods are compared on the same draws of the same cases.

Metrics:
    percentile interval; paired difference with its interval and a two-sided p-value.

References:
    Efron and Tibshirani 1993, "An introduction to the bootstrap". Davison and Hinkley 1997, eq.
    4.11 (the p-value counts the observed sample among the draws, so it is never 0).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from nnunetv2_le.errors import InputError
from nnunetv2_le.evaluation.failure_detection import grouped_augrc, grouped_aurc

DEFAULT_DRAWS = 1000


@dataclass(frozen=True)
class Interval:
    """A percentile interval; NaN where fewer than two draws gave a value."""

    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference:
    """Figure of method A minus figure of method B.

    Attributes:
        difference: on the cases as they are.
        interval: over draws.
        p_value: two-sided, of the difference being 0.
    """

    difference: float
    interval: Interval
    p_value: float


def draw_counts(
    num_cases: int,
    *,
    num_draws: int = DEFAULT_DRAWS,
    patients: Sequence[str] | None = None,
    seed: int = 0,
) -> Int[np.ndarray, "draws cases"]:
    """How often each case is drawn in each bootstrap sample.

    Args:
        num_cases: cases.
        num_draws: bootstrap samples.
        patients: the patient of each case; all cases of a patient are drawn together. None draws
            cases.
        seed: of the random generator.

    Raises:
        InputError: if ``patients`` does not name one for each case.
    """
    if patients is not None and len(patients) != num_cases:
        raise InputError(f"expected a patient for each of {num_cases} cases, got {len(patients)}")
    units, unit_of_case = np.unique(
        np.arange(num_cases) if patients is None else np.asarray(patients), return_inverse=True
    )
    generator = np.random.default_rng(seed)
    shares = np.full(len(units), 1 / max(len(units), 1))
    return generator.multinomial(len(units), shares, size=num_draws)[:, unit_of_case]


def failure_detection_draws(
    risks: Float[np.ndarray, "cases"],
    confidences: Float[np.ndarray, "cases"],
    counts: Int[np.ndarray, "draws cases"],
) -> dict[str, Float[np.ndarray, "draws"]]:
    """Failure-detection figures of every bootstrap sample, all samples at once.

    Args:
        risks: risk of each case, higher is worse.
        confidences: confidence of each case, higher is better.
        counts: how often each case is drawn.

    Returns:
        ``aurc``, ``excess_aurc``, ``augrc``, and ``spearman_risk`` (of the confidence with the
        risk).
    """
    by_score = _groups(risks, -confidences, counts)
    aurc = grouped_aurc(*by_score)
    return {
        "aurc": aurc,
        "excess_aurc": aurc - grouped_aurc(*_groups(risks, risks, counts)),
        "augrc": grouped_augrc(*by_score),
        "spearman_risk": _spearman(confidences, risks, counts),
    }


def percentile_interval(draws: Float[np.ndarray, "draws"], *, level: float = 0.95) -> Interval:
    """The interval that holds the middle ``level`` of the draws that gave a value."""
    defined = draws[np.isfinite(draws)]
    if len(defined) < 2:
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def paired_difference(
    value_a: float,
    value_b: float,
    *,
    draws_a: Float[np.ndarray, "draws"],
    draws_b: Float[np.ndarray, "draws"],
) -> PairedDifference:
    """Compare one figure of two methods on the same draws.

    p = 2 min(1 + #(d <= 0), 1 + #(d >= 0)) / (draws + 1), at most 1.

    Args:
        value_a: the figure of method A on the cases as they are.
        value_b: of method B.
        draws_a: the figure of method A in each bootstrap sample.
        draws_b: of method B in the same samples.
    """
    differences = draws_a - draws_b
    defined = differences[np.isfinite(differences)]
    p_value = float("nan")
    if len(defined) >= 2:
        tail = min(np.count_nonzero(defined <= 0), np.count_nonzero(defined >= 0))
        p_value = min(1.0, 2 * (1 + tail) / (len(defined) + 1))
    return PairedDifference(value_a - value_b, percentile_interval(differences), p_value)


def _groups(
    risks: np.ndarray, keys: np.ndarray, counts: np.ndarray
) -> tuple[Float[np.ndarray, "draws groups"], Float[np.ndarray, "draws groups"]]:
    """Summed risk and number of drawn cases of each distinct key, smallest key first."""
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], np.diff(keys[order]) != 0]))
    drawn = counts[:, order].astype(float)
    sums = np.add.reduceat(drawn * risks[order], starts, axis=1)
    return sums, np.add.reduceat(drawn, starts, axis=1)


def _spearman(one: np.ndarray, other: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Spearman's correlation of each sample: the Pearson correlation of mean ranks."""
    ranks = [_mean_ranks(values, counts) for values in (one, other)]
    centred = [
        rank - (counts * rank).sum(axis=1, keepdims=True) / counts.sum(axis=1)[:, None]
        for rank in ranks
    ]
    covariance = (counts * centred[0] * centred[1]).sum(axis=1)
    variances = [(counts * rank**2).sum(axis=1) for rank in centred]
    product = variances[0] * variances[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(product > 1e-9, covariance / np.sqrt(product), np.nan))


def _mean_ranks(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    _, group = np.unique(values, return_inverse=True)
    ones = np.ones(len(values))
    _, sizes = _groups(ones, values, counts)
    return np.asarray((np.cumsum(sizes, axis=1) - (sizes - 1) / 2)[:, group])
