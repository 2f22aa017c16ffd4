"""Which images there are, and what is said of a case that cannot be read."""

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from inference.model_folders import TinyImage
from skimage import io

from nnunetv2_le.errors import CaseError, InputError
from nnunetv2_le.inference.cases import (
    Case,
    PreparedCase,
    find_cases,
    list_images,
    prepare_array,
    prepare_case,
)
from nnunetv2_le.inference.model import Model


def names(folder: Path) -> list[list[str]]:
    return [[path.name for path in images] for images in list_images(folder, ".nii.gz")]


def write_png(path: Path, channels: int) -> Path:
    shape = (20, 24, channels) if channels > 1 else (20, 24)
    values = np.random.default_rng(channels).integers(0, 255, shape, dtype=np.uint8)
    io.imsave(str(path), values, check_contrast=False)
    return path


def touch(folder: Path, *files: str) -> Path:
    for file in files:
        (folder / file).touch()
    return folder


def test_images_are_grouped_by_case(tmp_path: Path):
    touch(tmp_path, "b_0000.nii.gz", "a_0001.nii.gz", "a_0000.nii.gz", ".h_0000.nii.gz", "a.txt")
    expected = [[".h_0000.nii.gz"], ["a_0000.nii.gz", "a_0001.nii.gz"], ["b_0000.nii.gz"]]
    assert names(tmp_path) == expected


def test_notes_of_macos_are_no_images_and_are_said_once(tmp_path: Path, caplog: Any):
    touch(tmp_path, "a_0000.nii.gz", "._a_0000.nii.gz", "._b_0000.nii.gz", "._.DS_Store")
    with caplog.at_level(logging.INFO):
        assert names(tmp_path) == [["a_0000.nii.gz"]]
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"3 files named ._* in {tmp_path} are left out")


def test_a_link_to_nowhere_is_a_case_that_fails_and_not_one_that_is_lost(tmp_path: Path):
    (tmp_path / "gone_0000.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "folder_0000.png").mkdir()
    assert list_images(tmp_path, ".png") == [[tmp_path / "gone_0000.png"]]


def test_a_name_of_another_encoding_is_refused_before_anything_is_read(tmp_path: Path):
    try:
        (tmp_path / os.fsdecode(b"M\xfcller_0000.png")).touch()
    except OSError:
        pytest.skip("this file system has no such names")
    with pytest.raises(InputError, match=r"got 'M\\udcfcller_0000.png' in .* Rename it"):
        list_images(tmp_path, ".png")


def test_one_file_may_hold_all_channels(rgb: Model, tmp_path: Path):
    file = write_png(tmp_path / "road_0000.png", 3)
    prepared = prepare_case(Case("road", (file,)), rgb)
    assert prepared.image.shape == (3, 1, 20, 24)
    files = [write_png(tmp_path / f"grey_{n:04d}.png", 1) for n in range(3)]
    assert prepare_case(Case("grey", tuple(files)), rgb).image.shape == (3, 1, 20, 24)


@pytest.mark.parametrize(
    ("channels", "match"),
    [
        ([1], r"^Expected 3 image file\(s\), one a channel \(channel_0, .*\); got 1: a_0000.png"),
        ([1, 1], r"^Expected 3 image file\(s\), .*; got 2: a_0000.png, a_0001.png"),
        ([1, 1, 1, 1], r"^Expected 3 image file\(s\), .*; got 4: "),
        ([4], r"^Expected 3 channel\(s\) \(channel_0, .*\); got 4 in a_0000.png"),
        ([3, 3], r"^Expected 3 channel\(s\) .*; got 6 in a_0000.png, a_0001.png"),
    ],
)
def test_a_wrong_number_of_channels_is_said(
    rgb: Model, tmp_path: Path, channels: list[int], match: str
):
    files = [write_png(tmp_path / f"a_{n:04d}.png", count) for n, count in enumerate(channels)]
    with pytest.raises(CaseError, match=match):
        prepare_case(Case("a", tuple(files)), rgb)


def test_a_missing_channel_is_said(two: Model, tmp_path: Path):
    files = TinyImage(num_channels=2).write(tmp_path)
    assert len(prepare_case(Case("case", tuple(files)), two).image) == 2
    with pytest.raises(CaseError, match=r"Expected 2 image file\(s\), .*; got 1: case_0000.nii.gz"):
        prepare_case(Case("case", tuple(files[:1])), two)


def test_a_folder_in_place_of_a_file_is_said(ct: Model, tmp_path: Path):
    with pytest.raises(CaseError, match=f"Expected a file; got the folder {tmp_path}"):
        prepare_case(Case("case", (tmp_path,)), ct)


def test_a_previous_stage_of_another_shape_is_named(cascade: Model, tmp_path: Path):
    files = TinyImage(shape=(14, 18, 16)).write(tmp_path / "in")
    (tmp_path / "before").mkdir()
    file = tmp_path / "before" / "case.nii.gz"
    sitk.WriteImage(sitk.Image(5, 6, 7, sitk.sitkUInt8), str(file))
    (case,) = find_cases([files], cascade, previous_stage=tmp_path / "before")
    shapes = r"to have the shape of the image, \(14, 18, 16\); got \(7, 6, 5\)"
    with pytest.raises(CaseError, match=rf"Expected .*before.case\.nii\.gz {shapes}"):
        prepare_case(case, cascade)


def test_an_array_is_prepared_as_nnunet_does_with_labels_of_any_type(cascade: Model):
    image, before = np.zeros((1, 14, 18, 16)), np.ones((14, 18, 16), dtype=np.uint8)
    image[0, 3:9] = 1.0
    prepared = prepare_array(image, cascade, spacing_mm=(1, 1, 1), previous_stage=before)
    assert prepared.image.shape == (3, 6, 18, 16)  # without the zeros around it


@pytest.mark.parametrize("kind", [np.complex64, object, str])
@pytest.mark.usefixtures("shapes_unchecked")
def test_an_array_of_what_is_no_intensity_is_refused(ct: Model, kind: Any):
    image = np.ones((1, 8, 8, 8)).astype(kind)
    with pytest.raises(CaseError, match=r"Expected real numbers.*; got .*Convert"):
        prepare_array(image, ct, spacing_mm=(1, 1, 1))


def test_an_array_stays_as_it_is(ct: Model):
    image = np.random.default_rng(0).normal(0, 1, (1, 8, 8, 8)).astype(np.float32)
    before = image.copy()
    prepare_array(image, ct, spacing_mm=(1, 1, 1))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    ("file", "case"),
    [
        ("patient12.nii.gz", "patient12"),
        ("patient12_0001.nii.gz", "patient12"),
        ("p.12_0000.nrrd", "p.12_0000.nrrd"),
        ("_0000.nii.gz", "_0000"),
    ],
)
def test_a_listed_file_loses_nothing_but_ending_and_channel(two: Model, file: str, case: str):
    assert find_cases([[Path("images") / file]], two)[0].name == case


