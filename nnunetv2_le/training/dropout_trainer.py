"""Trainers for Monte Carlo dropout: nnU-Net's own trainer and network, with dropout layers."""

from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunetv2_le.network.dropout import add_dropout
from nnunetv2_le.training.base_trainers import OwnLengthTrainer, build_unet


class DropoutTrainer(OwnLengthTrainer):
    """Trains nnU-Net's network with channel dropout in bottleneck and decoder.

    Dropout is off in nnU-Net's validation and prediction; nnUNetv2_le_predict turns it on to draw
    samples. Loss and deep supervision are nnU-Net's, and so are the names of the parameters.

    Attributes:
        dropout_probability: that a channel is dropped. Read at prediction too; a subclass sets
            another.
    """

    dropout_probability: float = 0.2

    @classmethod
    def build_network_architecture(  # type: ignore[override]
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """nnU-Net's network from the plans, with dropout.

        Raises:
            UnsupportedArchitectureError: the plans ask for a network without convolutional encoder
                and decoder.
        """
        unet = build_unet(
            plans_manager,
            configuration_manager,
            num_input_channels,
            num_output_channels,
            enable_deep_supervision,
        )
        add_dropout(unet, probability=cls.dropout_probability)
        return unet


class DropoutTrainerHalf(DropoutTrainer):
    """Every second channel is dropped, as in the first papers on dropout."""

    dropout_probability = 0.5
