"""The loss of a layer ensemble: nnU-Net's own loss for every head, summed."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class SummedHeadLoss(nn.Module):
    """Sum over heads of one loss against one full-resolution target.

    ``L = sum_m loss(z_m, y)``. The sum, not the mean: with the mean the finest head gets a share of
    the gradient that is too small to learn from
    (``documentation/decisions/001-loss-summed-over-heads.md``).

    Args:
        loss: nnU-Net's compound loss for one output.

    Source: Kushibar et al. 2022, Eq. 1 (there the per-head losses are weighted 1 each).
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, outputs: Sequence[Tensor], targets: Sequence[Tensor] | Tensor) -> Tensor:
        """Loss of a batch.

        Args:
            outputs: full-resolution logits (batch, classes, *space), one tensor a head.
            targets: the full-resolution target (batch, 1 or regions, *space), alone or as a list
                of one.
        """
        target = targets if isinstance(targets, Tensor) else targets[0]
        return torch.stack([self.loss(logits, target) for logits in outputs]).sum()
