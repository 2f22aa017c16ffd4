"""Dropout in the bottleneck and the decoder of nnU-Net's U-Nets, for Monte Carlo dropout.

nnU-Net's blocks can have dropout of their own (``dropout_op`` in the plans), but everywhere in the
network, under parameter names that are shifted by one, and between convolution and instance
normalisation, which undoes the factor 1 / (1 - p) that keeps the expected value. Here dropout
follows the nonlinearity. It has no parameters, so the names of a checkpoint stay nnU-Net's.

Sources: Gal and Ghahramani, "Dropout as a Bayesian Approximation", ICML 2016, arXiv:1506.02142;
whole channels: Tompson et al., "Efficient Object Localization Using Convolutional Networks",
CVPR 2015, arXiv:1411.4280 (neighbouring voxels of a channel are too alike to be dropped alone).
"""

from typing import Any

from dynamic_network_architectures.building_blocks.helper import convert_conv_op_to_dim
from dynamic_network_architectures.building_blocks.simple_conv_blocks import ConvDropoutNormReLU
from torch import nn

from nnunetv2_le.errors import SettingError, UnsupportedArchitectureError
from nnunetv2_le.network.blocks import require_encoder_decoder, unsupported

_CHANNELS = {1: nn.Dropout1d, 2: nn.Dropout2d, 3: nn.Dropout3d}


def add_dropout(unet: Any, *, probability: float) -> int:
    """Let every convolution block of bottleneck and decoder end with channel dropout.

    A residual block gets it after its first nonlinearity, where nnU-Net's own would be; its skip
    connection passes.

    Args:
        unet: a network with nnU-Net's ``encoder`` and ``decoder``; changed in place.
        probability: that a channel is dropped, at least 0 and below 1.

    Returns:
        How many dropout layers were added.

    Raises:
        SettingError: no such probability.
        UnsupportedArchitectureError: no encoder and decoder of nnU-Net's kind.
    """
    if not 0 <= probability < 1:
        raise SettingError(
            f"The dropout probability has to be at least 0 and below 1, got {probability!r}."
        )
    require_encoder_decoder(unet)
    layer = _CHANNELS[convert_conv_op_to_dim(unet.encoder.conv_op)]
    blocks = [
        block
        for part in (unet.encoder.stages[-1], unet.decoder.stages)
        for block in part.modules()
        if isinstance(block, ConvDropoutNormReLU) and hasattr(block, "nonlin")
    ]
    if not blocks:
        raise UnsupportedArchitectureError(
            unsupported(type(unet).__name__, "has no convolution block that could end with dropout")
        )
    for block in blocks:
        block.all_modules.add_module("dropout", layer(probability))
    return len(blocks)
