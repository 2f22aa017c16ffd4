"""Which images there are, and what is said of a case that cannot be read."""

import gzip
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import torch
from inference.model_folders import TinyImage, TinyModel
from skimage import io

from nnunetv2_le.errors import CaseError, InputError
from nnunetv2_le.inference.case_geometry import what_failed
from nnunetv2_le.inference.cases import (
    Case,
    find_cases,
    list_images,
    prepare_array,
    prepare_case,
)
from nnunetv2_le.inference.model import Model, load_model

RGB = TinyModel(
    patch=(16, 16),
    spacing=(1.0, 1.0),
    stages=3,
    reader="NaturalImage2DIO",
    ending=".png",
    num_channels=3,
)


def names(folder: Path) -> list[list[str]]:
    return [[path.name for path in images] for images in list_images(folder, ".nii.gz")]


@pytest.fixture(scope="module")
def rgb(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(RGB.write(tmp_path_factory.mktemp("rgb") / "model"))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model of two channels."""
    folder = tmp_path_factory.mktemp("two") / "model"
    return load_model(TinyModel(stages=3, num_channels=2).write(folder))


@pytest.fixture(scope="module")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The second stage of a cascade."""
    folder = tmp_path_factory.mktemp("cascade") / "model"
    return load_model(TinyModel(stages=3, previous_stage="3d_lowres").write(folder))


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model whose normalization clips intensities."""
    tiny = TinyModel(stages=3, normalization="CTNormalization", ending=".mha")
    return load_model(tiny.write(tmp_path_factory.mktemp("ct") / "model"))


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


def test_an_array_stays_as_it_is(ct: Model):
    image = np.random.default_rng(0).normal(0, 1, (1, 8, 8, 8)).astype(np.float32)
    before = image.copy()
    prepare_array(image, ct, spacing_mm=(1, 1, 1))
    np.testing.assert_array_equal(image, before)


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


@pytest.mark.parametrize(
    "content", ["", "[1, 1, 1]", '{"spacing": [-1, 1, 1]}', '{"spacing": ["1", "1", "1"]}']
)
def test_a_spacing_file_of_a_tiff_without_a_spacing_is_named(tmp_path: Path, content: str):
    model = load_model(
        TinyModel(stages=3, reader="Tiff3DIO", ending=".tif").write(tmp_path / "model")
    )
    file = tmp_path / "case_0000.tif"
    tifffile.imwrite(file, np.ones((8, 9, 10), dtype=np.uint8))
    (tmp_path / "case.json").write_text(content)
    with pytest.raises(CaseError, match=r"case\.json has to hold the voxel size .* Mend it"):
        prepare_case(Case("case", (file,)), model)


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


@pytest.mark.parametrize(
    ("image", "got"),
    [
        (TinyImage(shape=(14, 18, 15)), "14 x 18 x 15 voxels of 1 x 1 x 1 mm"),
        (
            TinyImage(shape=(14, 18, 16), spacing=(1.0, 1.0, 1.5)),
            "14 x 18 x 16 voxels of 1 x 1 x 1.5 mm",
        ),
    ],
)
def test_channels_of_other_shape_or_spacing_are_named(
    two: Model, tmp_path: Path, image: TinyImage, got: str
):
    TinyImage(shape=(14, 18, 16), num_channels=2).write(tmp_path)
    image.write(tmp_path, "other")[0].rename(tmp_path / "case_0001.nii.gz")
    (case,) = find_cases(tmp_path, two)
    with pytest.raises(CaseError, match=r"^Expected channels of one shape and voxel size") as error:
        prepare_case(case, two)
    assert "case_0000.nii.gz: 14 x 18 x 16 voxels of 1 x 1 x 1 mm, case_0001" in str(error.value)
    assert got in str(error.value)


def test_a_voxel_size_that_is_no_millimetres_is_named(two: Model, tmp_path: Path):
    TinyImage(shape=(14, 18, 16), spacing=(0.001,) * 3, num_channels=2).write(tmp_path)
    (case,) = find_cases(tmp_path, two)
    with pytest.raises(CaseError, match="Check the voxel size, which has to be in mill") as error:
        prepare_case(case, two)
    assert "of 0.001 x 0.001 x 0.001 mm (z, y, x) make 0 x 0 x 0 at" in str(error.value)


def test_a_voxel_size_that_no_memory_is_enough_for_is_named(two: Model, tmp_path: Path):
    image = TinyImage(shape=(14, 18, 16), spacing=(10.0, 1e4, 1e4), num_channels=2)
    said = what_failed(image.write(tmp_path), two, MemoryError("3 PiB"))
    assert "of 10 x 10000 x 10000 mm (z, y, x) make 140 x 180000 x 160000 at" in said


def test_a_header_of_negative_length_is_named(two: Model, tmp_path: Path):
    written = TinyImage(shape=(14, 18, 16), num_channels=2).write(tmp_path)
    content = bytearray(gzip.decompress(written[0].read_bytes()))
    content[42:44] = (-16).to_bytes(2, "little", signed=True)  # dim[1]
    written[0].write_bytes(gzip.compress(bytes(content)))
    (case,) = find_cases(tmp_path, two)
    with pytest.raises(CaseError, match=r"its header states the shape \(-16, 18, 14\)"):
        prepare_case(case, two)


def test_a_folder_without_an_image_of_the_ending_says_what_is_there(tmp_path: Path):
    with pytest.raises(InputError, match=r"is not a folder\. Name it with -i"):
        list_images(tmp_path / "absent", ".nii.gz")
    with pytest.raises(InputError, match=r"No image in .* ends in \.nii\.gz.* no file at all"):
        list_images(tmp_path, ".nii.gz")
    touch(tmp_path, "a_0000.mha", "a.nii.gz.txt")
    with pytest.raises(InputError, match=r"ends in \.nii\.gz.*; found \.gz\.txt, \.mha\. Convert"):
        list_images(tmp_path, ".nii.gz")
