"""The losses of networks with several heads: one loss for every head, summed."""

from collections.abc import Callable, Mapping, Sequence

import torch
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from torch import Tensor, nn


def summed_loss(
    predictions: Mapping[str, Tensor], target: Tensor, *, loss: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Sum over layers of one loss against one target, ``L = sum_m loss(z_m, y)``.

    Args:
        predictions: what a ``LayerEnsemble`` gives, all of the same shape.
        target: what each layer shall predict.
        loss: of one prediction and the target.

    Source: Kushibar et al. 2022, Eq. 1.
    """
    return torch.stack([loss(prediction, target) for prediction in predictions.values()]).sum()


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


class MultiHeadLoss(nn.Module):
    """nnU-Net's loss with deep supervision, summed over copies of the finest output.

    ``L = sum_m w_0 loss(z_m, y_0) + sum_i w_i loss(z_i, y_i)``: copies m at full resolution,
    coarser outputs i, nnU-Net's own weights w. With one copy it is nnU-Net's loss.

    Args:
        loss: what nnU-Net's trainer builds with deep supervision.
        num_heads: copies of the finest output.
    """

    def __init__(self, loss: DeepSupervisionWrapper, num_heads: int) -> None:
        super().__init__()
        finest, *coarser = loss.weight_factors
        self.loss = DeepSupervisionWrapper(loss.loss, [finest] * num_heads + coarser)
        self.num_heads = num_heads

    def forward(self, outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        """Loss of a batch.

        Args:
            outputs: logits (batch, classes, *space) of each copy, then of the coarser outputs.
            targets: targets (batch, 1 or regions, *space) at each resolution, finest first.
        """
        finest, *coarser = targets
        value: Tensor = self.loss(list(outputs), [finest] * self.num_heads + coarser)
        return value
