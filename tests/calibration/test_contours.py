"""Contours: distances against explicit dilation and erosion, empty cases, coverage."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt
from scipy.spatial.distance import cdist

from nnunetv2_le.calibration.contours import (
    BoundaryDistances,
    LabelMargins,
    boundary_distances,
    contours,
    fit_contours,
)
from nnunetv2_le.errors import InputError, SettingError
from nnunetv2_le.evaluation.overlap import label_boxes

SPACING = (2.0, 1.0, 0.5)


def blob(generator, centre, radius, shape=(9, 14, 20)):
    points = np.stack(np.indices(shape), axis=-1) * SPACING
    wobble = generator.normal(scale=0.4, size=shape)
    return np.linalg.norm(points - centre, axis=-1) + wobble < radius


def brute_force(reference, segmentation):
    """By all distances between voxels, those of a frame of outside voxels included."""
    padded = np.pad(segmentation, 1)
    index = [np.argwhere(mask) * SPACING for mask in (padded, ~padded)]
    inside, outside = index
    missed = np.argwhere(np.pad(reference, 1) & ~padded) * SPACING
    added = np.argwhere(padded & ~np.pad(reference, 1)) * SPACING
    outer = cdist(missed, inside).min(axis=1).max() if len(missed) else 0.0
    inner = cdist(added, outside).min(axis=1).max() if len(added) else 0.0
    return outer, inner


@pytest.mark.parametrize("seed", range(4))
def test_distances_equal_brute_force(seed):
    generator = np.random.default_rng(seed)
    reference = blob(generator, (8, 7, 5), 4.5)
    segmentation = blob(generator, (8.5, 6, 4), 4.0)
    found = boundary_distances(reference, segmentation, spacing_mm=SPACING)
    assert (found.outer_mm, found.inner_mm) == pytest.approx(brute_force(reference, segmentation))


@given(st.integers(0, 30))
def test_distances_in_the_box_of_a_label_are_those_of_the_volume(seed):
    generator = np.random.default_rng(seed)
    reference = blob(generator, (8, 7, 5), 4.5)
    segmentation = blob(generator, generator.uniform(5, 9, size=3), 4.0)
    (box,) = label_boxes([one.astype(np.int32) for one in (reference, segmentation)], [1])
    found, boxed = (
        boundary_distances(*pair, spacing_mm=SPACING, tolerated_share=0.1)
        for pair in ((reference, segmentation), (reference[box], segmentation[box]))
    )
    assert boxed == found


@given(st.integers(0, 30), st.sampled_from([0.0, 0.5, 1.0, 2.3, 100.0]))
def test_contours_are_those_of_distances_in_the_whole_volume(seed, mm):
    generator = np.random.default_rng(seed)
    segmentation = blob(generator, generator.uniform(3, 9, size=3), 4.0)
    depth = distance_transform_edt(np.pad(segmentation, 1), sampling=SPACING)[1:-1, 1:-1, 1:-1]
    inner, outer = contours(segmentation, LabelMargins(mm, mm), spacing_mm=SPACING)
    np.testing.assert_array_equal(inner, depth > mm + 1e-6)
    away = distance_transform_edt(~segmentation, sampling=SPACING)
    np.testing.assert_array_equal(outer, away <= mm + 1e-6)


@given(st.integers(0, 30))
def test_contours_with_a_cases_own_distances_just_hold_its_reference(seed):
    generator = np.random.default_rng(seed)
    reference = blob(generator, (8, 7, 5), 4.5)
    segmentation = blob(generator, generator.uniform(5, 9, size=3), 4.0)
    own = boundary_distances(reference, segmentation, spacing_mm=SPACING)
    inner, outer = contours(
        segmentation, LabelMargins(own.outer_mm, own.inner_mm), spacing_mm=SPACING
    )
    assert (inner <= reference).all()
    assert (reference <= outer).all()
    assert (inner <= segmentation).all()
    assert (segmentation <= outer).all()
    if own.outer_mm > 0:
        _, less = contours(segmentation, LabelMargins(own.outer_mm - 0.01, 0.0), spacing_mm=SPACING)
        assert not (reference <= less).all()
    if own.inner_mm > 0:
        more, _ = contours(segmentation, LabelMargins(0.0, own.inner_mm - 0.01), spacing_mm=SPACING)
        assert not (more <= reference).all()


@pytest.mark.parametrize("share", [0.01, 0.05, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_a_tolerated_share_of_voxels_may_stay_out(seed, share):
    generator = np.random.default_rng(seed)
    reference = blob(generator, (8, 7, 5), 4.5)
    segmentation = blob(generator, generator.uniform(5, 9, size=3), 4.0)
    own = boundary_distances(reference, segmentation, spacing_mm=SPACING, tolerated_share=share)

    def left_out(outer_mm, inner_mm):
        inner, outer = contours(segmentation, LabelMargins(outer_mm, inner_mm), spacing_mm=SPACING)
        return (reference & ~outer).sum() / reference.sum(), (
            inner & ~reference
        ).sum() / segmentation.sum()

    assert max(left_out(own.outer_mm, own.inner_mm)) <= share
    if own.outer_mm > 0:
        assert left_out(own.outer_mm - 0.01, 0.0)[0] > share
    if own.inner_mm > 0:
        assert left_out(0.0, own.inner_mm - 0.01)[1] > share


def test_a_slice_is_not_eroded_through_its_thickness():
    square = np.zeros((1, 11, 11), dtype=bool)
    square[0, 2:9, 2:9] = True
    inner, outer = contours(square, LabelMargins(1.0, 2.0), spacing_mm=(5.0, 1.0, 1.0))
    assert inner.sum() == 9
    assert outer.sum() == 49 + 4 * 7


def test_a_segmentation_one_voxel_thick_is_as_deep_as_one_voxel():
    one = (1.0, 1.0, 1.0)
    stray = np.zeros((8, 8, 8), dtype=bool)
    stray[6, 6, 6] = True
    plate = np.zeros((20, 20, 20), dtype=bool)
    plate[10, 3:18, 3:18] = True
    for segmentation in (stray, plate):
        empty = np.zeros_like(segmentation)
        assert boundary_distances(empty, segmentation, spacing_mm=one).inner_mm == 1.0


def test_distances_are_finite_in_an_image_of_a_single_voxel():
    voxel = np.ones((1, 1, 1), dtype=bool)
    assert boundary_distances(~voxel, voxel, spacing_mm=(1, 1, 1)) == BoundaryDistances(0.0, 0.0)
    inner, outer = contours(voxel, LabelMargins(0.0, 0.0), spacing_mm=(1, 1, 1))
    assert not inner.any()
    assert outer.all()


def test_where_the_reference_is_not_known_nothing_is_missed_or_added():
    segmentation = np.zeros((20, 20, 20), dtype=bool)
    segmentation[5:15, 5:15, 5:15] = True
    known = np.ones_like(segmentation)
    known[:, 10:] = False
    reference = segmentation & known
    one = (1.0, 1.0, 1.0)
    found = boundary_distances(reference, segmentation, spacing_mm=one, known=known)
    assert found == BoundaryDistances(0.0, 0.0)
    # what was added lies as deep as in the whole segmentation, ignored voxels included
    reference[9, 9, 9] = False
    found = boundary_distances(reference, segmentation, spacing_mm=one, known=known)
    assert found.inner_mm == 5.0
    # the share is one of the voxels that count: 500 of 1000
    share = {"spacing_mm": one, "known": known, "tolerated_share": 1 / 600}
    assert boundary_distances(reference, segmentation, **share).inner_mm == 5.0


def test_empty_cases():
    empty, full = np.zeros((4, 6, 6), dtype=bool), np.zeros((4, 6, 6), dtype=bool)
    full[1:3, 1:4, 1:4] = True
    one = (1.0, 1.0, 1.0)
    neither = boundary_distances(empty, empty, spacing_mm=one)
    assert np.isnan([neither.outer_mm, neither.inner_mm]).all()
    ignored = boundary_distances(full, full, spacing_mm=one, known=~full)
    assert np.isnan([ignored.outer_mm, ignored.inner_mm]).all()
    assert boundary_distances(full, empty, spacing_mm=one) == BoundaryDistances(math.inf, 0.0)
    assert boundary_distances(empty, full, spacing_mm=one) == BoundaryDistances(0.0, 1.0)
    assert boundary_distances(full, full, spacing_mm=one) == BoundaryDistances(0.0, 0.0)
    inner, outer = contours(empty, LabelMargins(3.0, 1.0), spacing_mm=one)
    assert not inner.any()
    assert not outer.any()
    inner, outer = contours(empty, LabelMargins(None, 1.0), spacing_mm=one)
    assert not inner.any()
    assert outer.all()


def test_margins_are_the_order_statistics_of_half_of_alpha():
    # 39 cases, alpha 0.1, half of it 0.05: the 38th of 39
    cases = [BoundaryDistances(float(n), 0.5 * n) for n in range(39)]
    margins = fit_contours({"a": cases}, alpha=0.1, groups=np.arange(39))
    assert margins.labels["a"] == LabelMargins(37.0, 18.5)
    missed = [BoundaryDistances(math.inf, 0.0)] * 3 + cases[3:]
    assert fit_contours({"a": missed}, alpha=0.1, groups=np.arange(39)).labels["a"].outer_mm is None


def test_a_rare_label_gets_margins_from_the_cases_that_have_it():
    neither, cases = (
        BoundaryDistances(math.nan, math.nan),
        [BoundaryDistances(float(n), 0.5 * n) for n in range(39)],
    )
    rare = [*[neither] * 61, *cases]
    assert fit_contours({"a": rare}, alpha=0.1, groups=np.arange(100)).labels["a"] == LabelMargins(
        37.0, 18.5
    )
    # 18 patients with the label are too few for 0.05, though there are 100
    rarer = [*[neither] * 82, *cases[:18]]
    none = fit_contours({"a": rarer}, alpha=0.1, groups=np.arange(100)).labels["a"]
    assert none == LabelMargins(None, None)
    square = np.ones((1, 6, 6), dtype=bool)
    square[:, 0] = False
    inner, outer = contours(square, none, spacing_mm=(1, 1, 1))
    assert not inner.any()
    assert outer.all()


def test_a_rare_label_is_covered_where_it_is():
    generator, held = np.random.default_rng(5), []
    neither = BoundaryDistances(math.nan, math.nan)
    for _ in range(400):
        has = generator.random(100) < 0.3
        distances = generator.gamma(2.0, size=(120, 2))
        cases = [
            BoundaryDistances(*map(float, row)) if there else neither
            for row, there in zip(distances[:100], has, strict=True)
        ]
        margins = fit_contours({"a": cases}, alpha=0.2, groups=np.arange(100)).labels["a"]
        within = (distances[100:, 0] <= margins.outer_mm) & (distances[100:, 1] <= margins.inner_mm)
        held.append(within.mean())
    assert np.mean(held) >= 0.8 - 3 * np.std(held) / np.sqrt(400)


def test_both_contours_hold_for_a_new_case():
    generator, held = np.random.default_rng(5), []
    for _ in range(400):
        distances = generator.gamma(2.0, size=(60, 2))
        cases = [BoundaryDistances(*map(float, row)) for row in distances]
        margins = fit_contours({"a": cases[:39]}, alpha=0.2, groups=np.arange(39)).labels["a"]
        within = (distances[39:, 0] <= margins.outer_mm) & (distances[39:, 1] <= margins.inner_mm)
        held.append(within.mean())
    assert np.mean(held) >= 0.8 - 3 * np.std(held) / np.sqrt(400)


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="one spacing an axis"):
        boundary_distances(np.ones((2, 2), bool), np.ones((2, 2), bool), spacing_mm=SPACING)
    with pytest.raises(SettingError, match=r"tolerated share from 0 to 1, got 5"):
        boundary_distances(
            np.ones((2, 2), bool), np.ones((2, 2), bool), spacing_mm=(1, 1), tolerated_share=5
        )
    mixed = [BoundaryDistances(0, 0, 0.1), *[BoundaryDistances(0, 0)] * 29]
    with pytest.raises(
        InputError, match=r"of one tolerated share are needed, got shares 0\.0, 0\.1"
    ):
        fit_contours({"a": mixed}, groups=np.arange(30))
    with pytest.raises(InputError, match="needs at least 19 labelled cases"):
        fit_contours({"a": [BoundaryDistances(0, 0)] * 10}, groups=np.arange(10))
    with pytest.raises(InputError, match="expected distances of 30 cases for a, got 10"):
        fit_contours({"a": [BoundaryDistances(0, 0)] * 10}, groups=np.arange(30))
