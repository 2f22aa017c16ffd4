"""Quality control: closed forms and brute force over orders of tied cases."""

from itertools import permutations

import numpy as np
import pytest

from nnunetv2_le.evaluation.quality_control import quality_control_curve


def test_perfect_score_follows_the_ideal_line():
    poor = np.array([True, False, True, False, False])
    curve = quality_control_curve(poor, np.array([0.1, 0.9, 0.2, 0.8, 0.7]))
    assert curve.remaining == pytest.approx([0.4, 0.2, 0, 0, 0, 0])
    assert curve.ideal == pytest.approx(curve.remaining)
    assert curve.area == pytest.approx(0.4**2 / 2)
    assert curve.random_area == pytest.approx(0.4 / 2)
    assert curve.flagged_to_reach(0.2) == pytest.approx(0.2)
    assert curve.flagged_to_reach() == pytest.approx(0.4)


def test_constant_score_is_random():
    poor = np.array([True, False, True, False])
    curve = quality_control_curve(poor, np.zeros(4))
    assert curve.remaining == pytest.approx(curve.random)


def test_ties_equal_the_mean_over_all_orders():
    poor, confidences = np.array([1, 0, 1, 0, 1], bool), np.array([1.0, 1, 1, 2, 2])
    curves = []
    for order in permutations(range(5)):
        if all(confidences[list(order)][i] <= confidences[list(order)][i + 1] for i in range(4)):
            left = [poor[list(order)][k:].sum() / 5 for k in range(6)]
            curves.append(left)
    assert quality_control_curve(poor, confidences).remaining == pytest.approx(
        np.mean(curves, axis=0)
    )


def test_without_poor_cases_nothing_remains():
    curve = quality_control_curve(np.zeros(3, bool), np.arange(3.0))
    assert (curve.area, curve.poor_fraction, curve.flagged_to_reach()) == (0, 0, 0)
