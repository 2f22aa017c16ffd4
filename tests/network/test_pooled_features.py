from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo
from torch import nn

from nnunetv2_le.network.head_sources import DeepSupervisionHeads, HeadSource, head_source
from nnunetv2_le.network.layer_ensemble_unet import LayerEnsembleUNet
from nnunetv2_le.network.pooled_features import has_encoder_stages, pool

Make = Callable[..., Any]
ARCHITECTURES = ("plain", "residual_encoder", "residual")


def patch(dim: int = 2) -> torch.Tensor:
    return torch.randn((2, 1, *[16] * dim), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dim", [2, 3])
def test_features_are_the_mean_and_standard_deviation_over_space(dim: int) -> None:
    stages = [torch.randn(2, 3, *[8] * dim) + 1, torch.randn(2, 5, *[4] * dim)]
    axes = tuple(range(2, dim + 2))
    parts = [part for s in stages for part in (s.numpy().mean(axes), s.numpy().std(axes))]
    assert np.allclose(pool(stages).numpy(), np.concatenate(parts, axis=1), atol=1e-5)


def test_a_constant_map_has_standard_deviation_zero() -> None:
    assert torch.equal(pool([torch.full((1, 1, 9), 3.0)]), torch.tensor([[3.0, 0.0]]))


def test_half_precision_maps_are_summed_in_single_precision() -> None:
    stage = torch.rand(1, 2, 64, 64, 64)
    features = pool([stage.half()])
    assert features.dtype == torch.float32
    assert torch.allclose(features, pool([stage]), atol=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("encoder_heads", [True, False])
def test_layer_ensemble_and_stock_network_of_the_same_encoder_have_the_same_features(
    unet: Make, architecture: str, encoder_heads: bool
) -> None:
    ensemble = LayerEnsembleUNet(unet(architecture), encoder_heads=encoder_heads)
    sources = [
        head_source(ensemble, deep_supervision=True),
        head_source(unet(architecture), deep_supervision=True),
        head_source(unet(architecture, deep_supervision=False), deep_supervision=False),
    ]
    first, *others = [source(patch()).features for source in sources]
    assert first is not None
    assert first.shape == (2, 2 * (4 + 6 + 8))
    assert all(torch.equal(first, other) for other in others)
    assert torch.allclose(first, pool(unet(architecture).encoder(patch())))


def test_pooling_changes_no_head(unet: Make) -> None:
    stock = unet()
    heads = DeepSupervisionHeads(stock)(patch()).heads
    assert all(torch.equal(a, b) for a, b in zip(heads, stock(patch())[::-1][1:], strict=True))
    ensemble = LayerEnsembleUNet(unet())
    heads = head_source(ensemble, deep_supervision=True)(patch()).heads
    assert all(torch.equal(a, b) for a, b in zip(heads, ensemble.head_logits(patch()), strict=True))


def test_a_network_that_is_no_unet_of_nnunet_has_no_features(unet: Make) -> None:
    class Other(type(unet())):  # type: ignore[misc]
        def forward(self, images: torch.Tensor) -> Any:
            return super().forward(images * 2)

    source = HeadSource(nn.Conv2d(1, 3, 1))
    assert source(patch()).features is None
    assert source.has_features is False
    stranger = unet()
    stranger.__class__ = Other
    assert has_encoder_stages(stranger) is False
    assert head_source(stranger, deep_supervision=True)(patch()).features is None


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_heads_and_features_compile_as_one_graph(unet: Make, shapes_unchecked: None) -> None:
    source = head_source(LayerEnsembleUNet(unet()), deep_supervision=True).eval()
    torch._dynamo.reset()
    compiled = torch.compile(source, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(tuple(compiled(patch())), tuple(source(patch())))
