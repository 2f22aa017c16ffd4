from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from nnunetv2_le.network.logits import mean_probability_logits, scale_gradient, upsample


def random_logits(*shape: int, seed: int = 0, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_mean_probability_logits_softmax_is_the_mean_softmax() -> None:
    heads = [random_logits(2, 3, 4, 5, seed=seed) for seed in range(4)]
    expected = torch.stack([torch.softmax(z, 1) for z in heads]).mean(0)
    fused = mean_probability_logits(heads, has_regions=False)
    torch.testing.assert_close(torch.softmax(fused, 1), expected)


def test_mean_probability_logits_of_classes_are_log_probabilities() -> None:
    fused = mean_probability_logits(
        [random_logits(1, 3, 4), random_logits(1, 3, 4, seed=1)], has_regions=False
    )
    torch.testing.assert_close(fused.exp().sum(1), torch.ones(1, 4))


def test_mean_probability_logits_sigmoid_is_the_mean_sigmoid() -> None:
    heads = [random_logits(2, 3, 4, 5, seed=seed) for seed in range(4)]
    expected = torch.stack([torch.sigmoid(z) for z in heads]).mean(0)
    fused = mean_probability_logits(heads, has_regions=True)
    torch.testing.assert_close(torch.sigmoid(fused), expected)


@pytest.mark.parametrize("has_regions", [False, True])
def test_mean_probability_logits_of_one_head_are_that_head(has_regions: bool) -> None:
    logits = random_logits(1, 2, 3).half()
    assert mean_probability_logits([logits], has_regions=has_regions) is logits


@pytest.mark.parametrize("has_regions", [False, True])
def test_mean_probability_logits_stay_finite_where_probabilities_round_to_one(
    has_regions: bool,
) -> None:
    certain = torch.tensor([[[200.0], [-200.0]]])
    fused = mean_probability_logits([certain, certain], has_regions=has_regions)
    assert torch.isfinite(fused).all()
    assert fused[0, 0, 0] > fused[0, 1, 0]


@given(st.integers(0, 2**16), st.booleans())
def test_mean_probability_logits_of_equal_heads_have_their_probability(
    seed: int, has_regions: bool
) -> None:
    logits = random_logits(1, 3, 4, seed=seed)
    fused = mean_probability_logits([logits] * 3, has_regions=has_regions)
    probability = torch.sigmoid if has_regions else torch.nn.Softmax(dim=1)
    torch.testing.assert_close(probability(fused), probability(logits))


@pytest.mark.parametrize("size", [(8,), (8, 6), (8, 6, 4)])
def test_upsample_keeps_constants_and_gives_the_size(size: tuple[int, ...]) -> None:
    coarse = torch.full((2, 3, *(n // 2 for n in size)), 1.5)
    torch.testing.assert_close(upsample(coarse, size), torch.full((2, 3, *size), 1.5))


def test_upsample_returns_the_same_tensor_at_the_same_size() -> None:
    logits = random_logits(1, 2, 4, 4)
    assert upsample(logits, (4, 4)) is logits


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_gradients_of_half_precision_are_summed_in_single_precision(
    half: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU interpolation sums them in the precision of its input."""
    precisions = []
    interpolate = F.interpolate

    def noted(logits: torch.Tensor, **settings: Any) -> torch.Tensor:
        precisions.append(logits.dtype)
        return interpolate(logits, **settings)

    monkeypatch.setattr(F, "interpolate", noted)
    coarse = random_logits(1, 2, 2, 2).to(half).requires_grad_()
    fine = upsample(coarse, (4, 4))
    fine.sum().backward()
    assert precisions == [torch.float32]
    assert fine.dtype == coarse.grad.dtype == half
    torch.testing.assert_close(coarse.grad, torch.full_like(coarse, 4))
    assert torch.equal(fine, upsample(coarse.detach(), (4, 4)))
    assert precisions[1:] == [half]  # a prediction needs no more memory


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_scale_gradient_keeps_values_to_the_bit_and_scales_the_gradient(share: float) -> None:
    features = random_logits(2, 3).requires_grad_()
    scaled = scale_gradient(features, share)
    assert torch.equal(scaled, features)
    (scaled.sum() + 0 * features.sum()).backward()
    torch.testing.assert_close(features.grad, torch.full((2, 3), share))


def test_probes_have_no_graph_to_the_trunk() -> None:
    assert not scale_gradient(random_logits(2, 3).requires_grad_(), 0.0).requires_grad


def test_scaled_gradients_leave_a_compiled_graph_in_one_piece(shapes_unchecked: None) -> None:
    """With graphs inside it many a torch refuses to split it for several GPUs (DDPOptimizer)."""
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    compiled = torch.compile(lambda x: 2 * scale_gradient(3 * x, 0.5), backend=backend)
    features = random_logits(2, 3).requires_grad_()
    compiled(features).sum().backward()
    torch.testing.assert_close(features.grad, torch.full((2, 3), 3.0))
    assert [list(graph.children()) for graph in graphs] == [[]]


def test_scale_gradient_of_one_passes_gradcheck() -> None:
    features = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: scale_gradient(x, 1.0) ** 2, (features,))
