"""How many of the first heads to leave out of AULA and of the fused segmentation.

Conventions:
    Heads run from shallow to deep; skipping s heads leaves the heads s, s + 1, ... A choice is made
    by the mean over folds of held-out cases (folds of whole patients). AULA leaves out more heads
    only where that gains more than one standard error over folds; the segmentation is changed from
    the default only where the best of all skips gains more than two standard errors over patients.

Metrics:
    AULA: Spearman's correlation with Dice (higher is better), or AURC with risk 1 - Dice (lower is
    better). Fused segmentation: mean Dice.

References:
    Kushibar et al. 2022, arXiv:2203.08878 (skipping shallow heads). Breiman et al. 1984 (the rule
    of one standard error).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import sem

from nnunetv2_le.calibration.groups import group_folds, group_means, group_weights, is_clear
from nnunetv2_le.errors import InputError
from nnunetv2_le.evaluation.correlation import spearman
from nnunetv2_le.evaluation.failure_detection import aurc
from nnunetv2_le.uncertainty.agreement import aula_normalized

Criterion = Literal["spearman", "aurc"]
NUM_FOLDS = 5
_CLEAR = 2.0  # standard errors; one case alone can make one, and the best of many is chosen
MIN_CASES = 15  # three a fold: fewer have no rank correlation


@dataclass(frozen=True)
class HeadSkip:
    """The choice, and the figures that led to it.

    Attributes:
        heads: names of the heads, shallow to deep.
        score_skip: first heads that AULA leaves out.
        fused_skip: first heads that the fused segmentation leaves out.
        default_fused_skip: the same without a calibration.
        criterion: by which ``score_skip`` was chosen.
        criterion_values: of each skip 0, 1, ..., mean over held-out folds; None where undefined.
        fused_dice: mean Dice of each fused skip 0, 1, ...
        num_cases: labelled cases.
    """

    heads: tuple[str, ...]
    score_skip: int
    fused_skip: int
    default_fused_skip: int
    criterion: Criterion
    criterion_values: tuple[float | None, ...]
    fused_dice: tuple[float, ...]
    num_cases: int


def fit_head_skip(
    heads: tuple[str, ...],
    *,
    agreements: Float[np.ndarray, "cases labels agreements"],
    dice: Float[np.ndarray, "cases"],
    fused_dice: Float[np.ndarray, "cases skips"],
    default_fused_skip: int,
    groups: Int[np.ndarray, "cases"],
    criterion: Criterion = "spearman",
) -> HeadSkip:
    """Choose both skips.

    Args:
        heads: names, shallow to deep.
        agreements: Dice of each head with the next for each label, as `layer_agreement` gives with
            nothing skipped; NaN rows (empty predictions) are left out.
        dice: mean Dice of the segmentation that AULA has to foretell.
        fused_dice: mean Dice of the heads ``s`` and deeper fused, s = 0, 1, ..., heads - 1.
        default_fused_skip: what is skipped without a calibration.
        groups: the number of each case's patient.
        criterion: how AULA is judged.

    Raises:
        InputError: shapes that do not fit together, or too few cases.
    """
    number, counts = len(heads), np.isfinite(dice) & np.isfinite(agreements).all(axis=(1, 2))
    if agreements.shape[-1] != number - 1 or fused_dice.shape[1] != number:
        raise InputError(
            f"expected {number - 1} agreements and {number} fused skips of {number} heads, got "
            f"{agreements.shape[-1]} and {fused_dice.shape[1]}"
        )
    if np.count_nonzero(counts) < MIN_CASES:
        raise InputError(
            f"the choice of heads needs at least {MIN_CASES} labelled cases with a segmentation, "
            f"got {np.count_nonzero(counts)}; label more cases"
        )
    values = _criterion_values(
        agreements[counts], dice[counts], groups=groups[counts], criterion=criterion
    )
    is_known = np.isfinite(fused_dice).all(axis=1)
    means = group_weights(groups[is_known]) @ fused_dice[is_known]
    return HeadSkip(
        heads=heads,
        score_skip=_first_within_one_error(values),
        fused_skip=_fused_skip(fused_dice[is_known], means, default_fused_skip, groups[is_known]),
        default_fused_skip=default_fused_skip,
        criterion=criterion,
        criterion_values=_said(values, criterion, num_skips=number - 1),
        fused_dice=tuple(map(float, means)),
        num_cases=int(np.count_nonzero(counts)),
    )


def _criterion_values(
    agreements: np.ndarray, dice: np.ndarray, *, groups: np.ndarray, criterion: Criterion
) -> Float[np.ndarray, "folds skips"]:
    """How well AULA after each skip ranks each held-out fold; higher is better."""
    skips = range(agreements.shape[-1])
    scores = [aula_normalized(agreements[..., skip:]).mean(axis=1) for skip in skips]
    rows = []
    for _, held_out in group_folds(groups, NUM_FOLDS):
        judged = [(score[held_out], dice[held_out]) for score in scores]
        if criterion == "spearman":
            rows.append([spearman(score, truth) for score, truth in judged])
        else:
            rows.append([-aurc(1 - truth, score) for score, truth in judged])
    defined = [row for row in rows if np.isfinite(row).all()]  # a fold may hold one Dice alone
    return np.array(defined).reshape(-1, len(skips))


def _said(values: np.ndarray, criterion: Criterion, *, num_skips: int) -> tuple[float | None, ...]:
    """The criterion of each skip in its own direction."""
    if not len(values):
        return (None,) * num_skips
    return tuple((values.mean(axis=0) * (1 if criterion == "spearman" else -1)).tolist())


def _first_within_one_error(values: Float[np.ndarray, "folds skips"]) -> int:
    """The fewest skipped heads that are no more than one standard error below the best."""
    if len(values) < 2:
        return 0
    gaps = values[:, [int(np.argmax(values.mean(axis=0)))]] - values
    return int(np.argmax(gaps.mean(axis=0) <= sem(gaps, axis=0)))


def _fused_skip(fused_dice: np.ndarray, means: np.ndarray, default: int, groups: np.ndarray) -> int:
    """The best skip if it beats the default by more than two standard errors over patients."""
    best = int(np.argmax(means))
    gains = group_means(fused_dice[:, best] - fused_dice[:, default], groups)
    return best if is_clear(gains, _CLEAR) else default
