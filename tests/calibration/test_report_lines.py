"""The report in words: the curve of workloads, and what its figures count."""

import re

import numpy as np
import pytest

from nnunetv2_le.calibration.calibration_file import Calibration, Identity
from nnunetv2_le.calibration.contours import ContourMargins, LabelMargins
from nnunetv2_le.calibration.dice_models import IsotonicModel
from nnunetv2_le.calibration.flag import FlagRule, WorkloadPoint, fit_flag
from nnunetv2_le.calibration.held_out import HeldOutFigures
from nnunetv2_le.calibration.predicted_dice import PredictedDice
from nnunetv2_le.calibration.prediction_sets import PredictionSets
from nnunetv2_le.calibration.report_lines import report_lines, workload_lines

NAMED = ("dataset", "trainer", "plans", "configuration", "checkpoint")
LISTED = ("folds", "families", "heads", "fused", "labels")


@pytest.mark.parametrize(("num_groups", "is_said"), [(40, False), (10, True)])
def test_what_counts_equally_is_said_where_patients_have_several_cases(
    num_groups: int, is_said: bool
) -> None:
    identity = Identity(**dict.fromkeys(NAMED, "x"), **dict.fromkeys(LISTED, ("x",)), checksums={})
    first = report_lines(Calibration(identity, 40, num_groups), HeldOutFigures())[0]
    assert f"40 labelled cases, {num_groups} patients" in first
    assert "held out of every fit but" in first
    assert ("Patients count equally" in first) == is_said


def test_margins_of_a_hundred_labels_are_not_all_listed() -> None:
    identity = Identity(**dict.fromkeys(NAMED, "x"), **dict.fromkeys(LISTED, ("x",)), checksums={})
    labels = {f"label_{number}": LabelMargins(None, 1.0) for number in range(104)}
    margins = ContourMargins(labels, 0.1, num_cases=40, num_groups=40, tolerated_share=0.0)
    lines = report_lines(Calibration(identity, 40, 40, contours=margins), HeldOutFigures())
    (line,) = [line for line in lines if line.startswith("Contours")]
    assert line.endswith("label_7 1.0 mm inside, no bound outside and 96 more.")


def test_no_promise_is_rounded_to_another_one() -> None:
    identity = Identity(**dict.fromkeys(NAMED, "x"), **dict.fromkeys(LISTED, ("x",)), checksums={})
    margins = {"a": LabelMargins(2.0, 1.0)}
    made = Calibration(
        *(identity, 400, 400),
        predicted_dice=PredictedDice(
            IsotonicModel("soft_dice", (0.0,), (0.0,), 0.0), (), 0.995, 0.1, 0.2, 400, 400, 0
        ),
        flag=FlagRule("predicted_dice", True, 0.7, 0.8, 0.0125, 0.3, 0.2, 400, 400, ()),
        prediction_sets=PredictionSets(0.1, 0.004, 0.2, 400, 400),
        contours=ContourMargins(margins, 0.025, 400, 400, tolerated_share=0.0005),
    )
    text = "\n".join(report_lines(made, HeldOutFigures()))
    promised = re.findall(r"promised (?:at most )?([\d.]+%)", text)
    assert promised == ["99.5%", "1.25%", "99.6%", "97.5%"]
    assert "0.05% of voxels left out" in text


def test_the_curve_is_shown_from_end_to_end() -> None:
    for number in (1, 2, 8, 9, 57):
        curve = [WorkloadPoint((n + 1) / 100, 0.5, 1 - n / 100) for n in range(number)]
        lines = workload_lines(curve)
        assert len(lines) <= 9
        assert "-alpha 0.010: 100%" in lines[0]
        assert f"-alpha {number / 100:.3f}" in lines[-1]
        assert len(set(lines)) == len(lines)


def test_an_alpha_of_the_curve_costs_what_is_said_of_it() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(60)
    dice = scores + rng.normal(scale=0.2, size=60)
    settings = {"tolerance": 0.5, "groups": np.arange(60)}
    for line in workload_lines(fit_flag(scores, dice, alpha=0.1, **settings).curve):
        alpha, workload = re.fullmatch(r"  -alpha ([\d.]+): (\d+%) of .*", line).groups()
        again = fit_flag(scores, dice, alpha=float(alpha), **settings)
        assert f"{again.workload:.0%}" == workload
