"""Candidates for heads: names, channels, scale, and what is refused."""

from collections import OrderedDict

import pytest
import torch
import torchvision
from network.small_networks import TokenMixer, TwoScales
from torch import nn

from nnunetv2_le.errors import SettingError, UnsupportedArchitectureError
from nnunetv2_le.network.dummy_pass import run_dummy_pass
from nnunetv2_le.network.feature_layers import FeatureLayer, candidate_layers, find_layers

IMAGE = torch.zeros(1, 3, 64, 64)


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return torchvision.models.resnet18(num_classes=5)


def _names(layers):
    return [layer.name for layer in layers]


def _refused(model, name, example=IMAGE):
    find_layers(model, [name], run_dummy_pass(model, example))


def test_channels_and_scale_of_a_resnet_are_those_of_its_paper(resnet):
    assert candidate_layers(resnet, "layer*", IMAGE) == (
        FeatureLayer("layer1", 64, (4.0, 4.0)),
        FeatureLayer("layer2", 128, (8.0, 8.0)),
        FeatureLayer("layer3", 256, (16.0, 16.0)),
        FeatureLayer("layer4", 512, (32.0, 32.0)),
    )


def test_scale_is_one_number_an_axis():
    network = nn.Sequential(nn.Conv3d(1, 2, 1), nn.MaxPool3d((1, 2, 4)))
    (layer,) = candidate_layers(network, "1", torch.zeros(1, 1, 3, 8, 8))
    assert layer == FeatureLayer("1", 2, (1.0, 2.0, 4.0))


def test_a_star_stops_at_a_dot_and_two_do_not(resnet):
    assert _names(candidate_layers(resnet, "layer2.*", IMAGE)) == ["layer2.0", "layer2.1"]
    deep = _names(candidate_layers(resnet, "layer2.**", IMAGE))
    assert "layer2.0.downsample.1" in deep
    assert not candidate_layers(resnet, "layer", IMAGE)


def test_layers_come_in_the_order_of_computation():
    network = TwoScales()  # its attributes are in another order
    dummy = run_dummy_pass(network, torch.zeros(1, 1, 8, 8))
    assert _names(find_layers(network, ["fine", "coarse"], dummy)) == ["fine", "coarse"]
    assert _names(find_layers(network, ["coarse", "f*", "fine"], dummy)) == ["fine", "coarse"]


def test_only_maps_of_layers_that_run_once_are_candidates(resnet):
    names = _names(candidate_layers(resnet, "**", IMAGE))
    assert not {"fc", "layer1.0.relu"} & set(names)
    assert {"relu", "avgpool"} <= set(names)


def test_the_dummy_pass_leaves_the_network_as_it_was(resnet):
    resnet.train()
    resnet.layer1.eval()
    before = {name: value.clone() for name, value in resnet.state_dict().items()}
    modes = [module.training for module in resnet.modules()]
    candidate_layers(resnet, "**", IMAGE)
    assert all(torch.equal(before[name], value) for name, value in resnet.state_dict().items())
    assert [module.training for module in resnet.modules()] == modes
    assert not any(module._forward_hooks for module in resnet.modules())


def test_an_unknown_name_is_refused_with_its_neighbours(resnet):
    with pytest.raises(SettingError, match=r"no layer 'leyer1'. Near it are 'layer1'"):
        _refused(resnet, "leyer1")
    with pytest.raises(SettingError, match=r"no layer 'xyz'. Its outermost layers are 'conv1'"):
        _refused(resnet, "xyz")


def test_a_pattern_without_a_layer_is_refused(resnet):
    with pytest.raises(SettingError, match=r"'stage\*' fits no layer of ResNet.* are 'conv1', "):
        _refused(resnet, "stage*")
    with pytest.raises(SettingError, match=r"'f\*' fits no layer .* 'fc' for example: it gives"):
        _refused(resnet, "f*")


def test_layers_that_can_carry_no_head_say_why(resnet):
    with pytest.raises(UnsupportedArchitectureError, match=r"'layer1.0.relu'.* run 2 times"):
        _refused(resnet, "layer1.0.relu")
    with pytest.raises(UnsupportedArchitectureError, match=r"shape \(1, 5\), no feature map"):
        _refused(resnet, "fc")


def test_tokens_are_refused():
    network = TokenMixer()
    with pytest.raises(UnsupportedArchitectureError, match=r"\(1, 64, 4\), tokens without a place"):
        _refused(network, "mixer", torch.zeros(1, 3, 16, 16))
    assert _names(candidate_layers(network, "*", torch.zeros(1, 3, 16, 16))) == ["embed"]


