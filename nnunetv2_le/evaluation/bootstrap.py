"""How far would a figure move with other cases? Bootstrap intervals and paired comparisons.

Conventions:
    Cases, or whole patients where a column names them, are drawn with replacement; a draw is how
    often each case was drawn. Two methods are compared on the same draws of the same cases. A
    single case or patient, which says nothing of others, gives no draw.

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
_BLOCK_DRAWS = 50  # temporaries of 1,000 cases stay in the cache: less than half the time


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

    Returns:
        One row a draw; none where there is only one case or patient to draw.

    Raises:
        InputError: if ``patients`` does not name one for each case.
    """
    if patients is not None and len(patients) != num_cases:
        raise InputError(f"expected a patient for each of {num_cases} cases, got {len(patients)}")
    units, unit_of_case = np.unique(
        np.arange(num_cases) if patients is None else np.asarray(patients), return_inverse=True
    )
    if len(units) < 2:
        return np.empty((0, num_cases), dtype=np.int64)
    generator = np.random.default_rng(seed)
    shares = np.full(len(units), 1 / len(units))
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
        ``aurc``, ``excess_aurc`` and ``augrc`` of each sample.
    """
    aurc, augrc = _areas(risks, -confidences, counts)
    best, _ = _areas(risks, risks, counts)
    return {"aurc": aurc, "excess_aurc": aurc - best, "augrc": augrc}


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


def _areas(
    risks: np.ndarray, keys: np.ndarray, counts: np.ndarray
) -> tuple[Float[np.ndarray, "draws"], Float[np.ndarray, "draws"]]:
    """AURC and AUGRC of each sample, cases in the order of ``keys``."""
    num_cases = len(risks)
    has_ties = keys is not risks and len(np.unique(keys)) < num_cases
    if num_cases < 2 or has_ties or (counts.sum(axis=1) != num_cases).any():
        groups = _groups(risks, keys, counts)
        return grouped_aurc(*groups), grouped_augrc(*groups)
    # Without ties (cases of one risk need no order among them) a sample is a sorted list of as many
    # risks as there are cases, and both areas are fixed weighted sums of that list. A case that was
    # drawn often fills a stretch of the list: its weights are a difference of their prefix sums,
    # and summed by parts each area is one look-up and one product.
    order = np.argsort(keys, kind="stable")
    drops = -np.diff(risks[order], append=0.0)
    steps = np.full(num_cases, 1 / num_cases)
    steps[-1] /= 2  # the trapezoid's ends
    generalized = np.cumsum(steps[::-1])[::-1] / num_cases
    steps[0] /= 2
    selective = np.cumsum((steps / np.arange(1, num_cases + 1))[::-1])[::-1]
    prefixes = [np.concatenate([[0.0], np.cumsum(weights)]) for weights in (selective, generalized)]
    areas = np.empty((2, len(counts)))
    for start in range(0, len(counts), _BLOCK_DRAWS):
        block = slice(start, start + _BLOCK_DRAWS)
        ends = np.cumsum(counts[block][:, order], axis=1)
        for area, prefix in zip(areas, prefixes, strict=True):
            area[block] = prefix[ends] @ drops
    return areas[0], areas[1]


def _groups(
    risks: np.ndarray, keys: np.ndarray, counts: np.ndarray
) -> tuple[Float[np.ndarray, "draws groups"], Float[np.ndarray, "draws groups"]]:
    """Summed risk and number of drawn cases of each distinct key, smallest key first."""
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], np.diff(keys[order]) != 0]))
    drawn = counts[:, order].astype(float)
    sums = np.add.reduceat(drawn * risks[order], starts, axis=1)
    return sums, np.add.reduceat(drawn, starts, axis=1)
