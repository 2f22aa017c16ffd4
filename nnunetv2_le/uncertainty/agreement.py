"""Agreement of members, from overlap counts: every score is exact, no voxel is looked at again.

Conventions:
    One value a foreground label (or region), in the order of the counts. All scores are agreements:
    higher is better. Dice of two empty masks is 1, of an empty and a non-empty one 0. Members are
    numbered as in the plan. Undefined is NaN.

Metrics:
    Dice(A, B) = 2 |A and B| / (|A| + |B|). Layer agreement a_k = Dice of heads k and k + 1 (shallow
    to deep). AULA = integral of a_1..a_n by the trapezoid rule with spacing 1 (0 to n - 1);
    ``aula_normalized`` = AULA / (n - 1) (0 to 1). Pairwise Dice = mean over all pairs of members;
    consensus Dice = mean over members of their Dice with the fused segmentation.

References:
    Kushibar et al., "Layer Ensembles", MICCAI 2022, arXiv:2203.08878, section 2.3 (AULA). Roy et
    al., "Bayesian QuickNAT", NeuroImage 2019 (pairwise Dice of samples).

Deviations:
    The code published with the paper gives two empty masks Dice 0 and thresholds probabilities at
    0; here masks are decisions. With one agreement the integral runs over no length: its value
    would be 0, the worst there is, whatever the agreement, so AULA is NaN; its mean height is that
    agreement.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.integrate import trapezoid

from nnunetv2_le.errors import SettingError
from nnunetv2_le.types import OverlapCounts


def dice_matrix(
    counts: OverlapCounts, members: Sequence[int]
) -> Float[np.ndarray, "labels members members"]:
    """Dice between every two of the given members, for each label; 1 on the diagonal."""
    chosen = list(members)
    pairs = counts.pairs[:, chosen][:, :, chosen]
    sizes = np.diagonal(pairs, axis1=1, axis2=2)
    return _dice(pairs, sizes[:, :, None] + sizes[:, None, :])


def layer_agreement(
    counts: OverlapCounts, heads: Sequence[int], skip_heads: int = 0
) -> Float[np.ndarray, "labels agreements"]:
    """Dice of each head and the next, shallow to deep.

    Args:
        counts: overlaps of members.
        heads: numbers of the heads, shallow to deep.
        skip_heads: how many of the shallowest heads are left out.

    Returns:
        One agreement less than heads that are left.

    Raises:
        SettingError: fewer than two heads are left, or ``skip_heads`` is negative.
    """
    if skip_heads < 0 or len(heads) - skip_heads < 2:
        raise SettingError(
            f"expected to skip 0 to {max(0, len(heads) - 2)} of {len(heads)} heads, "
            f"got skip_heads={skip_heads!r}; layer agreement needs two heads that are left"
        )
    left = list(heads)[skip_heads:]
    sizes = _sizes(counts)[:, left]
    return _dice(counts.pairs[:, left[:-1], left[1:]], sizes[:, :-1] + sizes[:, 1:])


def aula(curve: Float[np.ndarray, "*labels agreements"]) -> Float[np.ndarray, "*labels"]:
    """Area under the layer-agreement curve, trapezoid rule with spacing 1.

    Args:
        curve: layer agreements along the last axis.

    Returns:
        From 0 to agreements - 1, comparable between cases of one model; NaN with fewer than two
        agreements.
    """
    if curve.shape[-1] < 2:
        return np.full(curve.shape[:-1], np.nan)
    return np.asarray(trapezoid(curve, axis=-1))


def aula_normalized(
    curve: Float[np.ndarray, "*labels agreements"],
) -> Float[np.ndarray, "*labels"]:
    """Mean height of the layer-agreement curve, comparable between architectures.

    AULA / (agreements - 1).

    Args:
        curve: layer agreements along the last axis.

    Returns:
        From 0 to 1; with one agreement that agreement, with none NaN.
    """
    agreements = curve.shape[-1]
    if agreements == 1:
        return np.array(curve[..., 0])
    return np.asarray(aula(curve) / max(1, agreements - 1))


def pairwise_dice(counts: OverlapCounts, members: Sequence[int]) -> Float[np.ndarray, "labels"]:
    """Mean Dice over all pairs of the given members; NaN with fewer than two members."""
    rows, columns = np.triu_indices(len(members), k=1)
    if not len(rows):
        return np.full(len(counts.fused), np.nan)
    return np.asarray(dice_matrix(counts, members)[:, rows, columns].mean(axis=1))


def consensus_dice(counts: OverlapCounts, members: Sequence[int]) -> Float[np.ndarray, "labels"]:
    """Mean Dice of the given members with the fused segmentation; NaN without members."""
    chosen = list(members)
    if not chosen:
        return np.full(len(counts.fused), np.nan)
    totals = _sizes(counts)[:, chosen] + counts.fused[:, None]
    return np.asarray(_dice(counts.with_fused[:, chosen], totals).mean(axis=1))


def _sizes(counts: OverlapCounts) -> Int[np.ndarray, "labels members"]:
    return np.asarray(np.diagonal(counts.pairs, axis1=1, axis2=2))


def _dice(
    overlaps: Int[np.ndarray, "*shape"], totals: Int[np.ndarray, "*shape"]
) -> Float[np.ndarray, "*shape"]:
    """``2 overlap / total``, and 1 where both masks are empty."""
    dice = np.ones(overlaps.shape)
    np.divide(2.0 * overlaps, totals, out=dice, where=totals > 0)
    return dice
