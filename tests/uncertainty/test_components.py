"""Connected components against SciPy."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from uncertainty.uncertainty_reference import make_members

from nnunetv2_le.uncertainty import components as components_module
from nnunetv2_le.uncertainty.columns import describe_component_columns
from nnunetv2_le.uncertainty.components import component_scores


def _components(members, volume=0.5):
    result = members.accumulate()
    return result, component_scores(
        result, plan=members.plan, labels=members.labels, voxel_volume_ml=volume
    )


@pytest.mark.parametrize("voxels", [1, 200, 2**20])
@pytest.mark.parametrize("shape", [(1, 12, 12), (8, 9, 10)])
def test_components_equal_scipys(shape, voxels, monkeypatch):
    monkeypatch.setattr(components_module, "_PIECE_VOXELS", voxels)  # how maps are summed up
    members = make_members(0, channels=4, shape=shape)
    result, components = _components(members)
    for label, name in enumerate(members.labels.names):
        numbers, count = ndimage.label(result.fused_masks[label], np.ones((3, 3, 3)))
        mine = [c for c in components if c.label == name]
        assert [c.component for c in mine] == list(range(1, count + 1))
        sizes = sorted(np.bincount(numbers.ravel())[1:], reverse=True)
        assert [c.volume_ml for c in mine] == pytest.approx([0.5 * size for size in sizes])
        centres = ndimage.center_of_mass(numbers > 0, numbers, range(1, count + 1))
        np.testing.assert_allclose(sorted(c.centre_voxels for c in mine), sorted(centres))
        entropy = ndimage.mean(result.maps["entropy"], numbers, range(1, count + 1))
        assert sorted(c.scores["entropy_mean"] for c in mine) == pytest.approx(sorted(entropy))


def test_agreement_of_a_component_is_the_share_of_members_that_give_it_the_label():
    members = make_members(1, sizes=(3, 2), shape=(1, 8, 8))
    result, components = _components(members)
    labels = members.logits.numpy().argmax(axis=1)
    numbers, _ = ndimage.label(result.fused_masks[0], np.ones((3, 3, 3)))
    largest = 1 + int(np.argmax(np.bincount(numbers.ravel())[1:]))
    heads = (labels[:3] == 1).mean(axis=0)[numbers == largest].mean()
    assert components[0].scores["heads_agreement"] == pytest.approx(heads)
    assert set(components[0].scores) == {"entropy_mean", "heads_agreement", "mirrors_agreement"}
    assert list(components[0].scores) == list(describe_component_columns(members.plan))[-3:]


def test_an_empty_segmentation_has_no_components():
    members = make_members(2)
    members.logits[:, 0] = 100.0
    assert _components(members)[1] == ()


@pytest.mark.parametrize("length", [3, 5, 9, 30])
def test_single_voxels_in_a_row_are_components(length):
    members = make_members(3, channels=2, shape=(1, 1, length), dtype=torch.float32)
    members.logits[:, 1, 0, 0] = 100.0 * (torch.arange(length) % 2 == 0)
    members.logits[:, 0] = 50.0
    _, components = _components(members)
    assert [c.centre_voxels for c in components] == [(0, 0, i) for i in range(0, length, 2)]


def test_of_very_many_components_the_largest_are_kept(monkeypatch):
    members = make_members(0, channels=5, shape=(1, 20, 20))
    _, everyone = _components(members)
    monkeypatch.setattr(components_module, "MAX_COMPONENTS", 2)
    _, largest = _components(members)
    assert largest == tuple(c for c in everyone if c.component <= 2)
    assert len(largest) < len(everyone)
