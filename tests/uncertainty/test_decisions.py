"""Decisions against torch.argmax, counts against loops."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nnunetv2_le.types import Labels
from nnunetv2_le.uncertainty import decisions as module
from nnunetv2_le.uncertainty.decisions import (
    agreement,
    count_overlaps,
    decide,
    label_mask,
    label_masks,
    room_for_decisions,
)


@given(seed=st.integers(0, 10**6), channels=st.integers(2, 20), levels=st.integers(1, 5))
def test_classes_are_torch_argmax_and_ties_go_to_the_lowest(seed, channels, levels):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(levels, (3, channels, 50), generator=generator).float()
    decided = decide(logits, has_regions=False)
    assert decided.dtype == torch.uint8
    assert torch.equal(decided.long(), torch.from_numpy(logits.numpy().argmax(1)))


@pytest.mark.parametrize("channels", [256, 257, 300])
def test_many_classes_keep_their_numbers(channels):
    logits = torch.eye(channels)[None]
    decided = decide(logits, has_regions=False)
    assert decided[0].tolist() == list(range(channels))


def test_regions_are_logits_above_zero():
    logits = torch.tensor([[[-1.0, 0.0, 1e-6]]])
    assert decide(logits, has_regions=True).tolist() == [[[False, False, True]]]


@given(
    seed=st.integers(0, 10**6),
    members=st.integers(1, 5),
    labels=st.integers(1, 12),
    voxels=st.integers(1, 60),
    longest=st.sampled_from([7, 2**24]),
    has_regions=st.booleans(),
)
def test_counts_equal_loops(seed, members, labels, voxels, longest, has_regions):
    rng = np.random.default_rng(seed)
    if has_regions:
        masks = rng.random((members, labels, voxels)) < 0.5
        given_decisions = torch.from_numpy(masks)
    else:
        numbers = rng.integers(0, labels + 1, (members, voxels)).astype(np.uint8)
        masks = np.stack([numbers == c for c in range(1, labels + 1)], axis=1)
        given_decisions = torch.from_numpy(numbers)
        assert (label_masks(given_decisions[0], num_labels=labels).numpy() == masks[0]).all()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_COUNTED_VOXELS", longest)
        counts = count_overlaps(given_decisions, num_labels=labels).numpy()
    assert counts.dtype == np.int64
    for label in range(labels):
        for i in range(members):
            for j in range(members):
                expected = (masks[i, label] & masks[j, label]).sum()
                assert counts[label, i, j] == expected
    share = agreement(given_decisions, given_decisions[0]).numpy()
    alike = masks == masks[0] if has_regions else (numbers == numbers[0])[:, None]
    np.testing.assert_allclose(share, alike.mean(axis=(0, 1)), rtol=1e-6)


def test_counts_are_exact_beyond_float32():
    voxels = 2**24 + 3
    ones = torch.ones((1, voxels), dtype=torch.uint8)
    assert count_overlaps(ones, num_labels=1).item() == voxels


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_counts_are_exact_under_autocast(precision: torch.dtype):
    """Half precision counts to 2048 and ends at 65504; a GPU's prediction runs under autocast."""
    members = torch.arange(100_003).remainder(torch.tensor([[2], [3]])).to(torch.uint8)
    expected = count_overlaps(members, num_labels=2)
    with torch.autocast("cpu", dtype=precision):
        assert torch.equal(count_overlaps(members, num_labels=2), expected)
    assert expected[0].tolist() == [[50001, 16667], [16667, 33334]]


@pytest.mark.parametrize("has_regions", [False, True])
def test_the_mask_of_one_label_is_the_one_among_all_masks(has_regions):
    logits = torch.randn((1, 4, 60), generator=torch.Generator().manual_seed(0))
    decided = decide(logits, has_regions=has_regions)[0]
    number = 4 if has_regions else 3
    masks = label_masks(decided, num_labels=number)
    assert 0 < masks.sum() < masks.numel()
    for label in range(number):
        assert torch.equal(label_mask(decided, label), masks[label])


@pytest.mark.parametrize("has_regions", [False, True])
def test_room_for_decisions_takes_what_is_decided(has_regions):
    values = ((1, 2), (2,), (3,)) if has_regions else (1, 2, 3)
    labels = Labels(("a", "b", "c"), values, has_regions=has_regions, region_values=(1, 2, 3))
    decided = decide(torch.randn((2, labels.num_channels, 5)), has_regions=has_regions)
    room = room_for_decisions(labels, 2, 5)
    assert (room.shape, room.dtype) == (decided.shape, decided.dtype)
