"""What an output folder may hold before a run."""

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk

from nnunetv2_le.errors import InputError, SettingError
from nnunetv2_le.inference.earlier_runs import (
    has_settings,
    require_names_for_itk,
    require_no_other_dataset,
    require_own_files,
    warn_of_other_settings,
    warn_of_unrecorded,
)

OURS = {"labels": {"background": 0, "organ": 1}}


@pytest.mark.parametrize("content", ['{"labels": {}}', "not JSON", "[]"])
def test_the_dataset_json_of_another_data_set_is_not_replaced(tmp_path: Path, content: str):
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(SettingError, match=r"^Expected -o .* dataset.json that is not the model's"):
        require_no_other_dataset(tmp_path, OURS)
    assert (tmp_path / "dataset.json").read_text() == content


@pytest.mark.parametrize("beside", ["uncertainty.json", "cases", "predict_from_raw_data_args.json"])
def test_results_of_an_earlier_run_or_of_nnunet_may_be_replaced(tmp_path: Path, beside: str):
    (tmp_path / "dataset.json").write_text("{}")
    (tmp_path / beside).touch()
    require_no_other_dataset(tmp_path, OURS)


def test_a_folder_with_the_models_own_dataset_json_or_none_is_taken(tmp_path: Path):
    require_no_other_dataset(tmp_path / "absent", OURS)
    require_no_other_dataset(tmp_path, OURS)
    (tmp_path / "dataset.json").write_text(json.dumps(OURS))
    require_no_other_dataset(tmp_path, OURS)


def test_segmentations_without_a_record_are_counted(tmp_path: Path, caplog: Any):
    files = {case: tmp_path / f"{case}.nii.gz" for case in ("a", "b", "c", "d")}
    for case in ("a", "b", "c"):
        files[case].touch()
    for record in ("cases/a.json", "set_aside/b/cases/b.json"):
        (tmp_path / record).parent.mkdir(parents=True)
        (tmp_path / record).touch()
    warn_of_unrecorded(tmp_path, {case: files[case] for case in ("a", "b", "d")})
    assert caplog.text == ""
    warn_of_unrecorded(tmp_path, files)
    assert "1 segmentations in" in caplog.text
    assert "(c.nii.gz): they will be replaced" in caplog.text


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """A folder with records of two settings, and what is no record."""
    (tmp_path / "cases").mkdir()
    contents = {"a": {"fusion": 1}, "b": {"fusion": 2, "more": 3}, "c": [], "d": {}}
    for case, content in contents.items():
        (tmp_path / "cases" / f"{case}.json").write_text(json.dumps(content))
    (tmp_path / "cases" / "e.json").write_text("not JSON")
    return tmp_path


def test_a_record_has_the_settings_that_it_notes_all_of(records: Path):
    def has(case: str, **settings: int) -> bool | None:
        return has_settings(records / "cases" / f"{case}.json", settings)

    assert has("b", fusion=2, more=3) is True
    assert has("b", fusion=2) is True
    assert has("b", fusion=2, more=4) is False
    assert has("d", fusion=2) is False
    assert [has(case, fusion=2) for case in ("c", "e", "absent")] == [None] * 3


def test_cases_of_other_settings_that_stay_are_named(records: Path, caplog: Any):
    warn_of_other_settings(records, ["b", "d"], settings={"fusion": 1})
    assert caplog.text == ""  # of those that stay a is alike, and the others are no records
    warn_of_other_settings(records, ["a"], settings={"fusion": 1})
    assert "2 cases of an earlier run with another model" in caplog.text
    assert "(b, d) stay" in caplog.text


def test_cases_that_would_write_one_file_are_refused():
    require_own_files(["a", "a_entropy"], ["entropy", "entropy", "variance"])
    with pytest.raises(InputError, match=r"a and a_b would both write the map a_b_entropy\.nii"):
        require_own_files(["a", "a_b"], ["entropy", "b_entropy"])


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "scan.NII", "scan.hdr", "scan.img.gz"])
def test_names_that_itk_does_not_write_are_refused(tmp_path: Path, name: str):
    image = sitk.Image([2, 2, 2], sitk.sitkUInt8)
    with suppress(RuntimeError):
        sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
    assert not (tmp_path / f"{name}.nii.gz").exists()
    expected = rf"does not write .*{re.escape(name)}\.nii\.gz; .*to scan_0000\.nii\.gz"
    with pytest.raises(InputError, match=expected):
        require_names_for_itk(["other", name], ".nii.gz")


@pytest.mark.parametrize("name", ["scan.gz", "scan.nii_1", "nii", "scan.png", "a.hdr.b"])
def test_names_that_itk_writes_are_taken(tmp_path: Path, name: str):
    image = sitk.Image([2, 2, 2], sitk.sitkUInt8)
    sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
    assert (tmp_path / f"{name}.nii.gz").is_file()
    require_names_for_itk([name], ".nii.gz")
