"""Probabilities of members, and sums that do not depend on how a volume was cut into pieces.

Conventions:
    Axis 0 of a stack of members counts members, axis 1 channels, the rest is space. Channels are
    classes with the background first (a softmax) or overlapping regions (a sigmoid each).

Torch's own reductions and its softmax round differently at the end of a memory block than inside
it, so that the last bit of a voxel's value would depend on where a slab ends. Everything here is
made of elementwise operations, which do not.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def probabilities(
    logits: Float[Tensor, "members channels *space"], *, has_regions: bool
) -> Float[Tensor, "members channels *space"]:
    """Softmax over channels; for regions the sigmoid of each.

    Args:
        logits: logits of members, float32 or float64.
        has_regions: whether channels are overlapping regions.

    Returns:
        Probabilities in [0, 1], of the precision of the logits.
    """
    if has_regions:
        decay = torch.exp(-logits.abs())
        return torch.where(logits >= 0, 1.0, decay).div_(decay.add_(1.0))
    powers = (logits - logits.amax(1, keepdim=True)).exp_()
    return powers.div_(sum_over(powers, 1).unsqueeze(1))


def sum_over(values: Float[Tensor, "..."], axis: int) -> Float[Tensor, "..."]:
    """Sum over one axis in halves: the second half onto the first, until one is left.

    The order of additions depends on the length of the axis alone, so equal voxels have equal sums
    wherever they lie.

    Args:
        values: any tensor with at least one element along ``axis``.
        axis: the axis that vanishes.

    Returns:
        The sum; a view of ``values`` where the axis has one element.
    """
    length = values.shape[axis]
    while length > 1:
        half = length // 2
        halved = values.narrow(axis, 0, half) + values.narrow(axis, half, half)
        if length % 2:
            halved.narrow(axis, 0, 1).add_(values.narrow(axis, length - 1, 1))
        values, length = halved, half
    return values.squeeze(axis)


def mean_over(values: Float[Tensor, "..."], axis: int) -> Float[Tensor, "..."]:
    """Mean over one axis, added up as in :func:`sum_over`."""
    return sum_over(values, axis) / values.shape[axis]
