"""Trainers for multi-head networks: copies of the last decoder stage on one trunk."""

from typing import Any

from torch import nn

from nnunetv2_le.network.multi_head_unet import MultiHeadUNet
from nnunetv2_le.training.base_trainers import SeveralHeadsTrainer
from nnunetv2_le.training.losses import MultiHeadLoss


class MultiHeadTrainer(SeveralHeadsTrainer):
    """Trains one network with several copies of the last decoder stage and its head.

    The coarser stages keep nnU-Net's deep supervision, so that a network with one copy is trained
    exactly as nnU-Net trains its own (``documentation/decisions/012-multi-head.md``).

    Attributes:
        num_heads: copies. Read at prediction too; a subclass sets another number.
    """

    num_heads: int = 5

    @classmethod
    def network_on(cls, unet: Any, *, deep_supervision: bool) -> nn.Module:
        """nnU-Net's network with copies of its last stage."""
        return MultiHeadUNet(unet, num_heads=cls.num_heads, deep_supervision=deep_supervision)

    def _build_loss(self) -> nn.Module:
        """nnU-Net's loss with deep supervision, its first term once for each copy."""
        return MultiHeadLoss(super()._build_loss(), self.num_heads)


class MultiHeadTrainer10(MultiHeadTrainer):
    """Ten copies."""

    num_heads = 10
