"""Welch's t-test against SciPy, and the map that keeps what is not significant."""

import warnings

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from uncertainty.uncertainty_reference import make_members, softmax_or_sigmoid

from nnunetv2_le.uncertainty.t_test import (
    inseparable_classes_p_value,
    two_most_probable,
    welch_p_value,
)


def _probability(seed, members, channels, has_regions=False, scale=1.0):
    rng = np.random.default_rng(seed)
    logits = scale * (rng.normal(size=(1, channels, 60)) + rng.normal(size=(members, channels, 60)))
    return softmax_or_sigmoid(logits, has_regions)


def _scipy(one, other):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # about samples that hardly differ
        return scipy.stats.ttest_ind(one, other, axis=0, equal_var=False).pvalue


def _kept(p_value):
    return np.where(p_value >= 0.05, p_value, 0.0)


def _two_classes(probability):
    """Each voxel's samples of its two most probable classes, by sorting."""
    order = np.argsort(-probability.mean(axis=0), axis=0, kind="stable")
    voxels = np.arange(probability.shape[-1])
    return probability[:, order[0], voxels], probability[:, order[1], voxels]


@given(
    seed=st.integers(0, 10**6),
    members=st.integers(2, 9),
    channels=st.integers(2, 7),
    scale=st.sampled_from([0.1, 1.0, 5.0]),
)
def test_the_map_is_scipys_p_value_of_the_two_most_probable_classes(seed, members, channels, scale):
    probability = _probability(seed, members, channels, scale=scale)
    expected = _kept(_scipy(*_two_classes(probability)))
    mine = inseparable_classes_p_value(torch.from_numpy(probability))
    np.testing.assert_allclose(mine, expected, rtol=1e-9)


@given(seed=st.integers(0, 10**6), members=st.integers(2, 9), regions=st.integers(1, 5))
def test_regions_are_tested_against_their_complement_and_averaged(seed, members, regions):
    probability = _probability(seed, members, regions, has_regions=True)
    expected = _kept(_scipy(probability, 1 - probability)).mean(axis=0)
    mine = inseparable_classes_p_value(torch.from_numpy(probability), has_regions=True)
    np.testing.assert_allclose(mine, expected, rtol=1e-8)


def test_the_map_holds_both_kinds_of_voxels():
    mine = inseparable_classes_p_value(torch.from_numpy(_probability(0, 5, 3)))
    assert (mine == 0).any()
    assert (mine > 0).any()
    assert ((mine == 0) | (mine >= 0.05)).all()


@given(seed=st.integers(0, 10**6), samples=st.integers(2, 12))
def test_without_a_limit_every_p_value_equals_scipys(seed, samples):
    rng = np.random.default_rng(seed)
    one, other = rng.normal(size=(2, samples, 4, 5))
    other = other * 3 + 1
    mine = welch_p_value(torch.from_numpy(one), torch.from_numpy(other))
    np.testing.assert_allclose(mine, _scipy(one, other), rtol=1e-9)


def test_members_without_variance_are_separable_unless_their_classes_are_equal():
    equal = torch.full((4, 2, 1), 0.5)
    apart = torch.tensor([0.6, 0.4]).expand(4, 2)[..., None]
    both = torch.cat((equal, apart), dim=2)
    assert inseparable_classes_p_value(both).tolist() == [1.0, 0.0]
    assert inseparable_classes_p_value(both[:, :1], has_regions=True).tolist() == [1.0, 0.0]


def test_of_equally_probable_classes_the_lower_ones_are_tested():
    mean = torch.tensor([[0.2, 0.25], [0.4, 0.25], [0.4, 0.25], [0.0, 0.25]])
    first, second = two_most_probable(mean)
    assert (first.tolist(), second.tolist()) == ([1, 0], [2, 1])


@pytest.mark.parametrize("has_regions", [False, True])
@pytest.mark.parametrize("shape", [(5, 4, 6), (1, 7, 6)])
def test_the_accumulator_makes_the_maps_that_are_asked_for(has_regions, shape):
    members = make_members(
        3, channels=4, sizes=(4, 3), shape=shape, has_regions=has_regions, scale=1.0
    )
    names = ("heads_ttest", "mirrors_entropy", "mirrors_total_entropy")
    result = members.accumulate(maps=names)
    assert set(result.maps) - set(members.accumulate().maps) == set(names)
    p = softmax_or_sigmoid(members.logits.numpy(), has_regions).reshape(7, 4, -1)
    if has_regions:
        expected = _kept(_scipy(p[:4], 1 - p[:4])).mean(axis=0)
        entropies = _binary_entropy(p).mean(axis=1)
        of_mean = _binary_entropy(p[4:].mean(axis=0)).mean(axis=0)
    else:
        expected = _kept(_scipy(*_two_classes(p[:4])))
        entropies = scipy.stats.entropy(p, axis=1)
        of_mean = scipy.stats.entropy(p[4:].mean(axis=0), axis=0)
    sure = np.abs(expected - 0.05) > 1e-4  # float32 may fall on either side of the limit
    mine = result.maps["heads_ttest"].ravel()
    np.testing.assert_allclose(mine[sure], expected[sure], rtol=1e-3)
    total = result.maps["mirrors_total_entropy"].ravel()
    np.testing.assert_allclose(total, entropies[4:].sum(axis=0), rtol=1e-5)
    np.testing.assert_allclose(result.maps["mirrors_entropy"].ravel(), of_mean, rtol=1e-5)


def _binary_entropy(p):
    return -(p * np.log(p) + (1 - p) * np.log(1 - p))


@pytest.mark.parametrize("has_regions", [False, True])
def test_maps_on_demand_do_not_depend_on_slabs(has_regions):
    members = make_members(5, channels=3, has_regions=has_regions, scale=1.0)
    names = ("heads_ttest", "mirrors_ttest", "heads_total_entropy")
    whole, slabs = members.accumulate(maps=names), members.accumulate([1, 3, 1], maps=names)
    for name in names:
        np.testing.assert_array_equal(whole.maps[name], slabs.maps[name])
