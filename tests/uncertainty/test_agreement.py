"""Agreement against scikit-learn, closed forms, and the both-empty rule."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from sklearn.metrics import f1_score
from uncertainty.uncertainty_reference import (
    make_members,
    naive_dice,
    naive_masks,
    random_members,
)

from nnunetv2_le.errors import SettingError
from nnunetv2_le.types import OverlapCounts
from nnunetv2_le.uncertainty.agreement import (
    aula,
    aula_normalized,
    consensus_dice,
    dice_matrix,
    layer_agreement,
    pairwise_dice,
)


def _counts(pairs, with_fused=None, fused=None):
    pairs = np.asarray(pairs, dtype=np.int64)
    labels, members = pairs.shape[:2]
    with_fused = np.zeros((labels, members)) if with_fused is None else np.asarray(with_fused)
    fused = np.zeros(labels) if fused is None else np.asarray(fused)
    return OverlapCounts(pairs, with_fused.astype(np.int64), fused.astype(np.int64))


@settings(max_examples=40)
@given(options=random_members())
def test_scores_equal_loops_over_masks(options: dict):
    members = make_members(**options)
    result = members.accumulate()
    plan, counts = members.plan, result.counts
    masks = naive_masks(members.logits.numpy(), members.labels.has_regions)
    for family in plan.families:
        numbers = plan.numbers(family)
        for label in range(len(members.labels.names)):
            own = [masks[n, label] for n in numbers]
            fused = [naive_dice(mask, result.fused_masks[label]) for mask in own]
            assert consensus_dice(counts, numbers)[label] == pytest.approx(np.mean(fused))
            if len(own) < 2:
                assert np.isnan(pairwise_dice(counts, numbers)[label])
                continue
            pairs = [naive_dice(a, b) for a, b in itertools.combinations(own, 2)]
            assert pairwise_dice(counts, numbers)[label] == pytest.approx(np.mean(pairs))
            curve = [naive_dice(a, b) for a, b in itertools.pairwise(own)]
            np.testing.assert_allclose(layer_agreement(counts, numbers)[label], curve)


def test_dice_matrix_equals_scikit_learn():
    members = make_members(0, sizes=(4,), channels=4, shape=(6, 6, 6))
    matrix = dice_matrix(members.accumulate().counts, [2, 0, 3])
    masks = naive_masks(members.logits.numpy(), False)
    for label, i, j in itertools.product(range(3), range(3), range(3)):
        a, b = masks[[2, 0, 3][i], label].ravel(), masks[[2, 0, 3][j], label].ravel()
        assert matrix[label, i, j] == pytest.approx(f1_score(a, b))


def test_two_empty_masks_agree_and_an_empty_one_agrees_with_no_other():
    counts = _counts([[[0, 0, 0], [0, 0, 0], [0, 0, 5]]])
    np.testing.assert_array_equal(
        dice_matrix(counts, [0, 1, 2])[0], [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    )
    np.testing.assert_array_equal(layer_agreement(counts, [0, 1, 2]), [[1, 0]])


def test_aula_of_perfect_agreement_is_the_number_of_agreements_minus_one():
    ones = np.ones((2, 9))  # the paper's ten heads
    np.testing.assert_array_equal(aula(ones), [8, 8])
    np.testing.assert_array_equal(aula_normalized(ones), [1, 1])


def test_aula_is_the_trapezoid_integral():
    curve = np.array([0.2, 0.4, 1.0])
    assert float(aula(curve)) == pytest.approx(0.3 + 0.7)
    assert float(aula_normalized(curve)) == pytest.approx(0.5)


def test_one_agreement_has_no_area_but_a_height():
    curve = np.array([[0.25], [0.75]])
    assert np.isnan(aula(curve)).all()
    np.testing.assert_array_equal(aula_normalized(curve), [0.25, 0.75])
    assert float(aula_normalized(curve[0])) == 0.25


def test_no_agreement_has_neither():
    assert np.isnan(aula(np.empty((2, 0)))).all()
    assert np.isnan(aula_normalized(np.empty((2, 0)))).all()


def test_skipped_heads_are_the_shallow_ones():
    counts = make_members(1, sizes=(5,)).accumulate().counts
    whole = layer_agreement(counts, range(5))
    np.testing.assert_array_equal(layer_agreement(counts, range(5), 2), whole[:, 2:])


@pytest.mark.parametrize("skip", [-1, 2, 9])
def test_too_few_heads_left_is_an_error(skip):
    counts = make_members(1, sizes=(3,)).accumulate().counts
    with pytest.raises(SettingError, match=f"skip 0 to 1 of 3 heads, got skip_heads={skip}"):
        layer_agreement(counts, range(3), skip)


def test_consensus_of_nobody_is_undefined():
    assert np.isnan(consensus_dice(_counts(np.zeros((1, 1, 1))), [])).all()


def test_consensus_of_two_members_with_one_of_them():
    counts = _counts([[[4, 2], [2, 4]]], with_fused=[[4, 2]], fused=[4])
    assert consensus_dice(counts, [0, 1])[0] == pytest.approx(0.75)
    assert pairwise_dice(counts, [0, 1])[0] == pytest.approx(0.5)


@pytest.mark.parametrize("agreements", [1, 2, 3, 9])
def test_the_height_of_a_level_curve_is_its_level_whatever_its_length(agreements):
    curve = np.full((2, agreements), 0.375)
    np.testing.assert_allclose(aula_normalized(curve), 0.375)
