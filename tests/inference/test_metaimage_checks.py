"""Damaged MetaImage files, which ITK reads with arbitrary values."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_le.inference.metaimage_checks import is_damaged_metaimage
from nnunetv2_le.inference.nifti_checks import fault


def write(path: Path, *, compressed: bool, seed: int = 0) -> Path:
    values = np.random.default_rng(seed).normal(size=(20, 24, 28)).astype(np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(path), compressed)
    return path


def spoil(path: Path, byte: int) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 0x10
    path.write_bytes(content)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_sound_file_is_not_damaged(tmp_path: Path, compressed: bool):
    assert not is_damaged_metaimage(write(tmp_path / "a.mha", compressed=compressed))


@pytest.mark.parametrize("byte", [5000, -1])
def test_damaged_content_is_found_that_itk_reads(tmp_path: Path, byte: int):
    path = write(tmp_path / "a.mha", compressed=True)
    spoil(path, byte)
    sitk.ReadImage(str(path))
    assert is_damaged_metaimage(path)
    assert "its content is damaged" in str(fault(path))


def test_a_file_that_was_cut_off_is_damaged(tmp_path: Path):
    path = write(tmp_path / "a.mha", compressed=True)
    path.write_bytes(path.read_bytes()[:-100])
    assert is_damaged_metaimage(path)


@pytest.mark.parametrize("content", [b"", b"no header", b"\n" * 3000, b"CompressedData = True\n"])
def test_what_has_no_header_is_left_to_its_reader(tmp_path: Path, content: bytes):
    path = tmp_path / "a.mha"
    path.write_bytes(content)
    assert not is_damaged_metaimage(path)


def test_other_files_are_not_looked_into(tmp_path: Path):
    path = write(tmp_path / "a.mha", compressed=True)
    spoil(path, 5000)
    assert not is_damaged_metaimage(path.rename(tmp_path / "a.nrrd"))


def test_content_that_lies_in_another_file_is_left_to_its_reader(tmp_path: Path):
    path = tmp_path / "a.mha"
    path.write_bytes(b"CompressedData = True\nElementDataFile = a.zraw\n")
    assert not is_damaged_metaimage(path)
