"""Softmax, sigmoid and sums against torch, and that position in memory changes no bit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nnunetv2_le.uncertainty.probabilities import mean_over, probabilities, sum_over


@pytest.mark.parametrize("has_regions", [False, True])
@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
def test_probabilities_equal_torch(has_regions, scale):
    logits = torch.randn(3, 5, 40, generator=torch.Generator().manual_seed(0)) * scale
    expected = torch.sigmoid(logits) if has_regions else torch.softmax(logits, 1)
    torch.testing.assert_close(probabilities(logits, has_regions=has_regions), expected)


@given(length=st.integers(1, 120), axis=st.integers(0, 2))
def test_sum_and_mean_equal_torch(length, axis):
    shape = [3, 4, 5]
    shape[axis] = length
    values = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(length))
    before = values.clone()
    torch.testing.assert_close(sum_over(values, axis), before.sum(axis))
    torch.testing.assert_close(mean_over(values, axis), before.mean(axis))
    assert torch.equal(values, before)


@given(
    channels=st.sampled_from([1, 2, 3, 16, 118]),
    start=st.integers(0, 40),
    length=st.integers(1, 100),
    has_regions=st.booleans(),
)
def test_a_voxels_value_does_not_depend_on_its_neighbours(channels, start, length, has_regions):
    logits = torch.randn(5, channels, 140, generator=torch.Generator().manual_seed(start)) * 4
    whole = probabilities(logits, has_regions=has_regions)
    piece = slice(start, start + length)
    part = probabilities(logits[..., piece].contiguous(), has_regions=has_regions)
    assert torch.equal(part, whole[..., piece])
    assert torch.equal(mean_over(part, 0), mean_over(whole, 0)[..., piece])