def test_a_case_without_files_is_refused(two: Model):
    with pytest.raises(InputError, match="the image files of each case; got an empty list"):
        find_cases([[Path("a_0000.nii.gz")], []], two)


@pytest.mark.parametrize("kind", [Path, str])
@pytest.mark.usefixtures("shapes_unchecked")
def test_a_plain_list_of_files_is_not_taken_for_cases(two: Model, kind: Any):
    with pytest.raises(InputError, match=r"one list of files a case.*got 'a_0000.nii.gz'.*\[\["):
        find_cases([kind("a_0000.nii.gz")], two)


def test_listed_files_may_have_any_number(two: Model, tmp_path: Path):
    written = TinyImage(shape=(14, 18, 16), num_channels=4).write(tmp_path)
    (case,) = find_cases([[written[3], written[1]]], two)
    assert prepare_case(case, two).image.shape[0] == 2


def test_images_of_another_ending_are_said(tmp_path: Path, caplog: Any):
    touch(tmp_path, "a_0000.nii.gz", "dataset.json", "notes.txt", "a_0000.nii.gz.part")
    assert names(tmp_path) == [["a_0000.nii.gz"]]
    assert caplog.text == ""
    touch(tmp_path, "b_0000.nii", "c_0000.NII.GZ", "d_0000.mha", "e_0000.png")
    assert names(tmp_path) == [["a_0000.nii.gz"]]
    assert "4 images in" in caplog.text
    assert "b_0000.nii, c_0000.NII.GZ, d_0000.mha and 1 more" in caplog.text


def test_a_folder_without_an_image_of_the_ending_says_what_is_there(tmp_path: Path):
    with pytest.raises(InputError, match=r"is not a folder\. Name it with -i"):
        list_images(tmp_path / "absent", ".nii.gz")
    with pytest.raises(InputError, match=r"No image in .* ends in \.nii\.gz.* no file at all"):
        list_images(tmp_path, ".nii.gz")
    touch(tmp_path, "a_0000.mha", "a.nii.gz.txt")
    with pytest.raises(InputError, match=r"ends in \.nii\.gz.*; found \.gz\.txt, \.mha\. Convert"):
        list_images(tmp_path, ".nii.gz")


def test_an_image_is_forgotten_as_every_model_sees_it():
    other = PreparedCase("case", torch.zeros(1, 2, 3, 4), {})
    prepared = PreparedCase("case", torch.zeros(1, 4, 5, 6), {}, {"other": other})
    prepared.forget_image()
    assert prepared.image.is_meta
    assert other.image.is_meta
    assert other.image.shape == (1, 2, 3, 4)
