import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import nn

from nnunetv2_le.network.frozen_layer_ensemble_unet import FrozenLayerEnsembleUNet
from nnunetv2_le.network.head_sources import LayerEnsembleHeads, head_source

ARCHITECTURES = ("plain", "residual_encoder", "residual")

Make = Callable[..., Any]


def patch(dim: int = 2) -> torch.Tensor:
    return torch.randn((2, 1, *[16] * dim), generator=torch.Generator().manual_seed(1))


def step(network: nn.Module) -> None:
    """An optimizer's step with nnU-Net's weight decay on all parameters."""
    optimizer = torch.optim.SGD(
        network.parameters(), 0.1, weight_decay=3e-5, momentum=0.99, nesterov=True
    )
    for _ in range(2):
        optimizer.zero_grad(set_to_none=True)
        torch.stack([z.square().mean() for z in network(patch())]).sum().backward()
        nn.utils.clip_grad_norm_(network.parameters(), 12)
        optimizer.step()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("granularity", ["stage", "block"])
def test_training_moves_every_head_but_the_last_and_nothing_else(
    unet: Make, architecture: str, granularity: Any
) -> None:
    stock = unet(architecture)
    network = FrozenLayerEnsembleUNet(copy.deepcopy(stock), granularity=granularity).train()
    before = copy.deepcopy(network.state_dict())
    step(network)
    moved = {n for n, value in network.state_dict().items() if not torch.equal(value, before[n])}
    assert moved == {
        name
        for name in before
        if name.startswith(("extra_heads.seg_layers.", "decoder.seg_layers.0."))
        and not name.endswith("_extra_state")
    }
    assert torch.equal(network(patch())[0], stock(patch())[0])


def test_running_statistics_and_dropout_of_the_trunk_stay_out_of_the_training(unet: Make) -> None:
    special = {
        "norm_op": nn.BatchNorm2d,
        "dropout_op": nn.Dropout2d,
        "dropout_op_kwargs": {"p": 0.5},
    }
    stock = unet(**special).eval()
    network = FrozenLayerEnsembleUNet(unet(**special)).train()
    before = copy.deepcopy(network.encoder.state_dict())
    assert torch.equal(network(patch())[0], stock(patch())[0])
    for name, value in network.encoder.state_dict().items():
        assert torch.equal(value, before[name])


def test_no_gradient_is_computed_through_the_trunk(unet: Make) -> None:
    network = FrozenLayerEnsembleUNet(unet()).train()
    outputs = network(patch())
    assert not outputs[0].requires_grad  # the finest head is finished too
    for output in outputs[1:]:
        assert output.requires_grad
    seen, _ = network._features(patch())
    assert not any(features.requires_grad for features in seen)


def test_one_fused_head_gives_a_stock_predictor_the_stock_output_to_the_bit(unet: Make) -> None:
    stock = unet(deep_supervision=False)
    network = FrozenLayerEnsembleUNet(stock, num_fused_heads=1, deep_supervision=False)
    assert torch.equal(network(patch()), stock(patch()))


def test_it_is_a_layer_ensemble_to_the_predictor(unet: Make) -> None:
    source = head_source(FrozenLayerEnsembleUNet(unet(), num_fused_heads=1), deep_supervision=True)
    assert isinstance(source, LayerEnsembleHeads)
    assert source.num_fused_heads == 1
    assert len(source(patch()).heads) == 5


def test_forward_and_backward_compile_as_one_graph(unet: Make, shapes_unchecked: None) -> None:
    network = FrozenLayerEnsembleUNet(unet(), num_fused_heads=1).double().train()
    images = patch().double()
    torch._dynamo.reset()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    outputs = compiled(images)
    torch.testing.assert_close(outputs, network(images))
    sum(z.square().sum() for z in outputs).backward()
    assert next(network.encoder.parameters()).grad is None
    assert network.extra_heads.seg_layers[0].weight.grad.any()
    network.deep_supervision = False  # nnU-Net switches after compiling
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), network(images))
