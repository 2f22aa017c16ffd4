"""Voxel maps against SciPy and against loops in float64."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from uncertainty.uncertainty_reference import naive_entropy, softmax_or_sigmoid

from nnunetv2_le.uncertainty.voxel_maps import (
    entropy_nats,
    expected_entropy_nats,
    mutual_information_nats,
    total_entropy_nats,
    variance,
)


def _probability(seed, members, channels, has_regions, scale=4.0):
    logits = np.random.default_rng(seed).normal(size=(members, channels, 7)) * scale
    return softmax_or_sigmoid(logits, has_regions)


def test_entropy_of_uniform_classes_is_ln_classes():
    for classes in (2, 3, 118):
        uniform = torch.full((classes, 2, 2), 1 / classes)
        assert entropy_nats(uniform).numpy() == pytest.approx(math.log(classes), rel=1e-6)


def test_entropy_of_certainty_is_zero():
    certain = torch.tensor([[1.0], [0.0], [0.0]])
    assert entropy_nats(certain).item() == 0.0
    assert entropy_nats(torch.tensor([[1.0], [0.0]]), has_regions=True).item() == 0.0


def test_entropy_of_an_even_region_is_ln_2():
    assert entropy_nats(torch.full((3, 1), 0.5), has_regions=True).item() == pytest.approx(
        math.log(2)
    )


@pytest.mark.parametrize("classes", [2, 3, 20, 118])
def test_entropy_equals_scipy(classes):
    probability = _probability(classes, 1, classes, False)[0]
    expected = scipy.stats.entropy(probability, axis=0)
    np.testing.assert_allclose(
        entropy_nats(torch.from_numpy(probability)), expected, rtol=1e-12, atol=1e-12
    )
    single = entropy_nats(torch.from_numpy(probability.astype(np.float32)))
    np.testing.assert_allclose(single, expected, rtol=1e-5, atol=1e-6)


def test_region_entropy_equals_scipys_binary_entropy():
    probability = _probability(0, 1, 4, True)[0]
    binary = scipy.stats.entropy(np.stack((probability, 1 - probability)), axis=0)
    np.testing.assert_allclose(
        entropy_nats(torch.from_numpy(probability), has_regions=True),
        binary.mean(axis=0),
        rtol=1e-10,
    )


@given(
    seed=st.integers(0, 10**6),
    members=st.integers(1, 6),
    channels=st.integers(2, 5),
    has_regions=st.booleans(),
    scale=st.sampled_from([0.0, 1.0, 30.0, 300.0]),
)
def test_maps_equal_loops_over_voxels(seed, members, channels, has_regions, scale):
    probability = _probability(seed, members, channels, has_regions, min(scale, 100.0))
    mean = probability.mean(axis=0)
    expected = np.mean([naive_entropy(p, has_regions) for p in probability], axis=0)
    information = naive_entropy(mean, has_regions) - expected
    p = torch.from_numpy(probability)
    close = {"rtol": 1e-9, "atol": 1e-12}
    np.testing.assert_allclose(expected_entropy_nats(p, has_regions=has_regions), expected, **close)
    total = total_entropy_nats(p, has_regions=has_regions)
    np.testing.assert_allclose(total, members * expected, rtol=1e-9, atol=1e-11)
    mine = mutual_information_nats(p, has_regions=has_regions)
    np.testing.assert_allclose(mine, information, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(variance(p), probability.var(axis=0).mean(axis=0), **close)


@given(
    seed=st.integers(0, 10**6),
    members=st.integers(1, 9),
    channels=st.integers(2, 9),
    has_regions=st.booleans(),
)
def test_mutual_information_lies_between_zero_and_its_bound(seed, members, channels, has_regions):
    p = torch.from_numpy(_probability(seed, members, channels, has_regions, 20.0)).float()
    information = mutual_information_nats(p, has_regions=has_regions)
    bound = math.log(2) if has_regions else math.log(min(members, channels))
    assert (information >= 0).all()
    assert (information <= bound + 1e-6).all()


@pytest.mark.parametrize("has_regions", [False, True])
def test_disagreement_is_zero_when_members_agree(has_regions):
    one = torch.from_numpy(_probability(1, 1, 3, has_regions)).float()
    same = one.expand(5, -1, -1)
    assert mutual_information_nats(same, has_regions=has_regions).max() < 1e-6
    assert variance(same).max() < 1e-12


def test_two_certain_members_that_disagree_have_information_ln_2_and_variance():
    p = torch.tensor([[[1.0], [0.0]], [[0.0], [1.0]]])
    assert mutual_information_nats(p).item() == pytest.approx(math.log(2))
    assert variance(p).item() == pytest.approx(0.25)


@pytest.mark.parametrize(
    "measure", [expected_entropy_nats, total_entropy_nats, mutual_information_nats]
)
def test_unless_said_otherwise_channels_are_classes(measure):
    members = torch.tensor([[[0.7], [0.2], [0.1]], [[0.1], [0.3], [0.6]]])
    assert torch.equal(measure(members), measure(members, has_regions=False))
    assert not torch.equal(measure(members), measure(members, has_regions=True))
