"""What the figures of an evaluation are asked to show: which scores, cases, thresholds, regions."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from evaluation.made_up_predictions import make

from nnunetv2_le.evaluation.confidence_tables import Score
from nnunetv2_le.evaluation.evaluate import Evaluation, evaluate_prediction
from nnunetv2_le.evaluation.method import MethodSettings
from nnunetv2_le.report import evaluation_figures as module

GOOD = Score("consensus_dice", "higher_is_better")
BAD = Score("entropy_foreground_mean", "higher_is_worse")
REGIONS = {"background": 0, "whole": [1, 2], "core": 2}


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    made = make(tmp_path_factory.mktemp("made"), num_cases=4, probabilities=True)
    settings = MethodSettings(num_draws=0)
    return evaluate_prediction(made.out, [made.references], method=settings)


def drawn(draw: Any) -> Any:
    """The figures that are asked for; none of them is drawn."""
    calls = mock.Mock()
    calls.save.side_effect = lambda _, folder, name: [folder / name]
    with mock.patch.multiple(
        module,
        save_figure=calls.save,
        risk_coverage_figure=calls.risk,
        quality_control_figure=calls.quality,
        reliability_figure=calls.reliability,
        scatter_figure=calls.scatter,
    ):
        calls.files = draw()
    return calls


def test_curves_are_of_risks_and_of_scores_turned_so_that_higher_is_better(
    evaluation: Evaluation,
) -> None:
    calls = drawn(
        lambda: module.evaluation_figures(
            evaluation, Path("f"), scores=[GOOD, BAD], dice_thresholds=[0.0, 0.8, 0.9]
        )
    )
    dice = evaluation.cases["dice"].to_numpy()
    (risks,) = calls.risk.call_args.args
    assert list(risks) == [GOOD.name, BAD.name]
    for score, sign in ((GOOD, 1), (BAD, -1)):
        risk, confidence = risks[score.name]
        np.testing.assert_allclose(risk, 1 - dice)
        np.testing.assert_allclose(confidence, sign * evaluation.cases[score.name])
    informative = [t for t in (0.0, 0.8, 0.9) if 0 < (dice < t).sum() < 4]
    assert [call.kwargs["dice_threshold"] for call in calls.quality.call_args_list] == informative
    names = ["risk_coverage", *(f"quality_control_dice_{t:g}" for t in informative)]
    names += [f"scatter_{GOOD.name}", f"scatter_{BAD.name}", "reliability"]
    assert calls.files == [Path("f") / name for name in names]


def test_scatters_have_scores_as_written_cases_and_domains(evaluation: Evaluation) -> None:
    cases = evaluation.cases.assign(site=list("aabb"), dice_given=list("cddc"))
    scored = replace(evaluation, cases=cases, calibration=None)
    # a column of the user's may be called like one of ours
    for column, domains in ((None, None), ("site", list("aabb")), ("dice", list("cddc"))):
        calls = drawn(
            lambda column=column: module.evaluation_figures(
                scored, Path("f"), scores=[BAD], dice_thresholds=[], domain_column=column
            )
        )
        scores, dice = calls.scatter.call_args.args
        np.testing.assert_array_equal(scores, cases[BAD.name])
        np.testing.assert_array_equal(dice, cases["dice"])
        assert calls.scatter.call_args.kwargs == {
            "score_name": BAD.name,
            "domains": domains,
            "cases": list(cases.index),
        }
        calls.reliability.assert_not_called()


def test_a_case_without_dice_or_score_is_in_no_curve() -> None:
    cases = pd.DataFrame({"dice": [0.1, np.nan, 0.3], "consensus_dice": [0.5, 0.6, np.nan]})
    pair = module.dice_and_confidences(cases, GOOD)
    assert pair is not None
    assert [part.tolist() for part in pair] == [[0.1], [0.5]]
    assert module.dice_and_confidences(cases[1:], GOOD) is None


def test_reliability_has_a_dashed_curve_of_the_image_and_one_of_the_region(
    evaluation: Evaluation,
) -> None:
    calls = drawn(lambda: module.reliability_figures({"": evaluation}, Path("f")))
    (bins,) = calls.reliability.call_args.args
    assert list(bins) == ["image", "region of interest"]
    assert evaluation.calibration is not None
    for found, histogram in zip(bins.values(), evaluation.calibration, strict=True):
        np.testing.assert_array_equal(found.counts, histogram.reliability().counts)
    assert bins["image"].counts.sum() > bins["region of interest"].counts.sum()
    assert calls.reliability.call_args.kwargs == {"dashed": ["image"]}


def test_a_method_without_probabilities_has_no_reliability(evaluation: Evaluation) -> None:
    without = replace(evaluation, calibration=None)
    calls = drawn(lambda: module.reliability_figures({"A": without, "B": evaluation}, Path("f")))
    assert list(calls.reliability.call_args.args[0]) == ["B image", "B region of interest"]
    assert drawn(lambda: module.reliability_figures({"A": without}, Path("f"))).files == []


def test_each_region_has_curves_of_its_own(tmp_path: Path) -> None:
    made = make(tmp_path, num_cases=2, labels=REGIONS)
    rng = np.random.default_rng(0)
    for case in made.cases:
        chances = rng.random((2, 8, 14, 12)).astype(np.float32)
        np.savez_compressed(made.out / f"{case}.npz", probabilities=chances)
    settings = MethodSettings(num_draws=0)
    evaluation = evaluate_prediction(made.out, [made.references], method=settings)
    calls = drawn(lambda: module.reliability_figures({"A": evaluation}, Path("f")))
    (bins,) = calls.reliability.call_args.args
    places = ("image", "region of interest")
    assert list(bins) == [f"A {place} {name}" for place in places for name in ("whole", "core")]
    assert evaluation.calibration is not None
    for place, histogram in zip(places, evaluation.calibration, strict=True):
        for channel, name in enumerate(("whole", "core")):
            found, expected = bins[f"A {place} {name}"], histogram.reliability(channel)
            np.testing.assert_array_equal(found.accuracies, expected.accuracies)
