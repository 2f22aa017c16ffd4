"""What the predict commands are told reaches the predictor; nothing is predicted here."""

from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from nnunetv2_le.cli import predict
from nnunetv2_le.cli.predict_from_modelfolder import main
from nnunetv2_le.inference.queue import RunSummary
from nnunetv2_le.inference.settings import PredictionSettings

SPOKEN = "nnunetv2_le.calibration.applying.calibrated_predictor"
PLAIN = "nnunetv2_le.inference.predictor.LayerEnsemblePredictor.from_model_folder"
COMMON = "-m model -i images -o out -device cpu"


def asked(line: str, *, common: str = COMMON, by: str = SPOKEN) -> dict[str, Any]:
    """Every argument of the predictor that a command line makes, and of its prediction."""
    with mock.patch(by) as make:
        make.return_value.judge = None
        make.return_value.predict_folder.return_value = RunSummary()
        assert main([*common.split(), *line.split()]) == 0
    (folders, settings), made = make.call_args
    (source, output), how = make.return_value.predict_folder.call_args
    paths = {"folders": folders, "source": source, "output": output}
    assert not set(asdict(settings)) & (set(made) | set(how))
    return {**paths, **asdict(settings), **made, **how}


def test_defaults_are_those_of_the_package_and_of_nnunet(monkeypatch: Any) -> None:
    for variable in ("nnUNet_npp", "nnUNet_nps"):
        monkeypatch.delenv(variable, raising=False)
    assert asked("") == {
        "folders": (Path("model"),),
        "source": Path("images"),
        "output": Path("out"),
        **asdict(PredictionSettings()),
        "folds": (0, 1, 2, 3, 4),
        "checkpoint_name": ("checkpoint_final.pth",),
        "device": torch.device("cpu"),
        "show_progress": True,
        "previous_stage": None,
        "overwrite": True,
        "num_parts": 1,
        "part_id": 0,
        "num_preprocessing": 3,
        "num_writing": 3,
    }


FLAGS: dict[str, dict[str, Any]] = {
    "-f 2 all": {"folds": (2, "all")},
    "-chk a.pth b_*.pth": {"checkpoint_name": ("a.pth", "b_*.pth")},
    "-prev_stage_predictions before": {"previous_stage": Path("before")},
    "-step_size 0.7": {"step_size": 0.7},
    "--disable_tta": {"use_mirroring": False},
    "--save_probabilities": {"save_probabilities": True},
    "--continue_prediction": {"overwrite": False},
    "--c": {"overwrite": False},
    "-npp 1": {"num_preprocessing": 1},
    "-nps 2": {"num_writing": 2},
    "-num_parts 5": {"num_parts": 5},
    "-num_parts 5 -part_id 3": {"num_parts": 5, "part_id": 3},
    "--disable_progress_bar": {"show_progress": False},
    "--not_on_device": {"perform_everything_on_device": False},
    "-members heads folds": {"families": ("heads", "folds")},
    "-members dropout -num_samples 4": {"families": ("dropout",), "num_samples": 4},
    "-skip_heads 2": {"skip_heads": 2},
    "-fusion last": {"fusion": "last"},
    "-maps heads_variance": {"maps": ("heads_variance",)},
    "-maps": {"maps": ()},
    "--save_heads": {"save_heads": True},
    "--no_calibration": {},
}


@pytest.mark.parametrize(("line", "settings"), FLAGS.items(), ids=FLAGS)
def test_a_flag_reaches_the_setting_of_its_name_and_no_other(
    line: str, settings: dict[str, Any]
) -> None:
    before = asked("")
    after = asked(line, by=PLAIN if "--no_calibration" in line else SPOKEN)
    assert {name: value for name, value in after.items() if value != before[name]} == settings


def test_several_folders_are_several_models_in_their_order() -> None:
    found = asked("", common="-m b a -i images -o out -device cpu")
    assert found["folders"] == (Path("b"), Path("a"))


def test_a_gpu_predicts_unless_another_device_is_named(monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert asked("", common="-m model -i images -o out")["device"] == torch.device("cuda")


def test_a_model_is_asked_for_by_every_trainer_plans_and_configuration() -> None:
    line = "-d 4 -tr A B -p P -c 2d 3d_fullres 2d -i images -o out -device cpu -step_size 0.7"
    with (
        mock.patch.object(predict, "model_folder", side_effect=lambda *names: names),
        mock.patch.object(predict, "predict_with_models") as run,
    ):
        assert predict.main(line.split()) == 0
    folders, request = run.call_args.args
    assert folders == [("4", t, "P", c) for t in ("A", "B") for c in ("2d", "3d_fullres")]
    assert request.step_size == 0.7


def test_cases_that_failed_are_named_and_finished_ones_of_earlier_runs_counted(capsys: Any) -> None:
    with (
        mock.patch(SPOKEN) as make,
        mock.patch(
            "nnunetv2_le.cli.predict_from_modelfolder.review_lines", return_value=["to review"]
        ) as review,
    ):
        run = make.return_value.predict_folder
        run.return_value = RunSummary(("b",), {"c": "why", "d": "why"}, ("a",))
        assert main(COMMON.split()) == 1
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "2 cases in out; scores of each in uncertainty.csv.",
        "to review",
    ]
    assert "2 of 4 cases failed (c, d); the reasons are in out/failed.csv." in said.err
    review.assert_called_once_with(Path("out"), ("b", "a"))
