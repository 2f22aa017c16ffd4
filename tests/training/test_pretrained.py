"""What a retrofit takes over from a checkpoint."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from torch import nn

from nnunetv2_le.errors import CheckpointError
from nnunetv2_le.network.frozen_layer_ensemble_unet import FrozenLayerEnsembleUNet
from nnunetv2_le.network.layer_ensemble_unet import LayerEnsembleUNet
from nnunetv2_le.network.multi_head_unet import MultiHeadUNet
from nnunetv2_le.training.pretrained import (
    carry_over_decoder_heads,
    read_trainer_name,
    read_weights,
    take_over_finished_network,
    take_over_trunk,
)

FILE = Path("checkpoint_final.pth")


@pytest.fixture
def stock() -> Any:
    return PlainConvUNet(
        input_channels=1,
        n_stages=2,
        features_per_stage=[2, 3],
        conv_op=nn.Conv2d,
        kernel_sizes=3,
        strides=[1, 2],
        n_conv_per_stage=1,
        num_classes=2,
        n_conv_per_stage_decoder=1,
        deep_supervision=True,
    )


def test_a_retrofit_takes_over_all_of_a_stock_model(stock: Any) -> None:
    network = FrozenLayerEnsembleUNet(copy.deepcopy(stock))
    for value in network.parameters():
        nn.init.zeros_(value)
    take_over_finished_network(network, stock.state_dict(), FILE)
    for name, value in stock.state_dict().items():
        assert torch.equal(network.state_dict()[name], value)


@pytest.mark.parametrize("kind", [lambda network: network, MultiHeadUNet, LayerEnsembleUNet])
def test_the_trunk_is_what_nnunets_own_loader_takes(stock: Any, kind: Any, tmp_path: Path) -> None:
    torch.save({"network_weights": stock.state_dict()}, tmp_path / "stock.pth")
    ours, theirs = (kind(copy.deepcopy(stock)) for _ in range(2))
    for value, same in zip(ours.parameters(), theirs.parameters(), strict=True):
        nn.init.normal_(value)
        same.data.copy_(value)
    load_pretrained_weights(theirs, str(tmp_path / "stock.pth"))
    take_over_trunk(ours, stock.state_dict(), FILE)
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


@pytest.mark.parametrize("change", ["missing", "shape"])
def test_what_nnunets_own_loader_refuses_is_refused(
    stock: Any, change: str, tmp_path: Path
) -> None:
    weights = stock.state_dict()
    name = "encoder.stages.0.0.convs.0.conv.weight"
    if change == "missing":
        del weights[name]
    else:
        weights[name] = torch.zeros(5)
    torch.save({"network_weights": weights}, tmp_path / "other.pth")
    with pytest.raises(AssertionError, match=name):
        load_pretrained_weights(copy.deepcopy(stock), str(tmp_path / "other.pth"))
    with pytest.raises(CheckpointError, match=name):
        take_over_trunk(stock, weights, FILE)


@pytest.mark.parametrize("kind", [MultiHeadUNet, LayerEnsembleUNet])
def test_a_model_with_more_heads_is_no_finished_stock_model(stock: Any, kind: Any) -> None:
    weights = kind(copy.deepcopy(stock)).state_dict()
    network = FrozenLayerEnsembleUNet(stock)
    with pytest.raises(CheckpointError, match=r"no plain model.* such as extra_heads.*nnUNetTrai"):
        take_over_finished_network(network, weights, FILE)


def test_a_checkpoint_tells_weights_and_trainer(tmp_path: Path) -> None:
    torch.save({"network_weights": {"a": 1}, "trainer_name": "T"}, tmp_path / "one.pth")
    torch.save({"network_weights": {}}, tmp_path / "old.pth")
    torch.save({"trainer_name": "T"}, tmp_path / "other.pth")
    assert read_weights(tmp_path / "one.pth") == {"a": 1}
    assert read_trainer_name(tmp_path / "one.pth") == "T"
    assert read_trainer_name(tmp_path / "old.pth") is None
    with pytest.raises(CheckpointError, match=r"other\.pth cannot be read as one \(KeyError\)"):
        read_weights(tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"found none at none\.pth"):
        read_trainer_name(Path("none.pth"))


@pytest.mark.parametrize("kind", [MultiHeadUNet, LayerEnsembleUNet])
def test_decoder_heads_of_the_same_shape_are_carried_over_and_nothing_else(
    stock: Any, kind: Any
) -> None:
    network = kind(copy.deepcopy(stock))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    weights = {name: torch.full_like(value, 7) for name, value in stock.state_dict().items()}
    weights["decoder.seg_layers.0.bias"] = torch.zeros(5)
    weights["decoder.seg_layers.9.bias"] = torch.zeros(2)
    copied = carry_over_decoder_heads(network, weights)
    assert copied == ("decoder.seg_layers.0.weight",)
    for name, value in network.state_dict().items():
        assert torch.equal(value, weights[name] if name in copied else before[name]), name


def test_a_network_without_heads_of_ours_is_left_as_it_is(stock: Any) -> None:
    weights = {name: torch.full_like(value, 7) for name, value in stock.state_dict().items()}
    before = copy.deepcopy(stock.state_dict())
    assert carry_over_decoder_heads(stock, weights) == ()
    assert all(torch.equal(value, before[name]) for name, value in stock.state_dict().items())
