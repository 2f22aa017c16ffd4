"""Cases: pairs by name, raters, and what is missing on either side."""

import os
from functools import partial

import pytest
from evaluation.made_up_predictions import make
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunetv2_le.errors import InputError
from nnunetv2_le.evaluation.cases import find_cases
from nnunetv2_le.evaluation.volumes import read_map, read_segmentation


def fill(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_missing_cases_are_named_on_either_side(tmp_path):
    out = fill(tmp_path / "out", "a.png", "b.png")
    labels = fill(tmp_path / "labels", "b.png", "c.png")
    cases, problems = find_cases(out, [labels], file_ending=".png")
    assert [case.case for case in cases] == ["b"]
    assert {(p.case, p.problem) for p in problems} == {
        ("a", "it was predicted, but has no reference"),
        ("c", "it has a reference, but was not predicted"),
    }


def test_several_folders_are_several_raters(tmp_path):
    out = fill(tmp_path / "out", "a.png", "b.png")
    raters = [fill(tmp_path / "r0", "a.png", "b.png"), fill(tmp_path / "r1", "a.png")]
    cases, problems = find_cases(out, raters, file_ending=".png")
    assert [len(case.references) for case in cases] == [2, 1]
    assert problems[0].case == "b"
    assert "no reference in" in problems[0].problem


def test_rater_files_of_a_case_are_found(tmp_path):
    out = fill(tmp_path / "out", "a_s001.png")
    raters = fill(tmp_path / "raters", *(f"a_s001_r{n}.png" for n in range(4)))
    cases, problems = find_cases(out, [raters], file_ending=".png")
    assert [file.name for file in cases[0].references] == [f"a_s001_r{n}.png" for n in range(4)]
    assert problems == []


def test_cases_that_are_called_like_raters_are_cases(tmp_path):
    out = fill(tmp_path / "out", "a_r0.png", "a_r1.png")
    labels = fill(tmp_path / "labels", *(f"{name}.png" for name in ("a_r0", "a_r1", "a_r2")))
    cases, problems = find_cases(out, [labels], file_ending=".png")
    assert [case.case for case in cases] == ["a_r0", "a_r1"]
    assert [problem.case for problem in problems] == ["a_r2"]


def test_raters_of_a_case_that_was_not_predicted_are_one_case(tmp_path):
    out = fill(tmp_path / "out", "a.png")
    raters = fill(tmp_path / "raters", *(f"{name}.png" for name in ("a", "a_r0", "b_r0", "b_r1")))
    cases, problems = find_cases(out, [raters], file_ending=".png")
    assert [file.name for file in cases[0].references] == ["a.png"]
    assert [problem.case for problem in problems] == ["b"]


def test_optional_files_are_found(tmp_path):
    out = fill(tmp_path / "out", "a.nii.gz", "a.npz", "dataset.json")
    fill(out / "uncertainty", "a_entropy.nii.gz")
    (out / "heads").mkdir()
    for head in range(2):
        fill(out / "heads" / f"head_{head:02d}", "a.npz")
    labels = fill(tmp_path / "labels", "a.nii.gz")
    (case,), problems = find_cases(out, [labels], file_ending=".nii.gz")
    assert case.probabilities == out / "a.npz"
    assert case.entropy == out / "uncertainty" / "a_entropy.nii.gz"
    assert [file.parent.name for file in case.heads] == ["head_00", "head_01"]
    assert problems == []


def test_nothing_in_common_is_an_error_with_counts(tmp_path):
    out, labels = fill(tmp_path / "out", "a.png"), fill(tmp_path / "labels", "b.png", "c.png")
    with pytest.raises(InputError, match=r"1 \*\.png files in .*out, 2 cases in"):
        find_cases(out, [labels], file_ending=".png")


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere is not a folder"):
        find_cases(tmp_path / "nowhere", [tmp_path], file_ending=".png")


NOT_UTF8 = os.fsdecode(b"caf\xe9")


def test_files_whose_names_are_not_utf8_are_named_and_never_opened(tmp_path):
    made = make(tmp_path, num_cases=2)
    content = (made.out / "case_00.nii.gz").read_bytes()
    for folder in (made.out, made.references):
        (folder / f"{NOT_UTF8}.nii.gz").write_bytes(content)
    cases, problems = find_cases(made.out, [made.references], file_ending=".nii.gz")
    assert [case.case for case in cases] == ["case_00", "case_01"]
    assert [problem.case for problem in problems] == ["caf\\udce9"] * 2
    for problem in problems:
        assert "caf\\udce9.nii.gz is no UTF-8" in problem.problem
        problem.problem.encode()
    for read in (read_segmentation, partial(read_map, shape=(1, 1, 1))):
        with pytest.raises(InputError, match=r"is no UTF-8, so image libraries cannot open it"):
            read(made.out / f"{NOT_UTF8}.nii.gz", SimpleITKIO())


@pytest.mark.parametrize("side", ["out", "labels"])
def test_a_folder_whose_name_is_not_utf8_is_refused(tmp_path, side):
    out = fill(tmp_path / "out", "a.png")
    labels = fill(tmp_path / "labels", "a.png")
    folders = {"out": out, "labels": labels}
    folders[side] = folders[side].rename(tmp_path / NOT_UTF8)
    with pytest.raises(InputError, match=r"udce9 is no UTF-8.*rename it"):
        find_cases(folders["out"], [folders["labels"]], file_ending=".png")
