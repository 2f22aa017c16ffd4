"""Files that were cut off or hold no numbers are told from sound ones, whatever wrote them."""

import gzip
from pathlib import Path
from typing import Any
from unittest import mock

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_le.inference import nifti_checks
from nnunetv2_le.inference.nifti_checks import (
    fault,
    has_bad_intensities,
    has_voxel_size,
    is_cut_off,
    is_damaged,
)


@pytest.fixture(params=[".nii", ".nii.gz"])
def ending(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def write(path: Path, dtype: Any = np.float32) -> Path:
    values = np.arange(8 * 9 * 10).reshape(8, 9, 10).astype(dtype)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(path))
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_a_whole_file_is_not_cut_off(tmp_path: Path, ending: str, dtype: Any):
    assert not is_cut_off(write(tmp_path / f"a{ending}", dtype))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_shorter_file_is_cut_off(tmp_path: Path, ending: str, share: float):
    file = write(tmp_path / f"a{ending}")
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    assert is_cut_off(file)


def test_a_file_without_its_last_byte_is_cut_off(tmp_path: Path, ending: str):
    file = write(tmp_path / f"a{ending}")
    file.write_bytes(file.read_bytes()[:-1])
    assert is_cut_off(file)


@pytest.mark.parametrize("offset", [np.nan, np.inf])
def test_a_header_whose_offset_is_no_number_is_a_fault(tmp_path: Path, offset: float):
    file = write(tmp_path / "a.nii", np.float32)
    content = bytearray(file.read_bytes())
    content[108:112] = np.float32(offset).tobytes()  # vox_offset
    file.write_bytes(content)
    assert "it ends before" in str(fault(file))


def test_a_file_of_two_gzip_members_is_whole(tmp_path: Path):
    content = write(tmp_path / "a.nii").read_bytes()
    file = tmp_path / "two.nii.gz"
    file.write_bytes(gzip.compress(content[:100]) + gzip.compress(content[100:]))
    assert not is_cut_off(file)


def test_something_behind_the_content_does_no_harm(tmp_path: Path):
    content = write(tmp_path / "a.nii").read_bytes()
    (tmp_path / "long.nii.gz").write_bytes(gzip.compress(content + bytes(1000)))
    assert not is_cut_off(tmp_path / "long.nii.gz")


def test_whole_content_that_is_too_short_is_cut_off(tmp_path: Path):
    content = write(tmp_path / "a.nii").read_bytes()
    (tmp_path / "short.nii.gz").write_bytes(gzip.compress(content[:-4]))
    assert is_cut_off(tmp_path / "short.nii.gz")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_value_that_is_no_number_is_found(tmp_path: Path, ending: str, value: float, dtype: Any):
    values = np.zeros((4, 5, 6), dtype=dtype)
    values[1, 2, 3] = value
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / f"a{ending}")
    assert has_bad_intensities(tmp_path / f"a{ending}")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_numbers_are_not_bad(tmp_path: Path, ending: str, dtype: Any):
    assert not has_bad_intensities(write(tmp_path / f"a{ending}", dtype))


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_the_content_and_not_the_name_says_whether_a_file_is_compressed(tmp_path: Path, kind: Any):
    values = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)
    file = tmp_path / "plain.nii.gz"
    file.write_bytes(kind(values, np.eye(4)).to_bytes())
    assert not is_cut_off(file)
    assert not has_bad_intensities(file)
    values[1, 2, 3] = np.nan
    file.write_bytes(kind(values, np.eye(4)).to_bytes())
    assert has_bad_intensities(file)
    content = file.read_bytes()
    for length in (0, 1, 2, 100, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:length])
        assert is_cut_off(file), length


def test_other_formats_are_not_judged(tmp_path: Path):
    file = tmp_path / "a.png"
    file.write_bytes(b"no picture at all")
    assert not is_cut_off(file)
    assert not has_bad_intensities(file)


