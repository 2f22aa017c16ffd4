"""Fusion rules against hand-made votes and SimpleITK."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from uncertainty.uncertainty_reference import (
    Members,
    make_labels,
    make_members,
    make_plan,
    naive_masks,
)

from nnunetv2_le.uncertainty import whole_volume
from nnunetv2_le.uncertainty.fusion import fuse, staple_logits
from nnunetv2_le.uncertainty.probabilities import probabilities


def _fuse(logits, rule, *, has_regions=False):
    p = probabilities(logits, has_regions=has_regions)
    return fuse(logits, p, rule=rule, has_regions=has_regions)


def test_mean_of_regions_keeps_probabilities_near_one():
    logits = torch.tensor([[[20.0]], [[30.0]]])
    expected = np.log(2 / (np.exp(-20.0) + np.exp(-30.0)))
    assert _fuse(logits, "mean", has_regions=True).logits.item() == pytest.approx(expected)


def test_mean_of_classes_is_the_log_of_the_mean_softmax():
    logits = torch.randn(4, 3, 50, generator=torch.Generator().manual_seed(0)) * 5
    expected = torch.softmax(logits.double(), 1).mean(0).log().float()
    torch.testing.assert_close(_fuse(logits, "mean").logits, expected)


def test_majority_gives_the_log_share_of_votes():
    logits = torch.tensor([[0.3, 0.0, -9.0], [0.2, 0.0, -9.0], [0.0, 9.0, 0.0]])[:, :, None]
    fused = _fuse(logits, "majority")
    np.testing.assert_allclose(fused.probability[:, 0], [2 / 3, 1 / 3, 0])
    np.testing.assert_allclose(fused.logits[:2, 0], np.log([2 / 3, 1 / 3]), rtol=1e-5)
    assert torch.isfinite(fused.logits).all()
    assert fused.decisions.item() == 0  # the mean probability alone says 1
    assert _fuse(logits, "mean").decisions.item() == 1


@pytest.mark.parametrize("rule", ["mean", "majority", "last", "nnunet"])
@pytest.mark.parametrize("has_regions", [False, True])
def test_one_member_is_its_own_fusion_bit_for_bit(rule, has_regions):
    logits = torch.randn(1, 3, 50, generator=torch.Generator().manual_seed(0))
    fused = _fuse(logits, rule, has_regions=has_regions)
    assert torch.equal(fused.logits, logits[0])
    assert torch.equal(fused.probability, probabilities(logits, has_regions=has_regions)[0])


def test_a_tied_vote_goes_to_the_higher_mean_probability():
    logits = torch.tensor([[1.0, 0.0, -9.0], [-9.0, 0.0, 4.0]])[:, :, None]
    fused = _fuse(logits, "majority")
    assert fused.decisions.item() == 2
    assert fused.logits[:, 0].half().argmax().item() == 2
    regions = torch.tensor([[[4.0, -4.0]], [[-1.0, 1.0]]])
    fused = _fuse(regions, "majority", has_regions=True)
    assert fused.decisions.tolist() == [[True, False]]
    assert (fused.logits.half() > 0).tolist() == [[True, False]]


@pytest.mark.parametrize("has_regions", [False, True])
def test_majority_equals_counted_votes(has_regions):
    members = make_members(1, sizes=(5,), fused=(0, 1, 2, 3, 4), has_regions=has_regions)
    result = members.accumulate(fusion="majority")
    votes = naive_masks(members.logits.numpy(), has_regions).sum(axis=0)
    if has_regions:
        np.testing.assert_array_equal(result.fused_masks, votes > 2)
        return
    every = np.concatenate(([5 - votes.sum(axis=0)], votes))
    ordered = np.sort(every, axis=0)
    clear = ordered[-1] > ordered[-2]
    expected = np.stack([every.argmax(axis=0) == c for c in (1, 2)])
    np.testing.assert_array_equal(result.fused_masks[:, clear], expected[:, clear])


@pytest.mark.parametrize("has_regions", [False, True])
def test_staple_of_one_label_is_simpleitks(has_regions):
    channels = 1 if has_regions else 2
    members = make_members(
        2,
        channels=channels,
        sizes=(3, 1),
        fused=(0, 1, 2),
        shape=(6, 8, 8),
        has_regions=has_regions,
    )
    masks = naive_masks(members.logits.numpy(), has_regions)[:3, 0]
    images = [sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in masks]
    estimate = sitk.GetArrayFromImage(sitk.STAPLE(images, 1.0))
    result = members.accumulate(fusion="staple")
    np.testing.assert_array_equal(result.fused_masks[0], estimate > 0.5)
    assert result.counts.fused[0] == (estimate > 0.5).sum()
    share = (naive_masks(members.logits.numpy(), has_regions)[:3, 0] == (estimate > 0.5)).mean(0)
    np.testing.assert_allclose(result.maps["heads_agreement"], share, rtol=1e-6)


def test_staple_of_empty_members_is_empty():
    masks = np.zeros((3, 4, 4, 4), dtype=bool)
    assert not (staple_logits(masks) > 0).any()
    masks[:, 1:3, 1:3, 1:3] = True
    np.testing.assert_array_equal(staple_logits(masks) > 0, masks[0])


def test_staple_makes_masks_of_one_label_at_a_time(monkeypatch: pytest.MonkeyPatch):
    members = make_members(3, channels=6, sizes=(3,), fused=(0, 1, 2))
    shapes = []

    def note(masks):
        shapes.append(masks.shape)
        return staple_logits(masks)

    monkeypatch.setattr(whole_volume, "staple_logits", note)
    members.accumulate(fusion="staple")
    assert shapes == [(3, 5, 4, 6)] * 5


def test_staple_through_the_accumulator_when_nothing_is_found():
    logits = torch.zeros(3, 3, 2, 4, 4)
    logits[:, 0] = 5.0
    empty = Members(make_plan([3], (0, 1, 2)), make_labels(3), logits)
    result = empty.accumulate(fusion="staple")
    assert not result.fused_masks.any()
    assert np.isfinite(result.fused_logits).all()


def test_staple_is_no_voxelwise_rule():
    logits = torch.zeros(1, 2, 1)
    with pytest.raises(ValueError, match="expected a voxelwise rule"):
        fuse(logits, logits, rule="staple", has_regions=False)
