from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from nnunetv2_le.errors import SettingError, UnsupportedArchitectureError
from nnunetv2_le.network.dropout import add_dropout

ARCHITECTURES = ("plain", "residual_encoder", "residual")

Make = Callable[..., Any]


def patch(dim: int = 2) -> torch.Tensor:
    return torch.randn((2, 1, *[16] * dim), generator=torch.Generator().manual_seed(1))


def dropouts(network: nn.Module) -> dict[str, nn.Module]:
    return {name: m for name, m in network.named_modules() if isinstance(m, _DropoutNd)}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_names_parameters_and_output_without_sampling_stay_nnunets(
    unet: Make, architecture: str
) -> None:
    stock, network = unet(architecture), unet(architecture)
    add_dropout(network, probability=0.3)
    assert list(network.state_dict()) == list(stock.state_dict())
    network.load_state_dict(stock.state_dict())
    for ours, theirs in zip(network.eval()(patch()), stock.eval()(patch()), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_dropout_is_in_bottleneck_and_decoder_alone(unet: Make, architecture: str) -> None:
    network = unet(architecture)
    added = add_dropout(network, probability=0.3)
    names = [name for name in dropouts(network) if not name.startswith("decoder.encoder.")]
    assert len(names) == added
    parts = {name.split(".all_modules")[0].rsplit(".", 2)[0] for name in names}
    assert all(part.startswith(("encoder.stages.2", "decoder.stages.")) for part in parts)
    for start in ("encoder.stages.2", "decoder.stages.0", "decoder.stages.1"):
        assert any(name.startswith(start) for name in names)


@pytest.mark.parametrize(("dim", "layer"), [(2, nn.Dropout2d), (3, nn.Dropout3d)])
def test_whole_channels_are_dropped_and_samples_differ(
    unet: Make, dim: int, layer: type[nn.Module]
) -> None:
    network = unet(dim=dim)
    add_dropout(network, probability=0.3)
    assert {type(module) for module in dropouts(network).values()} == {layer}
    network.train()
    assert not torch.equal(network(patch(dim))[0], network(patch(dim))[0])


def test_a_block_keeps_its_expected_value(unet: Make) -> None:
    """The mean over samples is the output without dropout; before the norm it would not be."""
    network = unet()
    add_dropout(network, probability=0.4)
    block = network.encoder.stages[-1][0].convs[0]
    torch.manual_seed(0)
    features = torch.randn(1, 6, 8, 8)
    with torch.no_grad():
        expected = block.eval()(features)
        samples = block.train()(features.expand(4000, -1, -1, -1))
    torch.testing.assert_close(samples.mean(0, keepdim=True), expected, atol=0.08, rtol=0.05)


@pytest.mark.parametrize("probability", [-0.1, 1, 1.5])
def test_what_is_no_probability_is_refused(unet: Make, probability: float) -> None:
    with pytest.raises(SettingError, match="at least 0 and below 1"):
        add_dropout(unet(), probability=probability)


def test_a_network_without_decoder_is_refused() -> None:
    with pytest.raises(UnsupportedArchitectureError, match=r"lacks encoder\.stages"):
        add_dropout(nn.Conv2d(1, 2, 1), probability=0.1)