@pytest.mark.parametrize("damage", ["one bit", "a block of zeros"])
@pytest.mark.parametrize("position", [0.1, 0.5, 0.9])
def test_damaged_content_is_seen(tmp_path: Path, damage: str, position: float):
    content = bytearray(_write_noise(tmp_path / "a.nii.gz").read_bytes())
    first = int(position * len(content))
    if damage == "one bit":
        content[first] ^= 0x10
    else:
        content[first : first + 4096] = bytes(len(content[first : first + 4096]))
    (tmp_path / "a.nii.gz").write_bytes(content)
    assert is_damaged(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_sound_content_is_not_damaged(tmp_path: Path, ending: str, dtype: Any):
    assert not is_damaged(write(tmp_path / f"a{ending}", dtype))
    assert not is_damaged(_write_noise(tmp_path / f"b{ending}"))


@pytest.mark.parametrize("behind", [b"\0" * 600, b"some notes", b"\x1f"])
def test_what_follows_the_content_is_no_damage(tmp_path: Path, behind: bytes):
    content = write(tmp_path / "a.nii").read_bytes()
    parts = gzip.compress(content[:500]) + gzip.compress(content[500:])
    (tmp_path / "two.nii.gz").write_bytes(parts + behind)
    assert not is_damaged(tmp_path / "two.nii.gz")
    assert not is_cut_off(tmp_path / "two.nii.gz")


def test_a_file_that_may_not_be_read_is_not_called_cut_off(tmp_path: Path):
    file = write(tmp_path / "a.nii.gz")
    refused = PermissionError(13, "Permission denied", str(file))  # root may read everything
    with mock.patch.object(Path, "open", side_effect=refused):
        assert fault(file) == "Permission denied"


def test_a_fault_is_said_in_words(tmp_path: Path):
    file = _write_noise(tmp_path / "a.nii.gz")
    assert fault(file) is None
    content = bytearray(file.read_bytes())
    file.write_bytes(content[:-1000])
    assert "ends before" in str(fault(file))
    content[1000] ^= 1
    file.write_bytes(content)
    assert "damaged" in str(fault(file))
    file.with_suffix(".png").touch()
    assert fault(file.with_suffix(".png")) is None


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_a_voxel_size_of_zero_is_none(tmp_path: Path, ending: str, kind: Any, byte_order: str):
    header = kind.header_class(endianness=byte_order)
    image = kind(np.zeros((4, 5, 1), dtype=np.uint8), np.diag([2, 2, 3, 1]), header)
    place = image.header.template_dtype.fields["pixdim"][1]
    width = image.header["pixdim"].itemsize
    file = tmp_path / f"a{ending}"
    image.to_filename(file)
    assert has_voxel_size(file)
    _overwrite(file, place + 3 * width, bytes(width))  # the axis of one voxel
    assert has_voxel_size(file)
    _overwrite(file, place + 2 * width, bytes(width))
    assert not has_voxel_size(file)
    if kind is nibabel.Nifti1Image:  # ITK does not read the other
        assert sitk.ReadImage(str(file)).GetSpacing()[1] == 1


def test_files_of_another_kind_are_left_to_their_readers(tmp_path: Path):
    (tmp_path / "a.png").touch()
    assert has_voxel_size(tmp_path / "a.png")


def _overwrite(file: Path, place: int, content: bytes) -> None:
    is_compressed = file.name.endswith(".gz")
    whole = bytearray(gzip.decompress(file.read_bytes()) if is_compressed else file.read_bytes())
    whole[place : place + len(content)] = content
    file.write_bytes(gzip.compress(whole) if is_compressed else whole)


def _write_noise(path: Path) -> Path:
    values = np.random.default_rng(0).integers(-1000, 1000, (80, 90, 100), dtype=np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(path))
    return path


def test_a_gzip_member_that_begins_where_a_piece_of_the_file_ends_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    content = write(tmp_path / "a.nii").read_bytes()
    first = gzip.compress(content[:2000])
    (tmp_path / "two.nii.gz").write_bytes(first + gzip.compress(content[2000:]))
    monkeypatch.setattr(nifti_checks, "_CHUNK_BYTES", len(first))
    assert fault(tmp_path / "two.nii.gz") is None


def test_an_axis_of_one_voxel_is_no_fault(tmp_path: Path, ending: str):
    file = tmp_path / f"slice{ending}"
    nibabel.save(nibabel.Nifti1Image(np.ones((6, 5, 1), np.int16), np.eye(4)), file)
    assert fault(file) is None


def test_a_compressed_file_that_is_no_nifti_is_not_judged(tmp_path: Path):
    (tmp_path / "notes.txt.gz").write_bytes(gzip.compress(b"text")[:-3] + b"bad")
    assert not is_damaged(tmp_path / "notes.txt.gz")
