from collections.abc import Callable
from typing import Any

import pytest
import torch
from dynamic_network_architectures.architectures.resnet import ResNet18_CIFAR
from torch import nn

from nnunetv2_le.errors import UnsupportedArchitectureError
from nnunetv2_le.network.blocks import conv_blocks, is_pooling, require_encoder_decoder


@pytest.mark.parametrize("architecture", ["plain", "residual_encoder", "residual"])
def test_running_the_blocks_in_order_is_running_the_stage(
    unet: Callable[..., Any], architecture: str
) -> None:
    stage = unet(architecture).encoder.stages[1]
    x = torch.randn(1, 4, 8, 8)
    expected = stage(x.clone())
    for block in conv_blocks(stage):
        x = block(x)
    assert torch.equal(x, expected)


@pytest.mark.parametrize("architecture", ["plain", "residual_encoder", "residual"])
def test_a_stage_of_two_blocks_has_two_blocks(unet: Callable[..., Any], architecture: str) -> None:
    assert len(conv_blocks(unet(architecture).encoder.stages[1])) == 2


@pytest.mark.parametrize("pool", ["max", "avg"])
def test_pooling_is_a_block_of_its_own_and_carries_no_head(
    unet: Callable[..., Any], pool: str
) -> None:
    from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder

    encoder = PlainConvEncoder(
        1, 2, [4, 8], nn.Conv2d, 3, [1, 2], 2, nonlin=nn.ReLU, return_skips=True, pool=pool
    )
    blocks = conv_blocks(encoder.stages[1])
    assert [is_pooling(block) for block in blocks] == [True, False, False]


def test_require_encoder_decoder_accepts_unets(unet: Callable[..., Any]) -> None:
    for architecture in ("plain", "residual_encoder", "residual"):
        require_encoder_decoder(unet(architecture))


@pytest.mark.parametrize(
    ("network", "missing"),
    [
        (nn.Conv2d(1, 1, 1), "encoder.stages"),
        (ResNet18_CIFAR(10), "decoder.seg_layers"),
    ],
)
def test_require_encoder_decoder_names_what_is_missing(network: nn.Module, missing: str) -> None:
    with pytest.raises(UnsupportedArchitectureError, match=missing):
        require_encoder_decoder(network)


@pytest.mark.parametrize(
    "name", ["stages", "output_channels", "conv_op", "transpconvs", "seg_layers"]
)
def test_each_part_that_heads_need_is_asked_for(unet: Callable[..., Any], name: str) -> None:
    network = unet("plain")
    part = "decoder" if name in ("transpconvs", "seg_layers") else "encoder"
    delattr(getattr(network, part), name)
    with pytest.raises(UnsupportedArchitectureError, match=rf"lacks {part}\.{name}\. Plan"):
        require_encoder_decoder(network)
