"""The member with the lowest uncertainty is the prediction of the case.

Conventions:
    A member's uncertainty is the entropy of its own probabilities, aggregated over the boundary of
    its own segmentation: ``boundary_ratio`` = 100 x sum over all voxels / number of voxels just
    outside the foreground. A member without a boundary (nothing segmented, or everything) has none,
    and is taken only if no member has one; of several equals the first is taken.

References:
    Katz and Mendelson, UnnUNet, 2023, https://github.com/KanielDatz/UnnUNet (which chooses among
    the folds).

Deviations:
    A fold of several checkpoints is the mean of their logits, as nnU-Net averages; UnnUNet scores
    the mean of their probabilities.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nnunetv2_le.types import Choice, Family
from nnunetv2_le.uncertainty.aggregation import MaskRegions, boundary_ratio
from nnunetv2_le.uncertainty.decisions import decide
from nnunetv2_le.uncertainty.probabilities import probabilities
from nnunetv2_le.uncertainty.voxel_maps import entropy_nats

_PIECE_ELEMENTS = 2**22


def choose_member(family: Family, ratios: Sequence[float]) -> Choice:
    """The member with the lowest ratio; NaN comes last.

    Args:
        family: the members to choose from.
        ratios: the boundary ratio of each member's entropy.
    """
    ranked = [math.inf if math.isnan(ratio) else ratio for ratio in ratios]
    lowest = ranked.index(min(ranked))
    return Choice(
        family=family.name,
        member=family.members[lowest],
        number=lowest,
        entropy_boundary_ratio=dict(zip(family.members, ratios, strict=True)),
    )


def entropy_boundary_ratio(
    logits: Float[Tensor, "channels voxels"], shape: tuple[int, int, int], *, has_regions: bool
) -> float:
    """Boundary ratio of the entropy of one member, over the foreground that it segments.

    Args:
        logits: its logits at every voxel of the grid.
        shape: the grid.
        has_regions: whether channels are overlapping regions.

    Returns:
        100 x nats; NaN without a boundary.
    """
    entropy = torch.empty(logits.shape[1])
    foreground = torch.empty(logits.shape[1], dtype=torch.bool)
    step = max(1, _PIECE_ELEMENTS // len(logits))
    for first in range(0, logits.shape[1], step):
        where = slice(first, first + step)
        piece = logits[None, :, where].float()
        entropy[where] = entropy_nats(
            probabilities(piece, has_regions=has_regions)[0], has_regions=has_regions
        )
        decided = decide(piece, has_regions=has_regions)[0]
        foreground[where] = decided.any(dim=0) if has_regions else decided > 0
    mask: np.ndarray = foreground.view(shape).numpy()
    return boundary_ratio(entropy.view(shape).numpy(), MaskRegions(mask))
