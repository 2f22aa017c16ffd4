"""Patients as the unit of what is learnt: whole in folds, equal in weight.

Conventions:
    A group is a patient, numbered; without patients every case is a group of its own. A gain is a
    difference of two choices on the same unit, positive where the new one is better.

References:
    Breiman et al. 1984 (the rule of one standard error).
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import sem

from nnunetv2_le.errors import InputError


def group_folds(
    groups: Int[np.ndarray, "cases"], num_folds: int, *, seed: int = 0
) -> Iterator[tuple[Int[np.ndarray, "training"], Int[np.ndarray, "held_out"]]]:
    """Folds of whole patients: each patient is held out once.

    Args:
        groups: the number of each case's patient.
        num_folds: folds, fewer where there are fewer patients.
        seed: of the draw.

    Raises:
        InputError: fewer than two patients.
    """
    patients = np.unique(groups)
    if len(patients) < 2:
        raise InputError(
            f"expected at least 2 labelled patients for cross-validation, got {len(patients)}"
        )
    drawn = np.random.default_rng(seed).permutation(patients)
    for fold in np.array_split(drawn, min(num_folds, len(patients))):
        is_held_out = np.isin(groups, fold)
        yield np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)


def group_weights(groups: Int[np.ndarray, "cases"]) -> Float[np.ndarray, "cases"]:
    """Weight of each case: one over the cases of its group and over all groups; they sum to 1."""
    _, numbers, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    return np.asarray(1.0 / (sizes[numbers] * len(sizes)))


def group_means(
    values: Float[np.ndarray, "cases"], groups: Int[np.ndarray, "cases"]
) -> Float[np.ndarray, "groups"]:
    """Mean of each group, groups in the order of their numbers; numbers may be missing."""
    sizes = np.bincount(groups)
    return np.asarray(np.bincount(groups, weights=values)[sizes > 0] / sizes[sizes > 0])


def is_clear(gains: Float[np.ndarray, "units"], num_errors: float) -> bool:
    """Whether the mean gain exceeds so many of its standard errors; never with a single gain."""
    return len(gains) > 1 and bool(gains.mean() > num_errors * sem(gains))
