"""Outliers: scikit-learn, leaving patients out by brute force, the share of false alarms."""

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import NearestNeighbors

from nnunetv2_le.calibration.out_of_distribution import OutOfDistribution, require_enough_known
from nnunetv2_le.errors import InputError


def made_up(generator, number, features=12, *, mixing_seed=0):
    mixing = np.random.default_rng(mixing_seed).normal(size=(features, features))
    return generator.normal(size=(number, features)) @ mixing + 5.0


@pytest.mark.parametrize("features", [6, 12, 90], ids=["few", "some", "more than cases"])
def test_mahalanobis_is_that_of_scikit_learns_shrunken_covariance(features):
    generator = np.random.default_rng(0)
    known, new = made_up(generator, 40, features), made_up(generator, 5, features)
    mean, scale = known.mean(axis=0), known.std(axis=0)
    reference = LedoitWolf(assume_centered=True).fit((known - mean) / scale)
    expected = np.sqrt(reference.mahalanobis((new - mean) / scale))
    fitted = OutOfDistribution(known)
    found = [fitted.score(row).mahalanobis for row in new]
    assert found == pytest.approx(expected, rel=1e-6)


def test_nearest_is_that_of_scikit_learn():
    generator = np.random.default_rng(1)
    known, new = made_up(generator, 40), made_up(generator, 5)
    mean, scale = known.mean(axis=0), known.std(axis=0)
    reference = NearestNeighbors(n_neighbors=3).fit((known - mean) / scale)
    expected = reference.kneighbors((new - mean) / scale)[0].mean(axis=1)
    fitted = OutOfDistribution(known, neighbours=3)
    assert [fitted.score(row).nearest for row in new] == pytest.approx(expected)


@pytest.mark.parametrize("features", [6, 60])
def test_known_cases_are_measured_without_their_patient(features):
    generator = np.random.default_rng(2)
    groups = np.repeat(np.arange(15), [1, 2, 3] * 5)
    table = made_up(generator, 30, features)
    fitted = OutOfDistribution(table, groups=groups, neighbours=4)
    table = (table - table.mean(axis=0)) / table.std(axis=0)
    shrinkage = LedoitWolf(assume_centered=True).fit(table).shrinkage_
    mahalanobis, nearest = [], []
    for case in range(30):
        others = table[groups != groups[case]]
        covariance = (1 - shrinkage) * np.cov(others.T, bias=True)
        covariance += shrinkage * np.square(table).mean() * np.eye(features)
        away = table[case] - others.mean(axis=0)
        mahalanobis.append(np.sqrt(away @ np.linalg.solve(covariance, away)))
        nearest.append(np.sort(np.linalg.norm(others - table[case], axis=1))[:4].mean())
    assert fitted.known_mahalanobis == pytest.approx(mahalanobis, rel=1e-8)
    assert fitted.known_nearest == pytest.approx(nearest)


def test_of_new_cases_like_the_known_ones_about_alpha_is_flagged():
    generator, shares = np.random.default_rng(3), []
    for _ in range(60):
        fitted = OutOfDistribution(made_up(generator, 50, 8))
        quantiles = [fitted.score(row).quantile for row in made_up(generator, 50, 8)]
        shares.append(np.mean(np.array(quantiles) >= 0.9))
    assert np.mean(shares) <= 0.1 + 3 * np.std(shares) / np.sqrt(60)
    assert np.mean(shares) >= 0.05


def test_a_known_patient_counts_once_however_many_cases_it_has():
    generator = np.random.default_rng(7)
    sizes = np.array([1, 2, 3] * 5)
    groups, table = np.repeat(np.arange(15), sizes), made_up(generator, 30)
    fitted = OutOfDistribution(table, groups=groups)
    weights = 1 / sizes[groups]

    def rank(mahalanobis, nearest):
        shares = (fitted.known_mahalanobis < mahalanobis, fitted.known_nearest < nearest)
        return round(max(weights[nearer].sum() for nearer in shares), 9)

    known = np.array(
        [rank(*pair) for pair in zip(fitted.known_mahalanobis, fitted.known_nearest, strict=True)]
    )
    for row in [*made_up(generator, 10), np.full(12, 500.0)]:
        found = fitted.score(row)
        expected = weights[known < rank(found.mahalanobis, found.nearest)].sum() / 16
        assert found.quantile == pytest.approx(expected, abs=1e-9)
    # the last row lies beyond all: nothing can be flagged at 0.05, whatever the number of cases
    assert found.quantile == pytest.approx(15 / 16)
    with pytest.raises(InputError, match=r"at alpha 0\.05 needs at least 19 .* got 15"):
        require_enough_known(15, 0.05)


def test_a_case_beyond_all_of_just_enough_patients_is_flagged():
    table = made_up(np.random.default_rng(8), 57)
    far = OutOfDistribution(table, groups=np.arange(57) % 19).score(np.full(12, 500.0))
    assert far.quantile >= 1 - 0.05  # 19 / 20, though thirds do not sum to 19 exactly


def test_a_case_far_out_is_further_than_all_known_ones():
    fitted = OutOfDistribution(made_up(np.random.default_rng(4), 50))
    assert fitted.score(np.full(12, 500.0)).quantile == pytest.approx(50 / 51)
    assert fitted.score(np.full(12, 5.0)).quantile < 0.5


def test_each_distance_alone_can_call_an_outlier():
    # far from the centre along a direction that known cases never take: Mahalanobis sees it; in the
    # hole of a ring, as near the centre as can be: neighbours see it
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    fitted = OutOfDistribution(ring + np.random.default_rng(0).normal(scale=0.02, size=ring.shape))
    hole = fitted.score(np.zeros(2))
    assert hole.mahalanobis < fitted.known_mahalanobis.min()
    assert hole.quantile >= 0.95


def test_constant_features_are_left_out():
    table = made_up(np.random.default_rng(5), 40)
    padded = np.insert(table, 3, 7.0, axis=1)
    fitted, expected = OutOfDistribution(padded), OutOfDistribution(table)
    assert fitted.known_mahalanobis == pytest.approx(expected.known_mahalanobis)
    new = np.insert(np.full(12, 4.0), 3, 7.0)
    assert fitted.score(new).nearest == pytest.approx(expected.score(np.full(12, 4.0)).nearest)


def test_what_cannot_be_used_is_refused():
    table = made_up(np.random.default_rng(6), 20)
    with pytest.raises(InputError, match="at least 10 known patients, got 9"):
        OutOfDistribution(table[:9])
    with pytest.raises(InputError, match="at least 10 known patients, got 2"):
        OutOfDistribution(table, groups=np.arange(20) % 2)
    with pytest.raises(InputError, match="must be finite, got 1 "):
        OutOfDistribution(np.where(np.arange(240).reshape(20, 12) == 7, np.nan, table))
    with pytest.raises(InputError, match="all 12 features are the same in all 20"):
        OutOfDistribution(np.ones((20, 12)))
    with pytest.raises(InputError, match="expected 12 finite features, got shape"):
        OutOfDistribution(table).score(np.zeros(11))
    with pytest.raises(InputError, match=r"out of distribution at alpha 0\.01 needs"):
        require_enough_known(20, 0.01)