def test_a_layer_that_gives_no_tensor_is_refused():
    backbone = torchvision.models._utils.IntermediateLayerGetter(
        nn.Sequential(nn.Conv2d(3, 2, 1)), {"0": "out"}
    )
    with pytest.raises(
        UnsupportedArchitectureError, match=r"a dictionary with the keys 'out', not"
    ):
        _refused(nn.Sequential(backbone), "0")
    recurrent = nn.Sequential(nn.Flatten(2), nn.LSTM(4096, 2))
    with pytest.raises(UnsupportedArchitectureError, match=r"'1'.* it gives a tuple of 2, not a"):
        _refused(recurrent, "1")


def test_a_layer_that_is_not_run_is_refused():
    network = TwoScales()
    network.unused = nn.Conv2d(1, 1, 1)
    with pytest.raises(UnsupportedArchitectureError, match=r"'unused'.* it is not run in a pass"):
        _refused(network, "unused", torch.zeros(1, 1, 8, 8))


def test_whole_numbers_are_no_features():
    class Tokens(nn.Module):
        def forward(self, images):
            return images.long()

    with pytest.raises(UnsupportedArchitectureError, match=r"of type torch\.int64"):
        _refused(nn.Sequential(Tokens()), "0")


@pytest.mark.parametrize(
    ("example", "came"),
    [(torch.zeros(3, 8), r"shape \(3, 8\)"), ((), "NoneType"), ("image", "type str")],
)
def test_an_example_is_a_batch_of_images(resnet, example, came, shapes_unchecked):
    with pytest.raises(SettingError, match=rf"The example is an image batch .*; got .*{came}"):
        run_dummy_pass(resnet, example)


def test_a_layer_with_the_name_of_the_networks_own_prediction_is_no_candidate():
    network = _chain(first=nn.Conv2d(3, 2, 1), output=nn.Conv2d(2, 2, 1))
    assert _names(candidate_layers(network, "*", IMAGE)) == ["first"]
    with pytest.raises(UnsupportedArchitectureError, match=r"'output' .* a member already\. Leave"):
        _refused(network, "output")
    twins = _chain(first=network.first, twin=network.output, output=network.output)
    twins.forward = lambda images: twins.output(twins.first(images))
    assert _names(candidate_layers(twins, "*", IMAGE)) == ["first"]
    inside = _chain(decoder=network, last=nn.Conv2d(2, 2, 1))
    assert "decoder.output" in _names(candidate_layers(inside, "**", IMAGE))


def _chain(**layers):
    return nn.Sequential(OrderedDict(layers))


class _Residual(nn.Module):
    """A block that adds in place, and activates with a function."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, images):
        features = self.second(self.first(images))
        features += images
        return nn.functional.relu(features)


def test_a_layer_that_is_changed_in_place_later_is_no_candidate(resnet):
    names = _names(candidate_layers(resnet, "layer1.0.*", IMAGE))
    assert names == ["layer1.0.conv1", "layer1.0.conv2"]
    with pytest.raises(UnsupportedArchitectureError, match=r"'bn1'.* changed in place .* that one"):
        _refused(resnet, "bn1")
    assert _names(candidate_layers(_chain(block=_Residual()), "**", IMAGE)) == [
        "block.first",
        "block",
    ]


def test_a_dummy_pass_in_inference_mode_finds_the_same_layers(resnet):
    expected = candidate_layers(resnet, "layer*", IMAGE)
    with torch.inference_mode():
        assert candidate_layers(resnet, "layer*", IMAGE) == expected


def test_a_layer_with_two_names_is_one_candidate_and_can_be_named_by_either():
    network, example = TwoScales(), torch.zeros(1, 1, 8, 8)
    network.thin = network.fine
    assert _names(candidate_layers(network, "*", example)) == ["fine", "coarse", "segment"]
    dummy = run_dummy_pass(network, example)
    for name in ("fine", "thin"):
        assert _names(find_layers(network, [name], dummy)) == [name]


def test_layers_of_signals_along_one_axis_give_maps_and_no_tokens():
    network = nn.Sequential(nn.Conv1d(1, 4, 3, padding=1), nn.Conv1d(4, 2, 2, stride=2))
    layers = candidate_layers(network, "*", torch.zeros(1, 1, 8))
    assert [(layer.name, layer.channels, layer.scale) for layer in layers] == [
        ("0", 4, (1.0,)),
        ("1", 2, (2.0,)),
    ]
