import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._dynamo
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from torch import nn

from nnunetv2_le.errors import SettingError, UnsupportedArchitectureError
from nnunetv2_le.network.head_sources import MultiHeadHeads, head_source
from nnunetv2_le.network.multi_head_unet import MultiHeadUNet
from nnunetv2_le.training.losses import MultiHeadLoss

ARCHITECTURES = ("plain", "residual_encoder", "residual")

Make = Callable[..., Any]


def patch(dim: int = 2) -> torch.Tensor:
    return torch.randn((2, 1, *[16] * dim), generator=torch.Generator().manual_seed(1))


def targets() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(0, 3, (2, n, n), generator=generator) for n in (16, 8)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_first_copy_of_a_stock_network_is_that_network_to_the_bit(
    unet: Make, architecture: str
) -> None:
    stock, network = unet(architecture), MultiHeadUNet(unet(architecture), num_heads=3)
    unfilled = network.load_state_dict(stock.state_dict(), strict=False)
    assert not unfilled.unexpected_keys
    assert all(key.startswith("extra_heads.seg_layers.") for key in unfilled.missing_keys)
    outputs, expected = network(patch()), stock(patch())
    assert torch.equal(outputs[0], expected[0])
    assert torch.equal(outputs[3], expected[1])
    assert len(outputs) == 4


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_copies_start_from_different_parameters(unet: Make, architecture: str) -> None:
    network = MultiHeadUNet(unet(architecture), num_heads=3)
    first, second, third = network.head_logits(patch())
    assert not torch.allclose(first, second)
    assert not torch.allclose(second, third)


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("has_regions", [False, True])
def test_the_one_tensor_is_the_mean_probability_of_the_copies(
    unet: Make, dim: int, has_regions: bool
) -> None:
    network = MultiHeadUNet(unet(dim=dim), num_heads=3, deep_supervision=False)
    network.has_regions = has_regions
    activation = torch.sigmoid if has_regions else lambda z: torch.softmax(z, 1)
    mean = torch.stack([activation(z) for z in network.head_logits(patch(dim))]).mean(0)
    torch.testing.assert_close(activation(network(patch(dim))), mean)


def test_one_copy_gives_nnunets_output_loss_and_gradients_to_the_bit(unet: Make) -> None:
    stock = unet()
    network = MultiHeadUNet(copy.deepcopy(stock), num_heads=1)
    loss = DeepSupervisionWrapper(nn.CrossEntropyLoss(), [0.75, 0.25])
    expected, value = (
        loss(stock(patch()), targets()),
        MultiHeadLoss(loss, 1)(network(patch()), targets()),
    )
    assert torch.equal(value, expected)
    expected.backward()
    value.backward()
    for (name, ours), theirs in zip(network.named_parameters(), stock.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad), name


def test_the_trunk_gets_the_mean_of_the_copies_gradients_and_each_copy_its_own(unet: Make) -> None:
    """Equal copies: the trunk learns as nnU-Net's does, every copy as nnU-Net's last stage."""
    stock = unet()
    network = MultiHeadUNet(copy.deepcopy(stock), num_heads=4)
    for other in network.extra_heads.seg_layers:
        other.stage.load_state_dict(stock.decoder.stages[-1].state_dict())
        other.head.load_state_dict(stock.decoder.seg_layers[-1].state_dict())
    loss = DeepSupervisionWrapper(nn.CrossEntropyLoss(), [0.75, 0.25])
    loss(stock(patch()), targets()).backward()
    MultiHeadLoss(loss, 4)(network(patch()), targets()).backward()
    gradients = {name: p.grad for name, p in network.named_parameters()}
    for name, parameter in stock.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad)
    last = stock.decoder.seg_layers[-1].weight.grad
    for other in network.extra_heads.seg_layers:
        torch.testing.assert_close(other.head.weight.grad, last)


def test_the_checkpoint_remembers_regions(unet: Make) -> None:
    trained = MultiHeadUNet(unet(), num_heads=2)
    trained.has_regions = True
    fresh = MultiHeadUNet(unet(), num_heads=2)
    fresh.load_state_dict(trained.state_dict())
    assert fresh.has_regions


def test_copies_are_a_family_of_their_own_and_all_make_the_segmentation(unet: Make) -> None:
    network = MultiHeadUNet(unet(), num_heads=3, deep_supervision=False)
    source = head_source(network, deep_supervision=True)
    assert isinstance(source, MultiHeadHeads)
    assert source.family_name == "multi_head"
    assert source.num_fused_heads == len(source.head_names) == 3
    heads, features = source(patch())
    for ours, theirs in zip(heads, network.head_logits(patch()), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(features, head_source(unet(), deep_supervision=True)(patch()).features)


def test_fewer_than_one_copy_is_refused(unet: Make) -> None:
    with pytest.raises(SettingError, match="1 head or more, got 0"):
        MultiHeadUNet(unet(), num_heads=0)


def test_a_network_without_decoder_is_refused() -> None:
    with pytest.raises(UnsupportedArchitectureError, match=r"lacks encoder\.stages"):
        MultiHeadUNet(nn.Conv2d(1, 2, 1))


def test_forward_and_backward_compile_as_one_graph(unet: Make, shapes_unchecked: None) -> None:
    network = MultiHeadUNet(unet(), num_heads=3).double()
    images = patch().double()
    torch._dynamo.reset()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    outputs = compiled(images)
    torch.testing.assert_close(outputs, network(images))
    sum(z.square().sum() for z in outputs).backward()
    compiled_gradient = next(network.encoder.parameters()).grad.clone()
    network.zero_grad()
    sum(z.square().sum() for z in network(images)).backward()
    torch.testing.assert_close(next(network.encoder.parameters()).grad, compiled_gradient)
    network.deep_supervision = False  # nnU-Net switches after compiling
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), network(images))
