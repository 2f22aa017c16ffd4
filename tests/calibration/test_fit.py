"""Predicted Dice and the flag from one table."""

import numpy as np
import pytest
from calibration.made_up_cases import made_up_cases

from nnunetv2_le.calibration.cases import CalibrationCases, LabelCases
from nnunetv2_le.calibration.fit import fit_decisions
from nnunetv2_le.calibration.predicted_dice import fit_predicted_dice
from nnunetv2_le.errors import InputError


def test_the_flag_is_fitted_on_predictions_of_held_out_cases():
    cases = made_up_cases(60)
    fitted = fit_decisions(cases, tolerance=0.75, alpha=0.1)
    held_out = fit_predicted_dice(cases.case, groups=np.arange(60)).held_out
    assert fitted.flag.score == "predicted_dice"
    assert fitted.flag.threshold in held_out
    assert fitted.flag.workload == pytest.approx(np.mean(held_out < fitted.flag.threshold))
    assert set(fitted.predicted_dice_labels) == {"anterior", "posterior"}
    assert fitted.problems == {}


@pytest.mark.parametrize("score", ["consensus_dice", "entropy_image_mean"])
def test_any_score_can_flag_in_its_own_direction(score):
    cases = made_up_cases(60)
    rule = fit_decisions(cases, tolerance=0.75, alpha=0.1, flag_score=score).flag
    flagged = rule.flags(cases.case.scores[score])
    assert rule.higher_is_better == (score == "consensus_dice")
    assert rule.workload == pytest.approx(flagged.mean())
    missed = (cases.case.dice < 0.75) & ~flagged
    assert (missed.sum() + 1) / 61 <= 0.1


def test_a_rare_label_is_reported_and_spoils_nothing():
    cases = made_up_cases(40)
    rare = cases.labels["anterior"]
    dice = np.where(np.arange(40) < 4, rare.dice, np.nan)
    labels = {**cases.labels, "anterior": LabelCases(rare.scores, dice)}
    fitted = fit_decisions(
        CalibrationCases(cases.cases, cases.case, labels=labels), tolerance=0.75, alpha=0.1
    )
    assert list(fitted.predicted_dice_labels) == ["posterior"]
    assert "at least 10 labelled patients" in fitted.problems["anterior"]


def test_an_unknown_score_is_refused_by_name():
    with pytest.raises(InputError, match=r"score of the flag to be one of aula, .*, got 'beauty'"):
        fit_decisions(made_up_cases(40), tolerance=0.75, flag_score="beauty")
