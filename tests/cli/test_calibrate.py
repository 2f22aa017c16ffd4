"""What the command is told reaches the calibration; nothing is calibrated here."""

from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from nnunetv2_le.calibration.calibrate import CalibrationRequest
from nnunetv2_le.cli.calibrate import main


def asked(line: str, *, where: str = "-m model -device cpu") -> CalibrationRequest:
    """The calibration that a command line asks for."""
    with mock.patch(
        "nnunetv2_le.calibration.calibrate.calibrate", side_effect=KeyboardInterrupt
    ) as calibrate:
        assert main([*where.split(), *line.split()]) == 130
    request: CalibrationRequest = calibrate.call_args.args[0]
    return request


def flat(request: CalibrationRequest) -> dict[str, Any]:
    """Every setting by its name; those of a part by the names of both."""
    found = {}
    for name, value in asdict(request).items():
        parts = value if isinstance(value, dict) else {"": value}
        found |= {f"{name}.{part}".rstrip("."): one for part, one in parts.items()}
    return found


def test_defaults_are_those_of_the_package_and_five_folds() -> None:
    assert asked("") == CalibrationRequest(Path("model"), folds=(0, 1, 2, 3, 4))


FLAGS: dict[str, dict[str, Any]] = {
    "-f 2 all": {"folds": (2, "all")},
    "-chk checkpoint_best.pth": {"checkpoint_name": "checkpoint_best.pth"},
    "-i images -ref labels": {"images": Path("images"), "references": Path("labels")},
    "-cases table.csv": {"groups_file": Path("table.csv")},
    "-o work": {"work_folder": Path("work")},
    "-prev_stage_predictions before": {"previous_stage": Path("before")},
    "-members heads folds": {"prediction.families": ("heads", "folds")},
    "-members dropout -num_samples 4": {
        "prediction.families": ("dropout",),
        "prediction.num_samples": 4,
    },
    "-fusion last": {"prediction.fusion": "last"},
    "-step_size 0.7": {"prediction.step_size": 0.7},
    "--disable_tta": {"prediction.use_mirroring": False},
    "--not_on_device": {"prediction.perform_everything_on_device": False},
    "-npp 1": {"num_preprocessing": 1},
    "-nps 2": {"num_writing": 2},
    "--disable_progress_bar": {"show_progress": False},
    "-tolerance 0.7": {"fit.tolerance": 0.7},
    "-alpha 0.2": {"fit.alpha": 0.2},
    "-level 0.8": {"fit.level": 0.8},
    "-set_alpha 0.2": {"fit.set_alpha": 0.2},
    "-contour_alpha 0.3": {"fit.contour_alpha": 0.3},
    "-contour_share 0.2": {"fit.contour_share": 0.2},
    "-outlier_alpha 0.2": {"fit.outlier_alpha": 0.2},
    "--shared_temperature": {"fit.is_shared_temperature": True},
    "--vector_scaling": {"fit.use_vector_scaling": True},
    "-seed 7": {"fit.seed": 7},
}


@pytest.mark.parametrize(("line", "settings"), FLAGS.items(), ids=FLAGS)
def test_a_flag_reaches_the_setting_of_its_name_and_no_other(
    line: str, settings: dict[str, Any]
) -> None:
    before, after = flat(asked("")), flat(asked(line))
    assert {name: value for name, value in after.items() if value != before[name]} == settings


def test_a_gpu_calibrates_unless_another_device_is_named(monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert asked("", where="-m model").device == torch.device("cuda")
    assert asked("").device == torch.device("cpu")


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("-d 4 -c 2d", ("4", "LayerEnsembleTrainer", "nnUNetPlans", "2d")),
        ("-d 5 -c 3d_lowres -tr T -p P", ("5", "T", "P", "3d_lowres")),
    ],
)
def test_a_model_is_found_by_nnunets_names(line: str, names: tuple[str, ...]) -> None:
    with mock.patch("nnunetv2_le.cli.calibrate.model_folder", return_value=Path("found")) as find:
        assert asked("", where=f"{line} -device cpu").model_folder == Path("found")
    find.assert_called_once_with(*names)
