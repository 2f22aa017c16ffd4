"""Quantiles and thresholds that hold for a new case, whatever the distribution.

Conventions:
    Cases of a group (a patient) count together as much as one case: a case of a group of N has
    weight 1/N. ``alpha`` is the share of new cases for which a statement may fail, over the draw of
    the labelled groups and of the new one.

Metrics:
    conformal_quantile: the smallest q with sum_i 1[v_i <= q] / (N_i (K + 1)) >= 1 - alpha, K the
        number of groups.
    controlled_threshold: the first of a list of thresholds, mildest first, for which
        (K R + 1) / (K + 1) <= alpha holds and goes on to hold, R the mean loss over groups.

Assumption:
    Exchangeability of groups: the new patient could as well have been one of the labelled ones.
    Where images come from another scanner or population nothing is guaranteed.

References:
    Vovk, Gammerman and Shafer 2005 (conformal prediction). Lee, Barber and Willett 2023,
    arXiv:2306.06342 (groups: hierarchical conformal prediction). Angelopoulos, Bates, Fisch, Lei
    and Schuster 2022, arXiv:2208.02814, eq. 4 (conformal risk control, B = 1).
"""

import math

import numpy as np
from jaxtyping import Float, Int

from nnunetv2_le.calibration.groups import group_weights
from nnunetv2_le.errors import InputError, SettingError

ROUNDING = 1e-9  # shares such as 9/10 against 1 - 0.1; no share may be as small


def cases_needed(alpha: float) -> int:
    """Groups without which no statement can hold at ``alpha``: 1 / (K + 1) <= alpha."""
    return math.ceil(1 / alpha - 1 - ROUNDING)


def is_share(alpha: float) -> bool:
    """Whether a share lies between 0 and 1, and not closer to them than rounding errors do."""
    return ROUNDING < alpha < 1 - ROUNDING


def require_enough(num_groups: int, alpha: float, *, purpose: str) -> None:
    """Refuse a level that so few groups cannot support.

    Args:
        num_groups: labelled patients (or cases).
        alpha: share of new cases for which the statement may fail.
        purpose: what is being fitted, for the message.

    Raises:
        SettingError: ``alpha`` is not between 0 and 1.
        InputError: more cases are needed.
    """
    if not is_share(alpha):
        raise SettingError(
            f"expected alpha between 0 and 1 for {purpose}, got {alpha!r}; name one that is "
            f"further than {ROUNDING:g} from either"
        )
    needed = cases_needed(alpha)
    if num_groups < needed:
        raise InputError(
            f"{purpose} at alpha {alpha:g} needs at least {needed} labelled cases (patients), got "
            f"{num_groups}; label more cases or accept an alpha of at least "
            f"{rounded_up(1 / (num_groups + 1), 4):g}"
        )


def rounded_up(alpha: float, digits: int) -> float:
    """An alpha with few digits at which what holds at this one still does."""
    scale = 10.0**digits
    return math.ceil(alpha * scale - ROUNDING) / scale


def conformal_quantile(
    values: Float[np.ndarray, "cases"],
    alpha: float,
    *,
    groups: Int[np.ndarray, "cases"],
    purpose: str = "a conformal quantile",
) -> float:
    """The value that a new case exceeds with probability at most ``alpha``.

    Without groups it is the ceil((n + 1)(1 - alpha))-th smallest value.

    Args:
        values: one value a case; infinity is allowed and means that no quantile covers the case.
        alpha: share of new cases that may exceed it.
        groups: the number of each case's group.
        purpose: what is being fitted, for messages.

    Raises:
        SettingError: ``alpha`` is not between 0 and 1.
        InputError: too few groups for ``alpha``.
    """
    num_groups = len(np.unique(groups))
    require_enough(num_groups, alpha, purpose=purpose)
    order = np.argsort(values, kind="stable")
    covered = np.cumsum(group_weights(groups)[order]) * num_groups / (num_groups + 1)
    first = int(np.searchsorted(covered, 1 - alpha - ROUNDING))
    return float(values[order[first]])


def controlled_threshold(
    losses: Float[np.ndarray, "cases thresholds"],
    alpha: float,
    *,
    groups: Int[np.ndarray, "cases"],
    purpose: str = "a threshold",
) -> int:
    """The mildest threshold at which the expected loss of a new case is at most ``alpha``.

    Args:
        losses: between 0 and 1, for each case never rising along the thresholds; 0 at the last.
        alpha: expected loss that is accepted.
        groups: the number of each case's group.
        purpose: what is being fitted, for messages.

    Returns:
        Its number.

    Raises:
        SettingError: ``alpha`` is not between 0 and 1.
        InputError: too few groups for ``alpha``.
    """
    num_groups = len(np.unique(groups))
    require_enough(num_groups, alpha, purpose=purpose)
    bounds = risk_bounds(losses, groups)
    return int(np.argmax(bounds <= alpha + ROUNDING))


def risk_bounds(
    losses: Float[np.ndarray, "cases thresholds"], groups: Int[np.ndarray, "cases"]
) -> Float[np.ndarray, "thresholds"]:
    """(K R + 1) / (K + 1) of each threshold, R the mean loss over K groups."""
    num_groups = len(np.unique(groups))
    return np.asarray((num_groups * (group_weights(groups) @ losses) + 1) / (num_groups + 1))
