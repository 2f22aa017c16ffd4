"""What files and arrays of a case have to be, and what is said of odd ones."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from inference.model_folders import TinyImage

from nnunetv2_le.errors import CaseError
from nnunetv2_le.inference.cases import (
    Case,
    find_cases,
    prepare_array,
    prepare_case,
)
from nnunetv2_le.inference.model import Model


@pytest.mark.parametrize(
    ("shape", "spacing_mm", "before", "match"),
    [
        ((14, 18, 16), (1, 1, 1), (14, 18, 16), "Expected an array of 1 channels x depth"),
        ((2, 14, 18, 16), (1, 1, 1), (14, 18, 16), r"got shape \(2, 14, 18, 16\)"),
        ((1, 14, 0, 16), (1, 1, 1), (14, 0, 16), "none of length 0"),
        ((1, 14, 18, 16), (1, 1), (14, 18, 16), r"spacing_mm to be three sizes.*got \(1, 1\)"),
        ((1, 14, 18, 16), (0, 1, 1), (14, 18, 16), r"sizes above 0.*got \(0, 1, 1\)"),
        ((1, 14, 18, 16), (1, 1, np.nan), (14, 18, 16), "sizes above 0"),
        ((1, 14, 18, 16), (1, 1, 1), None, "second stage of a cascade.*3d_lowres"),
        ((1, 14, 18, 16), (1, 1, 1), (14, 18, 15), r"got \(14, 18, 15\)"),
    ],
)
@pytest.mark.usefixtures("shapes_unchecked")
def test_an_array_that_does_not_fit_is_refused(
    cascade: Model, shape: Any, spacing_mm: Any, before: Any, match: str
):
    previous = None if before is None else np.zeros(before, dtype=np.uint8)
    with pytest.raises(CaseError, match=match):
        prepare_array(np.zeros(shape), cascade, spacing_mm=spacing_mm, previous_stage=previous)


@pytest.mark.parametrize(
    ("image", "spacing_mm", "match"),
    [
        (torch.zeros(1, 14, 18, 16), (1, 1, 1), r"a NumPy array as image; got 'Tensor'.*\.numpy"),
        ([[[[0.0]]]], (1, 1, 1), "got 'list'"),
        (np.zeros((1, 14, 18, 16)), ("1", "1", "1"), r"three sizes.*got \('1', '1', '1'\)"),
    ],
)
@pytest.mark.usefixtures("shapes_unchecked")
def test_what_is_no_array_and_no_size_is_refused(
    cascade: Model, image: Any, spacing_mm: Any, match: str
):
    with pytest.raises(CaseError, match=match):
        prepare_array(image, cascade, spacing_mm=spacing_mm)


def test_an_array_whose_voxels_are_no_millimetres_is_named(ct: Model):
    with pytest.raises(CaseError, match=r"^lung: \(14, 18, 16\) voxels of \[0\.001.* millimetres"):
        prepare_array(np.ones((1, 14, 18, 16)), ct, spacing_mm=(0.001,) * 3, name="lung")


def test_a_damaged_file_is_named(two: Model, tmp_path: Path):
    files = TinyImage(shape=(40, 50, 60), num_channels=2).write(tmp_path)
    content = bytearray(files[1].read_bytes())
    content[len(content) // 2] ^= 0x10
    files[1].write_bytes(content)
    said = r"case_0001.nii.gz cannot be read: its content is damaged.*Copy it again"
    with pytest.raises(CaseError, match=said):
        prepare_case(Case("case", tuple(files)), two)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_is_not_clipped_away(ct: Model, tmp_path: Path, value: float):
    image = np.random.default_rng(0).normal(0, 1, (8, 8, 8)).astype(np.float32)
    image[2, 3, 4] = value
    match = "infinite or missing"
    with pytest.raises(CaseError, match=match):
        prepare_array(image[None], ct, spacing_mm=(1, 1, 1))
    sitk.WriteImage(sitk.GetImageFromArray(image), str(tmp_path / "case_0000.mha"))
    with pytest.raises(CaseError, match=match):
        prepare_case(Case("case", (tmp_path / "case_0000.mha",)), ct)


def test_an_array_beyond_single_precision_is_refused(ct: Model):
    image = np.full((1, 8, 8, 8), 1e39)
    with pytest.raises(CaseError, match=r"beyond float32 \(3.4e38\)"):
        prepare_array(image, ct, spacing_mm=(1, 1, 1))


def test_an_image_that_shows_nothing_is_said(two: Model, caplog: Any):
    image = np.zeros((2, 20, 20, 20), dtype=np.float32)
    prepare_array(image, two, spacing_mm=(1, 1, 1), name="blank")
    assert "blank has one and the same intensity everywhere" in caplog.text
    caplog.clear()
    image[1] = np.random.default_rng(0).normal(size=image[1].shape)
    prepare_array(image, two, spacing_mm=(1, 1, 1), name="one channel is blank")
    assert caplog.text == ""


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("kind", ["vector", "complex"])
def test_several_values_a_voxel_are_refused(two: Model, tmp_path: Path, kind: str, ending: str):
    values = np.zeros((8, 9, 10, 3), dtype=np.float32)
    image = sitk.GetImageFromArray(values, isVector=True)
    if kind == "complex":
        image = sitk.GetImageFromArray(values[..., 0].astype(np.complex64))
    files = tuple(tmp_path / f"case_000{channel}{ending}" for channel in range(2))
    for file in files:
        sitk.WriteImage(image, str(file))
    said = "Expected one value a voxel.*case_0000.*vector"
    with pytest.raises(CaseError, match=said):
        prepare_case(Case("case", files), two)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd"])
def test_volumes_of_all_channels_in_one_file_are_refused(two: Model, tmp_path: Path, ending: str):
    file = tmp_path / f"case_0000{ending}"
    volumes = [sitk.GetImageFromArray(np.ones((8, 9, 10), dtype=np.float32)) for _ in range(2)]
    sitk.WriteImage(sitk.JoinSeries(volumes), str(file))
    with pytest.raises(
        CaseError, match=r"Expected one volume in .*case_0000.*; got 2.*file of its"
    ):
        prepare_case(Case("case", (file,)), two)


def test_a_voxel_size_of_zero_is_said(two: Model, tmp_path: Path, caplog: Any):
    files = TinyImage(shape=(20, 20, 20), num_channels=2).write(tmp_path)
    prepare_case(Case("case", tuple(files)), two)
    assert caplog.text == ""
    for file in files:
        content = bytearray(gzip.decompress(file.read_bytes()))
        content[80:92] = bytes(12)  # pixdim
        file.write_bytes(gzip.compress(content))
    prepare_case(Case("case", tuple(files)), two)
    assert "case_0000.nii.gz states no voxel size" in caplog.text


def test_a_single_slice_for_a_model_of_volumes_is_said(two: Model, rgb: Model, caplog: Any):
    slices = np.random.default_rng(0).normal(size=(3, 1, 20, 20)).astype(np.float32)
    prepare_array(slices, rgb, spacing_mm=(999, 1, 1), name="slice")
    assert caplog.text == ""
    prepare_array(slices[:2], two, spacing_mm=(5, 1, 1), name="slice")
    assert "slice is a single slice, but the model was trained on volumes" in caplog.text


@pytest.mark.parametrize("numbers", [(0, 2), (1, 2), (1,), (7,)])
def test_a_missing_channel_is_not_filled_by_the_next(
    two: Model, tmp_path: Path, numbers: tuple[int, ...]
):
    written = TinyImage(shape=(14, 18, 16), num_channels=8).write(tmp_path)
    for number, path in enumerate(written):
        if number not in numbers:
            path.unlink()
    (case,) = find_cases(tmp_path, two)
    got = ", ".join(f"_{number:04d}" for number in numbers)
    expected = r"^Expected the channels _0000 \(channel_0\), _0001 \(channel_1\) of .*; got "
    with pytest.raises(CaseError, match=rf"{expected}{got}: case_.*Add or rename"):
        prepare_case(case, two)
