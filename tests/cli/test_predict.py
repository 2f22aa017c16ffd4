"""``nnUNetv2_le_predict`` finds the model that nnU-Net's names mean."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from inference import faulty_runs as runs

from nnunetv2_le.cli.predict import build_parser, main

FOLDER = "nnUNetTrainer__nnUNetPlans__3d_fullres"


@pytest.fixture
def model(nnunet_folders: Any) -> Path:
    folder = nnunet_folders.results / "Dataset999_Tiny" / FOLDER
    return runs.write_model(folder)


def predict(source: Path, output: Path, *more: str) -> int:
    common = ["-i", str(source), "-o", str(output), "-device", "cpu", "--disable_progress_bar"]
    return main([*common, "-c", "3d_fullres", "-f", "0", *more])


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["999", "Dataset999_Tiny"])
def test_a_model_is_found_by_number_and_by_name(model: Path, tmp_path: Path, dataset: str):
    source = runs.write_cases(tmp_path / "in", ["first"])
    assert predict(source, tmp_path / "out", "-d", dataset, "-tr", "nnUNetTrainer") == 0
    assert runs.predict(model, source, tmp_path / "same") == 0
    runs.require_same_results(tmp_path / "out", tmp_path / "same")


def test_the_trainer_is_a_layer_ensembles_unless_another_is_named():
    arguments = build_parser().parse_args(["-i", "a", "-o", "b", "-d", "1", "-c", "2d"])
    assert (arguments.tr, arguments.p, arguments.f) == (
        ["LayerEnsembleTrainer"],
        ["nnUNetPlans"],
        (0, 1, 2, 3, 4),
    )


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("-d", "999"), ("LayerEnsembleTrainer__nnUNetPlans__3d_fullres", "Check -d, -tr, -p")),
        (("-d", "123"), ("No data set has the number '123' in nnUNet_raw=", "Check the number")),
        (("-d", "Tiny"), ("a name like Dataset004_Hippocampus or a number", "got 'Tiny'")),
    ],
)
def test_a_model_that_is_not_there_is_named(
    model: Path, tmp_path: Path, capsys: Any, options: Any, parts: Any
):
    source = runs.write_cases(tmp_path / "in", ["first"])
    assert predict(source, tmp_path / "out", *options) == 1
    runs.require_one_clear_line(capsys, *parts)


def test_without_a_results_folder_the_other_command_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    monkeypatch.delenv("nnUNet_results", raising=False)
    source = runs.write_cases(tmp_path / "in", ["first"])
    assert predict(source, tmp_path / "out", "-d", "999") == 1
    runs.require_one_clear_line(capsys, "nnUNet_results is not set", "-m")


def test_a_fold_that_is_no_number_is_refused(model: Path, tmp_path: Path, capsys: Any):
    source = runs.write_cases(tmp_path / "in", ["first"])
    common = ["-i", str(source), "-o", str(tmp_path / "out"), "-d", "999", "-c", "3d_fullres"]
    assert main([*common, "-f", "first", "-device", "cpu"]) == 1
    runs.require_one_clear_line(capsys, "A fold is a number from 0, or all; got 'first'")


def test_a_model_without_any_fold_says_so(model: Path, tmp_path: Path, capsys: Any):
    shutil.rmtree(model / "fold_0")
    source = runs.write_cases(tmp_path / "in", ["first"])
    assert predict(source, tmp_path / "out", "-d", "999", "-tr", "nnUNetTrainer") == 1
    runs.require_one_clear_line(capsys, "fold_0", "here: none")
