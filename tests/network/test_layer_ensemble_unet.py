import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._dynamo

from nnunetv2_le.network.layer_ensemble_unet import LayerEnsembleUNet
from nnunetv2_le.network.logits import upsample

ARCHITECTURES = ("plain", "residual_encoder", "residual")

Make = Callable[..., Any]


def patch(dim: int = 2) -> torch.Tensor:
    return torch.randn((2, 1, *[16] * dim), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("granularity", ["stage", "block"])
def test_the_last_head_of_a_stock_network_is_that_network_to_the_bit(
    unet: Make, architecture: str, granularity: Any
) -> None:
    stock = unet(architecture)
    ensemble = LayerEnsembleUNet(unet(architecture), granularity=granularity)
    unfilled = ensemble.load_state_dict(stock.state_dict(), strict=False)
    assert not unfilled.unexpected_keys
    assert all(key.startswith("extra_heads.seg_layers.") for key in unfilled.missing_keys)
    expected = stock(patch())
    assert torch.equal(ensemble(patch())[0], expected[0])
    own = [
        z
        for z, name in zip(ensemble.head_logits(patch()), ensemble.head_names, strict=True)
        if name in ("decoder_0", "decoder_0_block_1")
    ]
    assert torch.equal(own[0], expected[1])


def test_one_fused_head_gives_a_stock_predictor_the_stock_output_to_the_bit(unet: Make) -> None:
    stock = unet(deep_supervision=False)
    ensemble = LayerEnsembleUNet(stock, num_fused_heads=1, deep_supervision=False)
    assert torch.equal(ensemble(patch()), stock(patch()))


@pytest.mark.parametrize(
    ("granularity", "encoder_heads", "names"),
    [
        ("stage", True, "encoder_0 encoder_1 encoder_2 decoder_0 decoder_1"),
        ("stage", False, "decoder_0 decoder_1"),
        (
            "block",
            True,
            "encoder_0_block_0 encoder_0_block_1 encoder_1_block_0 encoder_1_block_1 "
            "encoder_2_block_0 encoder_2_block_1 decoder_0_block_0 decoder_0_block_1 "
            "decoder_1_block_0 decoder_1_block_1",
        ),
        (
            "block",
            False,
            "decoder_0_block_0 decoder_0_block_1 decoder_1_block_0 decoder_1_block_1",
        ),
    ],
)
def test_heads_are_named_from_shallow_to_deep(
    unet: Make, granularity: Any, encoder_heads: bool, names: str
) -> None:
    ensemble = LayerEnsembleUNet(unet(), granularity=granularity, encoder_heads=encoder_heads)
    assert ensemble.head_names == tuple(names.split())
    assert len(ensemble.head_logits(patch())) == len(ensemble.head_names)


@pytest.mark.parametrize("dim", [2, 3])
def test_training_output_is_every_head_at_full_resolution_finest_first(
    unet: Make, dim: int
) -> None:
    ensemble = LayerEnsembleUNet(unet(dim=dim))
    outputs = ensemble(patch(dim))
    coarse = ensemble.head_logits(patch(dim))
    assert len(outputs) == 5
    for output, logits in zip(outputs, reversed(coarse), strict=True):
        torch.testing.assert_close(output, upsample(logits, [16] * dim))


@pytest.mark.parametrize("num_fused", [1, 2, 3])
@pytest.mark.parametrize("has_regions", [False, True])
def test_prediction_output_has_the_mean_probability_of_the_last_heads(
    unet: Make, num_fused: int, has_regions: bool
) -> None:
    ensemble = LayerEnsembleUNet(unet(), num_fused_heads=num_fused)
    ensemble.has_regions = has_regions
    probability = torch.sigmoid if has_regions else torch.nn.Softmax(dim=1)
    expected = torch.stack([probability(z) for z in ensemble(patch())[:num_fused]]).mean(0)
    ensemble.deep_supervision = False
    torch.testing.assert_close(probability(ensemble(patch())), expected)


def test_head_logits_from_a_head_on_are_the_last_of_all(unet: Make) -> None:
    ensemble = LayerEnsembleUNet(unet())
    for few, all_of_them in zip(
        ensemble.head_logits(patch(), first=3), ensemble.head_logits(patch())[3:], strict=True
    ):
        assert torch.equal(few, all_of_them)


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_encoder_heads_send_their_share_of_gradient_into_the_trunk(
    unet: Make, share: float
) -> None:
    def gradients(scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(3)
        ensemble = LayerEnsembleUNet(unet(), encoder_gradient=scale).double()
        ensemble.head_logits(patch().double())[1].square().sum().backward()
        trunk = next(ensemble.encoder.parameters()).grad
        trunk = torch.zeros(1, dtype=torch.float64) if trunk is None else trunk
        return trunk, ensemble.extra_heads.seg_layers[1].weight.grad

    (trunk, head), (full_trunk, full_head) = gradients(share), gradients(1.0)
    torch.testing.assert_close(trunk.expand_as(full_trunk), share * full_trunk)
    assert torch.equal(head, full_head)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_decoder_heads_before_the_last_send_their_share_and_the_last_sends_all(
    unet: Make, share: float
) -> None:
    def gradients(scale: float) -> list[torch.Tensor]:
        trunk_gradients = []
        for head in (-2, -1):
            torch.manual_seed(3)
            ensemble = LayerEnsembleUNet(unet(), decoder_gradient=scale).double()
            ensemble.head_logits(patch().double())[head].square().sum().backward()
            trunk = next(ensemble.encoder.parameters())
            trunk_gradients.append(torch.zeros_like(trunk) if trunk.grad is None else trunk.grad)
        return trunk_gradients

    (before_last, last), (full_before_last, full_last) = gradients(share), gradients(1.0)
    torch.testing.assert_close(before_last, share * full_before_last)
    assert torch.equal(last, full_last)


@pytest.mark.parametrize("granularity", ["stage", "block"])
def test_every_parameter_learns(unet: Make, granularity: Any) -> None:
    ensemble = LayerEnsembleUNet(unet(), granularity=granularity, encoder_gradient=0.2)
    sum(z.square().sum() for z in ensemble(patch())).backward()
    without = [name for name, p in ensemble.named_parameters() if p.grad is None]
    assert not without


@pytest.mark.parametrize("has_regions", [False, True])
def test_regions_survive_the_checkpoint(unet: Make, has_regions: bool) -> None:
    trained = LayerEnsembleUNet(unet())
    trained.has_regions = has_regions
    file = io.BytesIO()
    torch.save(trained.state_dict(), file)
    file.seek(0)
    restored = LayerEnsembleUNet(unet())
    restored.has_regions = not has_regions
    restored.load_state_dict(torch.load(file, weights_only=True))
    assert restored.has_regions is has_regions


def test_names_of_all_parameters_beyond_stock_are_skipped_by_nnunets_loader(unet: Make) -> None:
    stock = set(unet().state_dict())
    for granularity in ("stage", "block"):
        own = set(LayerEnsembleUNet(unet(), granularity=granularity).state_dict())
        assert stock <= own
        assert all(".seg_layers." in name for name in own - stock)


def test_more_fused_heads_than_heads_are_all_heads(unet: Make) -> None:
    ensemble = LayerEnsembleUNet(unet(), encoder_heads=False, num_fused_heads=9)
    assert ensemble.num_fused_heads == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("granularity", "architecture"), [("stage", "plain"), ("block", "residual_encoder")]
)
def test_forward_and_backward_compile_as_one_graph(
    unet: Make, shapes_unchecked: None, granularity: Any, architecture: str
) -> None:
    ensemble = LayerEnsembleUNet(unet(architecture), granularity=granularity, encoder_gradient=0.2)
    ensemble = ensemble.double()
    images = patch().double()
    torch._dynamo.reset()
    compiled = torch.compile(ensemble, backend="aot_eager", fullgraph=True)
    outputs = compiled(images)
    torch.testing.assert_close(outputs, ensemble(images))
    sum(z.square().sum() for z in outputs).backward()
    compiled_gradient = next(ensemble.encoder.parameters()).grad.clone()
    ensemble.zero_grad()
    sum(z.square().sum() for z in ensemble(images)).backward()
    torch.testing.assert_close(next(ensemble.encoder.parameters()).grad, compiled_gradient)
    ensemble.deep_supervision = False  # nnU-Net switches after compiling
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), ensemble(images))


@pytest.mark.parametrize("deep_supervision", [False, True])
def test_bfloat16_autocast_gives_finite_logits(unet: Make, deep_supervision: bool) -> None:
    ensemble = LayerEnsembleUNet(unet(), deep_supervision=deep_supervision)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = ensemble(patch())
    for logits in outputs if deep_supervision else [outputs]:
        assert torch.isfinite(logits).all()
