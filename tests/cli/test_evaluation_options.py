"""What evaluate and compare are told reaches the evaluation; nothing is evaluated here."""

from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from nnunetv2_le.cli import compare, evaluate
from nnunetv2_le.errors import SettingError
from nnunetv2_le.evaluation.case_metrics import MetricSettings
from nnunetv2_le.evaluation.method import MethodSettings

COMMANDS = {
    "evaluate": (evaluate, ["-pred", "prediction"]),
    "compare": (compare, ["-pred", "A=prediction", "B=other", "-o", "out"]),
}


def asked(command: str, line: str, *, references: str = "-ref labels") -> dict[str, Any]:
    """Every argument of the first evaluation that a command line asks for."""
    module, where = COMMANDS[command]
    with (
        mock.patch.object(module, "require_predictions"),
        mock.patch(
            "nnunetv2_le.evaluation.evaluate.evaluate_prediction", side_effect=KeyboardInterrupt
        ) as run,
    ):
        assert module.main([*where, *references.split(), *line.split()]) == 130
    (prediction, raters), how = run.call_args
    parts = asdict(how.pop("metrics")) | asdict(how.pop("method"))
    return {"prediction": prediction, "references": raters, **parts, **how}


@pytest.mark.parametrize("command", COMMANDS)
def test_defaults_are_those_of_the_package_and_nnunets_processes(
    command: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr("nnunetv2.configuration.default_num_processes", 6)
    assert asked(command, "") == {
        "prediction": Path("prediction"),
        "references": (Path("labels"),),
        **asdict(MetricSettings()),
        **asdict(MethodSettings()),
        "dataset_file": None,
        "plans_file": None,
        "case_table": None,
        "num_processes": 6,
    }


FLAGS: dict[str, dict[str, Any]] = {
    "-djfile d.json": {"dataset_file": Path("d.json")},
    "-pfile p.json": {"plans_file": Path("p.json")},
    "-cases t.csv": {"case_table": Path("t.csv")},
    "-cases t.csv -domain site": {"case_table": Path("t.csv"), "domain_column": "site"},
    "-cases t.csv -patient name": {"case_table": Path("t.csv"), "patient_column": "name"},
    "-tolerance_mm 2.5": {"tolerance_mm": 2.5},
    "-roi_margin 3": {"roi_margin_voxels": 3},
    "-dice_thresholds 0.5 1": {"dice_thresholds": (0.5, 1.0)},
    "-num_bootstrap 7": {"num_draws": 7},
    "-seed 9": {"seed": 9},
    "-np 97": {"num_processes": 97},
    "--no_distances": {"distances": False},
    "--no_figures": {},
    "-scores aula": {},
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("line", "settings"), FLAGS.items(), ids=FLAGS)
def test_a_flag_reaches_the_setting_of_its_name_and_no_other(
    command: str, line: str, settings: dict[str, Any]
) -> None:
    before, after = asked(command, ""), asked(command, line)
    assert {name: value for name, value in after.items() if value != before[name]} == settings


@pytest.mark.parametrize("command", COMMANDS)
def test_several_references_are_several_raters_in_their_order(command: str) -> None:
    found = asked(command, "", references="-ref b a")
    assert found["references"] == (Path("b"), Path("a"))


def request(line: str) -> evaluate.EvaluateRequest:
    arguments = ["-pred", "prediction", "-ref", "labels", "-np", "1", *line.split()]
    return evaluate.build_request(evaluate.build_parser().parse_args(arguments))


def test_results_lie_in_the_prediction_unless_another_folder_is_named() -> None:
    found = request("")
    assert found == evaluate.EvaluateRequest(
        found.options, Path("prediction"), Path("prediction/evaluation")
    )
    assert request("-o out").output == Path("out")


@pytest.mark.parametrize("line", ["-m model", "-m model --skip_heads", "-m model -i images"])
def test_a_model_predicts_heads_of_images_for_the_study_alone(line: str) -> None:
    with pytest.raises(SettingError, match="give --skip_heads and -i too"):
        request(line)


def test_figures_and_skipped_heads_are_of_what_was_named() -> None:
    found = request("-i images -num_case_figures 5 --skip_heads -m model -chk c.pth -device mps")
    assert found == evaluate.EvaluateRequest(
        found.options,
        Path("prediction"),
        Path("prediction/evaluation"),
        skip_heads=True,
        num_case_figures=5,
        images=Path("images"),
        model=Path("model"),
        device="mps",
        checkpoint_name="c.pth",
    )
    options = request("-scores b a --no_figures").options
    assert (options.scores, options.figures) == (("b", "a"), False)
    options = request("").options
    assert (options.scores, options.figures) == (None, True)
