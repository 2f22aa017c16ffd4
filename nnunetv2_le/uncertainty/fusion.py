"""How members become one prediction: mean, majority vote, last member alone, or STAPLE.

Every rule gives logits, the probability that they stand for, and the decision at each voxel; the
decision is the one that the logits make (highest class, regions above 0) before they are rounded
to half precision for storing; a voxel halfway between two classes can be a tie after that.

References:
    Warfield, Zou and Wells, "Simultaneous truth and performance level estimation (STAPLE)", IEEE
    TMI 2004.
"""

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from nnunetv2_le.types import Fusion
from nnunetv2_le.uncertainty.decisions import decide
from nnunetv2_le.uncertainty.probabilities import mean_over, probabilities

# A vote has shares of 0 and 1, whose logarithms are infinite; 1e-4 is far below one vote and far
# above float16's smallest.
_MIN_SHARE = 1e-4
# Added to the winner of a tied vote: visible in float16 logits, far below one vote of 500 members.
_TIE_SHARE = 1e-3


WHOLE_VOLUME_RULES = ("staple", "lowest_uncertainty")
"""Rules that need every voxel of the members before they can say anything."""


@dataclass(frozen=True)
class FusedVoxels:
    """The fused prediction of some voxels.

    Attributes:
        logits: ``channels voxels``.
        probability: what the logits stand for, ``channels voxels``.
        decisions: ``voxels`` label numbers, or ``regions voxels`` masks.
    """

    logits: Float[Tensor, "channels voxels"]
    probability: Float[Tensor, "channels voxels"]
    decisions: Integer[Tensor, "voxels"] | Bool[Tensor, "channels voxels"]


def fuse(
    logits: Float[Tensor, "members channels voxels"],
    probability: Float[Tensor, "members channels voxels"],
    *,
    rule: Fusion,
    has_regions: bool,
) -> FusedVoxels:
    """Fuse members voxel by voxel.

    One member, or rule ``last``, keeps its logits bit for bit: it has to equal nnU-Net.

    Args:
        logits: logits of the members that are fused.
        probability: their probabilities.
        rule: ``mean``, ``majority``, ``last`` or ``nnunet`` (mean of logits, as nnU-Net averages
            folds); ``staple`` and ``lowest_uncertainty`` look at whole volumes, see
            :func:`staple_logits` and ``selection``.
        has_regions: whether channels are overlapping regions.

    Raises:
        ValueError: the rule does not work voxel by voxel.
    """
    if rule in WHOLE_VOLUME_RULES:
        raise ValueError(f"expected a voxelwise rule (mean, majority, last, nnunet), got {rule!r}")
    if rule == "majority" and len(logits) > 1:
        return _majority(logits, probability, has_regions)
    if rule == "nnunet" and len(logits) > 1:
        logits = mean_over(logits, 0).unsqueeze(0)
        probability = probabilities(logits, has_regions=has_regions)
    if rule in ("last", "nnunet") or len(logits) == 1:
        decisions = decide(logits[-1:], has_regions=has_regions)[0]
        return FusedVoxels(logits[-1], probability[-1], decisions)
    return _mean(logits, probability, has_regions)


def _mean(logits: Tensor, probability: Tensor, has_regions: bool) -> FusedVoxels:
    """``ln mean p``; regions ``ln mean p - ln mean (1 - p)``, 1 - p being the sigmoid of -z."""
    mean = mean_over(probability, 0)
    fused = _log(mean)
    if has_regions:
        fused -= _log(mean_over(probabilities(-logits, has_regions=True), 0))
    return FusedVoxels(fused, mean, decide(fused[None], has_regions=has_regions)[0])


def _majority(logits: Tensor, probability: Tensor, has_regions: bool) -> FusedVoxels:
    """Share of votes; a tie goes to the class (or side) of the higher mean probability."""
    votes = decide(logits, has_regions=has_regions)
    mean = mean_over(probability, 0)
    if has_regions:
        share = mean_over(votes.float(), 0)
        nudge = torch.where(mean > 0.5, _TIE_SHARE, -_TIE_SHARE)
        kept = (share + (share == 0.5) * nudge).clamp_(_MIN_SHARE, 1 - _MIN_SHARE)
        fused = torch.log(kept) - torch.log1p(-kept)
    else:
        classes = torch.arange(logits.shape[1], dtype=votes.dtype, device=votes.device)
        share = mean_over((votes[:, None] == classes[:, None]).float(), 0)
        is_first = share == share.amax(0)
        winner = decide(torch.where(is_first, mean, -1.0)[None], has_regions=False)[0]
        is_tied = is_first.sum(0) > 1
        nudge = _TIE_SHARE * (is_tied & (winner == classes[:, None]))
        fused = torch.log((share + nudge).clamp_min_(_MIN_SHARE))
    return FusedVoxels(fused, share, decide(fused[None], has_regions=has_regions)[0])


def staple_logits(
    masks: Bool[np.ndarray, "members *space"],
) -> Float[np.ndarray, "*space"]:
    """Logits of the STAPLE estimate of one label over the whole volume.

    A region's logit is that of its STAPLE probability. Classes get the same logits against a
    background of 0, so that a voxel belongs to the label with the highest probability above 1/2, or
    to the background. Where no member has a label (or one member is fused alone) there is nothing
    to estimate, and the mask is taken as it is.

    Args:
        masks: one mask a member.

    Returns:
        Logits of probabilities between 1e-4 and 1 - 1e-4.
    """
    probability = np.clip(_staple(masks), _MIN_SHARE, 1 - _MIN_SHARE)
    logits: np.ndarray = np.log(probability)
    logits -= np.log1p(-probability)
    return logits


def _staple(masks: Bool[np.ndarray, "members *space"]) -> Float[np.ndarray, "*space"]:
    if len(masks) == 1 or bool((masks == masks[0]).all()):
        return np.asarray(masks[0], dtype=np.float64)
    images = [sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in masks]
    return np.asarray(sitk.GetArrayFromImage(sitk.STAPLE(images, 1.0)))


def _log(probability: Tensor) -> Tensor:
    """Natural logarithm; probabilities below float32's smallest (1.2e-38) count as that."""
    return probability.clamp_min(torch.finfo(probability.dtype).tiny).log_()
