"""Aggregations against loops over voxels."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunetv2_le.uncertainty import aggregation
from nnunetv2_le.uncertainty.aggregation import (
    AGGREGATIONS,
    MapSums,
    MaskRegions,
    bounding_box,
    patch_max,
)


def _rings(mask):
    """Outer and inner ring by looking at each voxel's six neighbours."""
    outer, inner = np.zeros_like(mask), np.zeros_like(mask)
    for index in np.ndindex(mask.shape):
        for axis, step in itertools.product(range(3), (-1, 1)):
            other = list(index)
            other[axis] += step
            if 0 <= other[axis] < mask.shape[axis] and mask[tuple(other)] != mask[index]:
                (inner if mask[index] else outer)[index] = True
    return outer, inner


def _touching(mask):
    """Outside voxels with a mask voxel among their 26 neighbours."""
    spans = [[slice(max(0, i - 1), i + 2) for i in index] for index in np.ndindex(mask.shape)]
    near = np.array([mask[tuple(span)].any() for span in spans]).reshape(mask.shape)
    return near & ~mask


def _patches(values, edge):
    spans = [min(edge, length) for length in values.shape]
    starts = [range(length - span + 1) for length, span in zip(values.shape, spans, strict=True)]
    return [
        values[tuple(slice(s, s + n) for s, n in zip(corner, spans, strict=True))].mean()
        for corner in itertools.product(*starts)
    ]


def _mean(values):
    return values.mean() if values.size else math.nan


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    shape=st.tuples(st.integers(1, 6), st.integers(1, 13), st.integers(1, 12)),
    share=st.sampled_from([0.0, 0.02, 0.3, 0.9, 1.0]),
)
def test_aggregations_equal_loops_over_voxels(seed, shape, share):
    rng = np.random.default_rng(seed)
    values, mask = rng.random(shape).astype(np.float32), rng.random(shape) < share
    (outer, inner), touching = _rings(mask), _touching(mask)
    exact = values.astype(np.float64)
    expected = {
        "foreground_mean": _mean(exact[mask]),
        "image_mean": exact.mean(),
        "boundary_mean": _mean(exact[outer | inner]),
        "non_boundary_mean": _mean(exact[~(outer | inner)]),
        "patch_max": max(_patches(exact, 10)),
        "boundary_ratio": 100 * exact.sum() / touching.sum() if touching.any() else math.nan,
    }
    mine = MapSums(values).aggregate(MaskRegions(mask))
    assert tuple(mine) == AGGREGATIONS
    assert mine == pytest.approx(expected, rel=1e-9, nan_ok=True)


def test_boundary_ratio_of_a_slice_is_that_of_a_dilation_by_3_x_3():
    mask = np.zeros((1, 9, 9), dtype=bool)
    mask[0, 3:6, 3:6] = True  # a ring of 16 pixels, corners included
    values = np.full(mask.shape, 0.5, dtype=np.float32)
    ratio = MapSums(values).aggregate(MaskRegions(mask))["boundary_ratio"]
    assert ratio == pytest.approx(100 * 81 * 0.5 / 16)


def test_without_foreground_only_image_scores_are_defined():
    values = np.full((3, 12, 12), 0.5, dtype=np.float32)
    scores = MapSums(values).aggregate(MaskRegions(np.zeros(values.shape, dtype=bool)))
    defined = {"image_mean", "non_boundary_mean", "patch_max"}
    assert {name for name, value in scores.items() if not math.isnan(value)} == defined


def test_the_edge_of_the_image_is_no_boundary():
    full = MaskRegions(np.ones((2, 3, 4), dtype=bool))
    assert (full.num_mask, full.num_ring) == (24, 0)


def test_a_patch_at_the_border_does_not_see_a_mirrored_image():
    values = np.zeros((1, 30, 30), dtype=np.float32)
    values[0, 0, 0] = 1.0
    assert patch_max(values) == pytest.approx(0.01)


@pytest.mark.parametrize("corner", [0, 7, 20])
def test_the_worst_patch_is_found_wherever_it_lies(corner):
    values = np.zeros((30, 30, 30), dtype=np.float32)
    values[corner : corner + 10, 20:30, 3:13] = 1.0
    assert patch_max(values) == pytest.approx(1.0)


@pytest.mark.parametrize("voxels", [1, 7 * 8 * 3, 7 * 8 * 11])
@pytest.mark.parametrize("depth", [1, 9, 10, 11, 25])
def test_the_worst_patch_does_not_depend_on_how_a_map_is_cut(voxels, depth, monkeypatch):
    values = np.random.default_rng(depth).random((depth, 7, 8))
    whole = patch_max(values)
    monkeypatch.setattr(aggregation, "_PIECE_VOXELS", voxels)
    assert patch_max(values) == pytest.approx(whole, rel=1e-12)


def test_bounding_box_of_one_voxel_and_of_none():
    mask = np.zeros((4, 5, 6), dtype=bool)
    assert mask[bounding_box(mask, margin=1)].size == 0
    mask[0, 2, 5] = True
    assert bounding_box(mask) == (slice(0, 1), slice(2, 3), slice(5, 6))
    assert bounding_box(mask, margin=1) == (slice(0, 2), slice(1, 4), slice(4, 6))
    assert bounding_box(mask, margin=(0, 1, 3)) == (slice(0, 1), slice(1, 4), slice(2, 6))
    assert bounding_box(mask[0]) == (slice(2, 3), slice(5, 6))


@pytest.mark.parametrize("rows_a_piece", [1, 2, 3, 7])
def test_the_worst_patch_is_found_wherever_pieces_meet(rows_a_piece, monkeypatch):
    monkeypatch.setattr(aggregation, "_PIECE_VOXELS", 4 * rows_a_piece)
    for first in range(16):
        values = np.zeros((25, 2, 2))
        values[first : first + 10] = 1
        assert patch_max(values) == 1
        values[first] = 0  # at the end of the image too, no shorter patch counts
        assert patch_max(values) == pytest.approx(0.9)
