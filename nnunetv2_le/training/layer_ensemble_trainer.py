"""Trainers for layer ensembles: nnU-Net's own trainer with another network and another loss."""

from typing import Any

from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from torch import nn

from nnunetv2_le.network.layer_ensemble_unet import Granularity, LayerEnsembleUNet
from nnunetv2_le.training.base_trainers import SeveralHeadsTrainer
from nnunetv2_le.training.losses import SummedHeadLoss


class LayerEnsembleTrainer(SeveralHeadsTrainer):
    """Trains one network with a segmentation head on every encoder and decoder stage.

    Class attributes are the only settings; a subclass sets others. They are read at prediction too,
    so a checkpoint is tied to its trainer's name, as everywhere in nnU-Net.

    Attributes:
        encoder_heads: whether encoder stages carry heads.
        encoder_gradient: share of the encoder heads' gradient that reaches the trunk.
        decoder_gradient: the same for the decoder heads before the last. Every head learns from
            its whole loss; the shares only keep the many shallow heads from steering the trunk
            (``documentation/decisions/009-share-of-the-heads-gradient.md``).
        granularity: heads after every ``stage`` or every convolution ``block``.
        num_fused_heads: how many of the last heads make the segmentation.
        network_class: the network that carries the heads.
    """

    encoder_heads: bool = True
    encoder_gradient: float = 0.1
    decoder_gradient: float = 0.3
    granularity: Granularity = "stage"
    num_fused_heads: int = 2
    network_class: type[LayerEnsembleUNet] = LayerEnsembleUNet

    @classmethod
    def network_on(cls, unet: Any, *, deep_supervision: bool) -> nn.Module:
        """nnU-Net's network with heads."""
        network = cls.network_class(
            unet,
            encoder_heads=cls.encoder_heads,
            encoder_gradient=cls.encoder_gradient,
            decoder_gradient=cls.decoder_gradient,
            granularity=cls.granularity,
            num_fused_heads=cls.num_fused_heads,
            deep_supervision=deep_supervision,
        )
        if callable(initialize := getattr(unet, "initialize", None)):
            network.extra_heads.apply(initialize)
        return network

    def _get_deep_supervision_scales(self) -> list[list[float]]:
        """One target at full resolution: every head is compared with it."""
        return [[1.0] * len(self.configuration_manager.patch_size)]

    def _build_loss(self) -> nn.Module:
        """Sum over heads of nnU-Net's compound loss, or of that of a trainer mixed in."""
        self.enable_deep_supervision = False  # nnU-Net's loss for one output, without its weights
        try:
            loss: nn.Module = super()._build_loss()
        finally:
            self.enable_deep_supervision = True
        # other trainers may wrap theirs without looking at the switch
        return SummedHeadLoss(loss.loss if isinstance(loss, DeepSupervisionWrapper) else loss)
