"""Correlation of a score with what it should foretell.

Conventions:
    Pairs with an undefined side are left out. Fewer than three pairs, or a side that is constant:
    NaN.

References:
    SciPy (`spearmanr`, `pearsonr`).
"""

import numpy as np
from jaxtyping import Float
from scipy import stats

MIN_CASES = 3


def spearman(scores: Float[np.ndarray, "cases"], targets: Float[np.ndarray, "cases"]) -> float:
    """Spearman's rank correlation, ties at their mean rank."""
    pairs = _usable(scores, targets)
    return float("nan") if pairs is None else float(stats.spearmanr(*pairs).statistic)


def pearson(scores: Float[np.ndarray, "cases"], targets: Float[np.ndarray, "cases"]) -> float:
    """Pearson's linear correlation."""
    pairs = _usable(scores, targets)
    if pairs is None:
        return float("nan")
    if any(_varies_by_rounding_alone(values) for values in pairs):
        return float("nan")
    return float(stats.pearsonr(*pairs).statistic)


def is_constant(values: Float[np.ndarray, "cases"]) -> bool:
    """Whether all defined values are one and the same."""
    values = values[np.isfinite(values)]
    return len(values) > 0 and bool(np.ptp(values) == 0)


def _usable(scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    both = np.isfinite(scores) & np.isfinite(targets)
    scores, targets = scores[both], targets[both]
    if len(scores) < MIN_CASES or np.ptp(scores) == 0 or np.ptp(targets) == 0:
        return None
    return scores, targets


def _varies_by_rounding_alone(values: np.ndarray) -> bool:
    return bool(np.ptp(values) < 1e-12 * np.abs(values).max())
