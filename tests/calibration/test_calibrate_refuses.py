"""What a user can get wrong: one clear line each, before anything is predicted."""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from calibration import labelled_dataset as tiny
from calibration.labelled_dataset import LabelledDataset
from inference.faulty_runs import require_one_clear_line
from inference.model_folders import TinyModel

from nnunetv2_le.cli.calibrate import main
from nnunetv2_le.inference.predictor import LayerEnsemblePredictor

# what the fixtures of the module run is checked; tests that run the same once more are not
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shapes_unchecked")]


@pytest.fixture(scope="module")
def shared(module_nnunet_folders: Any) -> LabelledDataset:
    model = TinyModel(trainer="LayerEnsembleTrainer", stages=3, mirror_axes=None, num_folds=2)
    return tiny.write(module_nnunet_folders, model)


@pytest.fixture
def dataset(shared: LabelledDataset, tmp_path: Path) -> Any:
    """Nothing may be predicted."""
    with mock.patch.object(LayerEnsemblePredictor, "predict_prepared") as predicted:
        yield shared.copied_model(tmp_path)
    predicted.assert_not_called()


def test_a_fold_without_a_checkpoint_is_named(dataset: LabelledDataset, capsys: Any) -> None:
    assert dataset.calibrate(folds=("0", "1", "2")) == 1
    require_one_clear_line(capsys, "fold_2", "fold_0, fold_1", "-f")


def test_too_few_cases_say_how_many_are_needed(dataset: LabelledDataset, capsys: Any) -> None:
    assert dataset.calibrate("-alpha", "0.02") == 1
    require_one_clear_line(capsys, "24 labelled cases", "-alpha 0.02 (needs 49)", "-alpha 0.04.")


def test_too_few_patients_for_predicted_dice_are_found_before_predicting(
    dataset: LabelledDataset, tmp_path: Path, capsys: Any
) -> None:
    table = tmp_path / "patients.csv"
    rows = [f"case_{n:02d},patient_{n % 7}" for n in range(24)]
    table.write_text("case,patient\n" + "\n".join(rows) + "\n")
    assert dataset.calibrate("-cases", str(table)) == 1
    require_one_clear_line(capsys, "7 labelled cases (patients)", "needs at least 10")


@pytest.mark.parametrize(
    ("flag", "value"),
    [("-set_alpha", "1.5"), ("-level", "0.0"), ("-contour_alpha", "2.0"), ("-alpha", "nan")],
)
def test_a_share_that_is_none_is_refused(
    dataset: LabelledDataset, capsys: Any, flag: str, value: str
) -> None:
    assert dataset.calibrate(flag, value) == 1
    require_one_clear_line(capsys, f"{flag} is a share between 0 and 1", value)


def test_a_negative_seed_is_refused(dataset: LabelledDataset, capsys: Any) -> None:
    assert dataset.calibrate("-seed", "-1") == 1
    require_one_clear_line(capsys, "-seed is 0 or more", "-1")


def test_fold_all_left_out_no_case(dataset: LabelledDataset, capsys: Any) -> None:
    (dataset.model / "fold_0").rename(dataset.model / "fold_all")
    assert dataset.calibrate(folds=("all",)) == 1
    require_one_clear_line(capsys, "trained on every case", "-i and -ref")


def test_a_split_that_is_missing_or_lacks_the_fold_is_named(
    dataset: LabelledDataset, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    assert dataset.calibrate() == 1
    require_one_clear_line(capsys, "splits_final.json", "not there")
    folder = tmp_path / "preprocessed" / tiny.DATASET
    folder.mkdir(parents=True)
    (folder / "splits_final.json").write_text(json.dumps([{"train": [], "val": ["case_00"]}]))
    assert dataset.calibrate() == 1
    require_one_clear_line(capsys, "Fold 1", "folds 0 to 0")
    (folder / "splits_final.json").write_text("[3]")
    assert dataset.calibrate() == 1
    require_one_clear_line(capsys, "splits_final.json", "no split that nnU-Net wrote")


def test_a_case_without_image_or_labels_is_named(
    dataset: LabelledDataset, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    raw = tmp_path / "raw" / tiny.DATASET
    (raw / "imagesTr").mkdir(parents=True)
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    for file in sorted((dataset.raw / "imagesTr").iterdir())[1:]:
        (raw / "imagesTr" / file.name).symlink_to(file)
    assert dataset.calibrate() == 1
    require_one_clear_line(capsys, "1 validation cases of fold 0", "case_00")
    file = dataset.raw / "imagesTr" / "case_00_0000.nii.gz"
    (raw / "imagesTr" / file.name).symlink_to(file)
    assert dataset.calibrate() == 1
    require_one_clear_line(capsys, "no reference labels", "case_00.nii.gz")


def test_images_without_labels_are_refused(dataset: LabelledDataset, capsys: Any) -> None:
    assert dataset.calibrate("-i", str(dataset.new)) == 1
    require_one_clear_line(capsys, "-i and -ref go together")
    assert dataset.calibrate("-i", str(dataset.new), "-ref", str(dataset.new)) == 1
    require_one_clear_line(capsys, "2 of 2 cases have no reference labels")


def test_cases_that_the_model_was_trained_on_are_refused(
    dataset: LabelledDataset, capsys: Any
) -> None:
    where = ("-i", str(dataset.raw / "imagesTr"), "-ref", str(dataset.raw / "labelsTr"))
    assert dataset.calibrate(*where) == 1
    require_one_clear_line(capsys, "24 cases", "that the model was trained on", "case_00")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,patient\n", "Expected the columns case and group or patient"),
        ("case,patient\ncase_00,a\n", "23 of 24 cases"),
        ("case,patient\ncase_00,a\ncase_01,a\ncase_00,b\n", "case_00"),
    ],
)
def test_a_table_of_patients_that_lacks_something_is_refused(
    dataset: LabelledDataset, tmp_path: Path, capsys: Any, text: str, said: str
) -> None:
    table = tmp_path / "table.csv"
    assert dataset.calibrate("-cases", str(table)) == 1
    require_one_clear_line(capsys, str(table), "cannot be read")
    table.write_text(text)
    assert dataset.calibrate("-cases", str(table)) == 1
    require_one_clear_line(capsys, str(table), said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "either with -d and -c, or with -m"),
        (["-d", "4", "-m", "folder"], "either with -d and -c, or with -m"),
        (["-d", "4"], "-c"),
        (["-m", "folder", "-device", "tpu"], "tpu"),
        (["-m", "folder", "-f", "x"], "A fold is a number from 0, or all; got 'x'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    capsys: Any, arguments: list[str], said: str
) -> None:
    assert main(arguments) == 1
    require_one_clear_line(capsys, said)


def test_a_case_that_fails_is_named_and_the_others_are_kept(
    shared: LabelledDataset, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    own = shared.copied_model(tmp_path)
    raw = tmp_path / "raw" / tiny.DATASET
    (raw / "imagesTr").mkdir(parents=True)
    (raw / "labelsTr").symlink_to(shared.raw / "labelsTr")
    for file in (shared.raw / "imagesTr").iterdir():
        (raw / "imagesTr" / file.name).symlink_to(file)
    broken = raw / "imagesTr" / "case_02_0000.nii.gz"
    content = broken.read_bytes()
    broken.unlink()
    broken.write_bytes(content[: len(content) // 2])
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    assert own.calibrate() == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "1 of 12 cases failed (case_02)" in last
    broken.write_bytes(content)
    assert own.calibrate() == 0
    assert "11 of 12 cases were finished before" in capsys.readouterr().out
