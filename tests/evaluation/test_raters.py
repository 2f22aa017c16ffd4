"""Raters: closed forms, brute force over all pairs, SciPy."""

import numpy as np
import pytest
from scipy.stats import entropy
from sklearn.metrics import jaccard_score

from nnunetv2_le.errors import InputError
from nnunetv2_le.evaluation.raters import (
    consensus,
    generalized_energy_distance,
    rater_disagreement,
)


def random_maps(seed, count):
    return list(np.random.default_rng(seed).integers(0, 3, (count, 6, 7)).astype(np.int32))


def test_energy_distance_equals_brute_force_over_all_pairs():
    members, raters = random_maps(0, 3), random_maps(1, 4)

    def distance(one, other):
        return np.mean(
            [1 - jaccard_score((one == c).ravel(), (other == c).ravel()) for c in (1, 2)]
        )

    def mean(first, second):
        return np.mean([distance(a, b) for a in first for b in second])

    result = generalized_energy_distance(members, raters, labels=(1, 2))
    assert result.member_rater == pytest.approx(mean(members, raters))
    assert result.member_diversity == pytest.approx(mean(members, members))
    assert result.rater_diversity == pytest.approx(mean(raters, raters))
    assert result.squared == pytest.approx(
        2 * mean(members, raters) - mean(members, members) - mean(raters, raters)
    )


def test_energy_distance_is_zero_when_members_are_the_raters():
    raters = random_maps(2, 4)
    assert generalized_energy_distance(raters, raters, labels=(1, 2)).squared == pytest.approx(0)


def test_two_empty_segmentations_are_at_distance_zero():
    empty = np.zeros((3, 3), np.int32)
    assert generalized_energy_distance([empty], [empty], labels=(1,)).squared == 0


def test_empty_against_full_is_at_distance_one():
    empty, full = np.zeros((3, 3), np.int32), np.ones((3, 3), np.int32)
    assert generalized_energy_distance([empty], [full], labels=(1,)).member_rater == 1


def test_disagreement_is_the_entropy_of_the_votes():
    raters = random_maps(3, 5)
    votes = np.stack([np.mean([r == c for r in raters], axis=0) for c in range(3)])
    assert rater_disagreement(raters) == pytest.approx(entropy(votes, axis=0))


def test_disagreement_is_zero_when_raters_agree():
    assert not rater_disagreement([np.ones((2, 2), np.int32)] * 3).any()


def test_consensus_of_one_label_is_at_least_half_of_the_raters():
    raters = [np.array([int(i < votes) for votes in range(5)], np.int32) for i in range(4)]
    assert consensus(raters).tolist() == [0, 0, 1, 1, 1]


def test_consensus_ties_go_to_the_smaller_foreground_label():
    assert consensus([np.array([2], np.int32), np.array([1], np.int32)]).tolist() == [1]


def test_consensus_has_the_most_votes_and_of_equal_ones_the_first():
    raters = list(np.random.default_rng(0).integers(0, 4, size=(6, 5, 40)))
    order = [1, 2, 3, 0]
    votes = np.stack([np.sum([rater == value for rater in raters], axis=0) for value in order])
    np.testing.assert_array_equal(consensus(raters), np.array(order)[votes.argmax(axis=0)])


def test_no_rater_is_refused():
    with pytest.raises(InputError, match="at least one member and one rater"):
        generalized_energy_distance(random_maps(0, 1), [], labels=(1,))
    with pytest.raises(InputError, match="at least one rater is needed"):
        rater_disagreement([])
