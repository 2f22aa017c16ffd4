"""Trainers for Monte Carlo dropout: nnU-Net's own trainer and network, with dropout layers."""

from typing import Any

from torch import nn

from nnunetv2_le.network.dropout import add_dropout
from nnunetv2_le.training.base_trainers import OwnNetworkTrainer


class DropoutTrainer(OwnNetworkTrainer):
    """Trains nnU-Net's network with channel dropout in bottleneck and decoder.

    Dropout is off in nnU-Net's validation and prediction; nnUNetv2_le_predict turns it on to draw
    samples. Loss and deep supervision are nnU-Net's, and so are the names of the parameters.

    Attributes:
        dropout_probability: that a channel is dropped. Read at prediction too; a subclass sets
            another.
    """

    dropout_probability: float = 0.2

    @classmethod
    def network_on(cls, unet: Any, *, deep_supervision: bool) -> nn.Module:
        """nnU-Net's network with dropout."""
        add_dropout(unet, probability=cls.dropout_probability)
        unet.decoder.deep_supervision = deep_supervision
        network: nn.Module = unet
        return network


class DropoutTrainerHalf(DropoutTrainer):
    """Every second channel is dropped, as in the first papers on dropout."""

    dropout_probability = 0.5
