"""The Dice that a prediction expects of itself, from its probabilities alone.

Conventions:
    One value a foreground label (or region): the label's probability p at every voxel of the
    network's grid, against the fused mask S of that label. Sums are taken of probabilities in whole
    steps of 2**-24, so that they do not depend on the order of voxels.

Metrics:
    soft Dice = 2 sum_{v in S} p(v) / (sum_v p(v) + |S|)

    Empty S: undefined, because an absent label is not a bad one.

References:
    Borges, Bianchi, de Carvalho et al. 2024, "Soft Dice Confidence: A near-optimal confidence
    estimator for selective prediction in semantic segmentation", arXiv:2402.10665 (their SDC is
    this figure for the network's own probability).

Deviations:
    Computed for the fused probability and for the mean probability of each family as well, always
    against the fused mask: a family whose members disagree expects less.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

_STEPS = 2**24  # float32 has 24 bits: nothing of a probability is lost above 2**-24


def soft_sums(
    probability: Float[Tensor, "channels voxels"],
    decisions: Integer[Tensor, "voxels"] | Bool[Tensor, "channels voxels"],
    *,
    has_regions: bool,
) -> Int[Tensor, "labels two"]:
    """What soft Dice needs of some voxels; sums over all voxels add up.

    Args:
        probability: of each class or region.
        decisions: the fused segmentation.
        has_regions: whether channels are overlapping regions.

    Returns:
        For each foreground label the probability in the fused mask and over all voxels, in steps of
        2**-24.
    """
    steps = (probability * _STEPS).round_().to(torch.int32)
    if has_regions:
        inside = torch.where(decisions, steps, 0).sum(1, dtype=torch.int64)
        return torch.stack((inside, steps.sum(1, dtype=torch.int64)), dim=1)
    index = decisions.long()
    decided = steps.gather(0, index[None])[0].long()
    inside = torch.zeros(len(steps), dtype=torch.int64, device=steps.device)
    inside.index_add_(0, index, decided)
    everywhere = steps.sum(1, dtype=torch.int64)
    return torch.stack((inside, everywhere), dim=1)[1:]


def soft_dice(
    sums: Int[np.ndarray, "labels two"], fused: Int[np.ndarray, "labels"]
) -> Float[np.ndarray, "labels"]:
    """Soft Dice of each label; NaN where the fused mask is empty.

    Args:
        sums: of ``soft_sums`` over all voxels.
        fused: voxels of the fused mask.
    """
    inside, everywhere = (sums / _STEPS).T
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(fused > 0, 2 * inside / (everywhere + fused), np.nan))
