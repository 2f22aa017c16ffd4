"""Cases of a folder: names that the model was trained on, and what cannot be known of them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from inference.model_folders import TinyModel

from nnunetv2_le.calibration.labelled_cases import (
    LabelledCase,
    folder_cases,
    validation_cases,
)
from nnunetv2_le.errors import InputError, SettingError
from nnunetv2_le.inference.model import Model, load_model

DATASET = "Dataset999_Tiny"
NAMES = ("a", "b", "c", "d")
SPLITS = [{"train": ["a"], "val": ["b"]}, {"train": ["b"], "val": ["c"]}]


@pytest.fixture
def preprocessed(nnunet_folders: Any) -> Path:
    folder: Path = nnunet_folders.preprocessed / DATASET
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: Any) -> Model:
    return load_model(TinyModel(stages=3).write(tmp_path_factory.mktemp("tiny") / "model"))


def cases_of(
    model: Model, folder: Path, *folds: int | str, names: tuple[str, ...]
) -> list[LabelledCase]:
    """Cases with empty files, of a model of these folds."""
    images, labels = folder / "images", folder / "labels"
    for name in names:
        for file in (images / f"{name}_0000.nii.gz", labels / f"{name}.nii.gz"):
            file.parent.mkdir(exist_ok=True)
            file.touch()
    return folder_cases(images, labels, replace(model, folds=folds))


def preprocess(preprocessed: Path, *names: str) -> None:
    folder = preprocessed / "tiny"  # the configuration's data_identifier
    folder.mkdir()
    for name in names:
        for ending in (".b2nd", "_seg.b2nd", ".pkl"):
            (folder / f"{name}{ending}").touch()


@pytest.mark.parametrize(
    ("folds", "seen"),
    [((0,), "a"), ((1,), "b"), ((0, 1), "a"), (("all",), "a"), (("all",), "b"), (("all",), "c")],
)
def test_a_name_that_a_fold_was_trained_on_is_refused(
    model: Model, preprocessed: Path, tmp_path: Path, folds: tuple[Any, ...], seen: str
) -> None:
    (preprocessed / "splits_final.json").write_text(json.dumps(SPLITS))
    with pytest.raises(InputError, match=f"the model was trained on, the first is {seen}"):
        cases_of(model, tmp_path, *folds, names=("d", seen))


def test_fold_all_was_trained_on_every_preprocessed_case(
    model: Model, preprocessed: Path, tmp_path: Path
) -> None:
    preprocess(preprocessed, *NAMES)
    with pytest.raises(InputError, match="the model was trained on, the first is d"):
        cases_of(model, tmp_path, "all", names=("d", "e"))


def test_names_that_no_fold_was_trained_on_are_taken_without_a_word(
    model: Model, preprocessed: Path, tmp_path: Path, caplog: Any
) -> None:
    (preprocessed / "splits_final.json").write_text(json.dumps(SPLITS))
    assert len(cases_of(model, tmp_path, 0, 1, "all", names=("d", "e"))) == 2
    assert not caplog.records


@pytest.mark.parametrize("folds", [(0,), (0, 1), (4,), ("all",)])
def test_folds_whose_training_cases_are_not_known_are_said_once(
    model: Model, preprocessed: Path, tmp_path: Path, caplog: Any, folds: tuple[Any, ...]
) -> None:
    if folds == (4,):  # nnU-Net then splits at random
        (preprocessed / "splits_final.json").write_text(json.dumps(SPLITS))
    assert len(cases_of(model, tmp_path, *folds, names=NAMES)) == 4
    (said,) = [record.getMessage() for record in caplog.records]
    assert f"fold {', '.join(map(str, folds))} was" in said
    assert "cannot be checked" in said


@pytest.mark.parametrize("fold", [0, 4])
def test_names_of_no_preprocessed_case_are_safe_without_a_split(
    model: Model, preprocessed: Path, tmp_path: Path, caplog: Any, fold: int
) -> None:
    preprocess(preprocessed, *NAMES)
    assert len(cases_of(model, tmp_path, fold, names=("e", "f"))) == 2
    assert not caplog.records
    cases_of(model, tmp_path, fold, names=("a",))
    assert "cannot be checked" in caplog.text


def test_a_fold_is_calibrated_with_its_validation_cases_and_their_labels(
    model: Model, preprocessed: Path, nnunet_folders: Any
) -> None:
    splits = preprocessed / "splits_final.json"
    with pytest.raises(InputError, match=r"splits_final\.json, .* it is not there"):
        validation_cases(model, 0)
    splits.write_text(json.dumps([*SPLITS, {"train": ["a", "b"], "val": ["d", "c"]}]))
    raw = nnunet_folders.raw / DATASET
    for name in ("c", "d", "e"):
        for file in (f"imagesTr/{name}_0000.nii.gz", f"labelsTr/{name}.nii.gz"):
            (raw / file).parent.mkdir(parents=True, exist_ok=True)
            (raw / file).touch()
    found = validation_cases(model, 2)
    assert [(one.case.name, one.reference) for one in found] == [
        (name, raw / "labelsTr" / f"{name}.nii.gz") for name in ("c", "d")
    ]
    assert found[0].case.images == (raw / "imagesTr" / "c_0000.nii.gz",)
    with pytest.raises(InputError, match=r"1 validation cases of fold 0 have no image.* is b\."):
        validation_cases(model, 0)
    (raw / "labelsTr" / "c.nii.gz").unlink()
    with pytest.raises(InputError, match="1 of 2 cases have no reference labels"):
        validation_cases(model, 2)
    with pytest.raises(InputError, match=r"Fold 3 is not in .* which has folds 0 to 2\."):
        validation_cases(model, 3)
    with pytest.raises(SettingError, match="was trained on every case"):
        validation_cases(model, "all")


@pytest.mark.parametrize("content", ["[3]", "{", '[{"train": ["a"]}]', '{"train": ["a"]}'])
def test_a_split_that_nnunet_did_not_write_is_refused(
    model: Model, preprocessed: Path, content: str
) -> None:
    (preprocessed / "splits_final.json").write_text(content)
    with pytest.raises(InputError, match=r"splits_final\.json is no split that nnU-Net wrote"):
        validation_cases(model, 0)


def test_without_nnunets_folders_the_variable_is_named(
    model: Model, preprocessed: Path, monkeypatch: Any
) -> None:
    (preprocessed / "splits_final.json").write_text(json.dumps(SPLITS))
    monkeypatch.delenv("nnUNet_raw")
    with pytest.raises(InputError, match="nnUNet_raw is not set"):
        validation_cases(model, 0)
    monkeypatch.delenv("nnUNet_preprocessed")
    with pytest.raises(InputError, match=f"Expected nnUNet_preprocessed/{DATASET}/splits_final"):
        validation_cases(model, 0)


def test_images_that_dataset_json_lists_are_those_of_the_cases(
    model: Model, preprocessed: Path, nnunet_folders: Any
) -> None:
    (preprocessed / "splits_final.json").write_text(json.dumps(SPLITS))
    raw = nnunet_folders.raw / DATASET
    raw.mkdir()
    files = {"images": [str(raw / "other" / "b_0000.nii.gz")], "label": str(raw / "of_b.nii.gz")}
    for file in (*files["images"], files["label"]):
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).touch()
    listed = replace(model, dataset_json=model.dataset_json | {"dataset": {"b": files}})
    (found,) = validation_cases(listed, 0)
    assert found.case.images == (raw / "other" / "b_0000.nii.gz",)
    assert found.reference == raw / "of_b.nii.gz"


def test_a_cascade_gets_the_segmentations_of_its_previous_stage(
    preprocessed: Path, nnunet_folders: Any, tmp_path: Path
) -> None:
    cascade = load_model(TinyModel(stages=3, previous_stage="3d_lowres").write(tmp_path / "model"))
    (preprocessed / "splits_final.json").write_text(json.dumps(SPLITS))
    raw, before = nnunet_folders.raw / DATASET, tmp_path / "before"
    for file in (
        *(raw / "imagesTr" / "b_0000.nii.gz", raw / "labelsTr" / "b.nii.gz"),
        *(tmp_path / "images" / "x_0000.nii.gz", tmp_path / "labels" / "x.nii.gz"),
        *(before / "b.nii.gz", before / "x.nii.gz"),
    ):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (found,) = validation_cases(cascade, 0, previous_stage=before)
    assert found.case.previous_stage == before / "b.nii.gz"
    (found,) = folder_cases(
        tmp_path / "images", tmp_path / "labels", cascade, previous_stage=before
    )
    assert found.case.previous_stage == before / "x.nii.gz"
