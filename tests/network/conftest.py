from collections.abc import Callable
from typing import Any

import pytest
import torch
from dynamic_network_architectures.architectures.unet import (
    PlainConvUNet,
    ResidualEncoderUNet,
    ResidualUNet,
)
from torch import nn

ARCHITECTURES = ("plain", "residual_encoder", "residual")


@pytest.fixture
def unet() -> Callable[..., Any]:
    """Makes a small U-Net of nnU-Net's; same seed, same parameters."""

    def make(architecture: str = "plain", *, dim: int = 2, classes: int = 3, **more: Any) -> Any:
        torch.manual_seed(0)
        common: dict[str, Any] = {
            "input_channels": 1,
            "n_stages": 3,
            "features_per_stage": [4, 6, 8],
            "conv_op": nn.Conv2d if dim == 2 else nn.Conv3d,
            "kernel_sizes": 3,
            "strides": [1, 2, 2],
            "num_classes": classes,
            "n_conv_per_stage_decoder": 2,
            "conv_bias": True,
            "norm_op": nn.InstanceNorm2d if dim == 2 else nn.InstanceNorm3d,
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": nn.LeakyReLU,
            "nonlin_kwargs": {"inplace": True},
            "deep_supervision": True,
        }
        if architecture == "plain":
            return PlainConvUNet(n_conv_per_stage=2, **common | more)
        if architecture == "residual_encoder":
            return ResidualEncoderUNet(n_blocks_per_stage=2, **common | more)
        return ResidualUNet(n_blocks_per_stage=2, **common | more)

    return make
