"""What each trainer makes of nnU-Net's network, without a training."""

from typing import Any

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from nnunetv2_le.network.frozen_layer_ensemble_unet import FrozenLayerEnsembleUNet
from nnunetv2_le.training.dropout_trainer import DropoutTrainer, DropoutTrainerHalf
from nnunetv2_le.training.frozen_trainer import LayerEnsembleTrainerFrozen
from nnunetv2_le.training.layer_ensemble_trainer import LayerEnsembleTrainer
from nnunetv2_le.training.multi_head_trainer import MultiHeadTrainer, MultiHeadTrainer10
from nnunetv2_le.training.variants import (
    LayerEnsembleTrainerBlockHeads,
    LayerEnsembleTrainerDecoderHeads,
    LayerEnsembleTrainerFullGradient,
    LayerEnsembleTrainerProbes,
)


def network_of(trainer: Any, *, deep_supervision: bool = True) -> Any:
    torch.manual_seed(0)
    unet = PlainConvUNet(
        *(1, 3, [4, 6, 8], nn.Conv2d, 3, [1, 2, 2], 2, 3, 2),
        norm_op=nn.InstanceNorm2d,
        norm_op_kwargs={"affine": True},
        nonlin=nn.LeakyReLU,
        deep_supervision=True,
    )
    return trainer.network_on(unet, deep_supervision=deep_supervision)


@pytest.mark.parametrize(
    ("trainer", "num_heads", "gradients", "num_fused"),
    [
        (LayerEnsembleTrainer, 5, (0.1, 0.3), 2),
        (LayerEnsembleTrainerDecoderHeads, 2, (0.1, 0.3), 2),
        (LayerEnsembleTrainerProbes, 5, (0.0, 0.3), 2),
        (LayerEnsembleTrainerFullGradient, 5, (1.0, 1.0), 2),
        (LayerEnsembleTrainerBlockHeads, 10, (0.1, 0.3), 2),
        (LayerEnsembleTrainerFrozen, 5, (0.1, 0.3), 1),
    ],
)
def test_heads_gradients_and_fused_heads_are_those_of_the_trainers_documentation(
    trainer: Any, num_heads: int, gradients: tuple[float, float], num_fused: int
) -> None:
    network = network_of(trainer)
    assert len(network.head_names) == num_heads
    assert (network.encoder_gradient, network.decoder_gradient) == gradients
    assert network.num_fused_heads == num_fused
    is_frozen = trainer is LayerEnsembleTrainerFrozen
    assert isinstance(network, FrozenLayerEnsembleUNet) == is_frozen


def test_extra_heads_start_as_nnunet_starts_its_layers() -> None:
    """He's normal distribution, and no bias: PyTorch's own start has both otherwise."""
    network = network_of(LayerEnsembleTrainer)
    extra = [module for module in network.extra_heads.modules() if isinstance(module, nn.Conv2d)]
    assert len(extra) == 3
    for head in extra:
        assert head.bias is not None
        assert not head.bias.any()


@pytest.mark.parametrize(("trainer", "copies"), [(MultiHeadTrainer, 5), (MultiHeadTrainer10, 10)])
def test_copies_of_the_last_stage_are_those_of_the_trainers_documentation(
    trainer: Any, copies: int
) -> None:
    assert len(network_of(trainer).head_names) == copies


@pytest.mark.parametrize(
    ("trainer", "probability"), [(DropoutTrainer, 0.2), (DropoutTrainerHalf, 0.5)]
)
def test_channels_are_dropped_as_often_as_the_trainers_documentation_says(
    trainer: Any, probability: float
) -> None:
    layers = [m for m in network_of(trainer).modules() if isinstance(m, nn.Dropout2d)]
    assert layers
    assert {layer.p for layer in layers} == {probability}


@pytest.mark.parametrize("trainer", [LayerEnsembleTrainer, MultiHeadTrainer, DropoutTrainer])
def test_without_deep_supervision_there_is_one_output(trainer: type[nnUNetTrainer]) -> None:
    image = torch.randn(1, 1, 16, 16)
    assert isinstance(network_of(trainer, deep_supervision=False)(image), torch.Tensor)
    outputs = network_of(trainer, deep_supervision=True)(image)
    assert isinstance(outputs, list)
    assert len(outputs) > 1
