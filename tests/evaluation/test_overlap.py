"""Overlap: closed forms, scikit-learn, and nnU-Net's own counts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from nnunetv2.evaluation.evaluate_predictions import compute_tp_fp_fn_tn, region_or_label_to_mask
from sklearn.metrics import f1_score, jaccard_score

from nnunetv2_le.errors import InputError
from nnunetv2_le.evaluation.overlap import (
    confusion,
    joint_histogram,
    label_boxes,
    label_map,
    label_mask,
)
from nnunetv2_le.evaluation.surface_distance import surface_distances

LABEL_MAPS = arrays(np.int32, (2, 3, 4), elements=st.integers(0, 4))


@given(LABEL_MAPS, LABEL_MAPS, st.sampled_from([1, 2, (1, 2), (2, 3)]), st.sampled_from([None, 4]))
def test_counts_equal_those_of_nnunet(reference, prediction, label, ignore_label):
    ignored = None if ignore_label is None else reference == ignore_label
    expected = compute_tp_fp_fn_tn(
        region_or_label_to_mask(reference, label),
        region_or_label_to_mask(prediction, label),
        ignored,
    )
    counts = confusion(joint_histogram(reference, prediction), label, ignore_label=ignore_label)
    assert (counts.tp, counts.fp, counts.fn, counts.tn) == expected


@given(LABEL_MAPS, LABEL_MAPS)
def test_dice_and_iou_equal_scikit_learn(reference, prediction):
    counts = confusion(joint_histogram(reference, prediction), 1)
    one, other = (reference == 1).ravel(), (prediction == 1).ravel()
    if not (one | other).any():
        assert np.isnan(counts.dice)
        assert np.isnan(counts.iou)
        return
    assert counts.dice == pytest.approx(f1_score(one, other, zero_division=0))
    assert counts.iou == pytest.approx(jaccard_score(one, other, zero_division=0))


def test_dice_closed_form():
    reference, prediction = np.array([1, 1, 1, 0]), np.array([0, 1, 1, 1])
    counts = confusion(joint_histogram(reference, prediction), 1)
    assert (counts.dice, counts.iou) == (4 / 6, 2 / 4)
    assert (counts.num_reference, counts.num_prediction) == (3, 3)


def test_empty_prediction_of_a_full_reference_has_dice_zero():
    assert confusion(joint_histogram(np.array([1, 0]), np.array([0, 0])), 1).dice == 0


def test_large_and_negative_label_values_are_counted():
    reference, prediction = np.array([-2, 100_000, 0]), np.array([-2, 100_000, 100_000])
    histogram = joint_histogram(reference, prediction)
    assert confusion(histogram, 100_000).tp == 1
    assert histogram.unknown_values((0, 100_000)) == {-2: 1}


def test_unknown_values_are_counted_on_either_side():
    histogram = joint_histogram(np.array([0, 7, 1, 7]), np.array([0, 7, 9, 1]))
    assert histogram.unknown_values((0, 1)) == {7: 2, 9: 1}


@given(LABEL_MAPS, LABEL_MAPS, st.sampled_from([1, 4, 9, (1, 2), (0, 3)]))
def test_a_box_holds_all_that_distances_depend_on(reference, prediction, label):
    (box,) = label_boxes([reference, prediction], [label])
    whole, boxed = (
        surface_distances(*(label_mask(one, label) for one in pair), spacing_mm=(3.0, 1.0, 0.8))
        for pair in ((reference, prediction), (reference[box], prediction[box]))
    )
    np.testing.assert_array_equal(list(vars(boxed).values()), list(vars(whole).values()))


def test_a_box_is_thin_only_where_the_image_is():
    labels = np.zeros((1, 5, 6), dtype=np.int32)
    labels[0, 2, 3] = 1
    nothing = slice(0, 0)
    assert label_boxes([labels], [1, 2]) == [
        (slice(0, 1), slice(1, 4), slice(2, 5)),
        (nothing, nothing, nothing),
    ]


def test_shapes_must_agree():
    with pytest.raises(InputError, match=r"one shape, got \(2,\) and \(3,\)"):
        joint_histogram(np.zeros(2, int), np.zeros(3, int))


def test_fractions_and_nan_are_no_labels():
    with pytest.raises(InputError, match="got 2 voxels with NaN or fractions"):
        label_map(np.array([0.0, np.nan, 1.5]))


def test_whole_floats_are_labels():
    assert label_map(np.array([0.0, 2.0], dtype=np.float32)).tolist() == [0, 2]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_an_image_is_no_label_map(dtype):
    with pytest.raises(InputError, match="at most 1024 different values, got 60000; is it an ima"):
        label_map(np.arange(60000).astype(dtype))
    few = (np.arange(60000) % 300 * 200).astype(dtype)
    assert len(np.unique(label_map(few))) == 300


def test_a_joint_histogram_of_images_is_refused():
    with pytest.raises(InputError, match="at most 2048 different values, got 60000"):
        joint_histogram(np.arange(60000), np.zeros(60000, int))


def test_images_without_a_voxel_are_refused():
    with pytest.raises(InputError, match="hold no voxel"):
        joint_histogram(np.zeros((0, 3), np.int32), np.zeros((0, 3), np.int32))
