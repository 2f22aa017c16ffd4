"""What ITK does not say about a NIfTI file.

It reads a file that was cut off without an error, writes one to a full disk without an error, and
reads infinite and missing intensities as 0
(``documentation/decisions/007-files-appear-whole.md``). It also reads a file named ``.nii.gz`` that
is not compressed, so the first two bytes say what a file is, and not its name.
"""

import gzip
import math
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

_GZIP = b"\x1f\x8b"
_CHUNK_BYTES = 2**20


def is_cut_off(path: Path) -> bool:
    """Whether a NIfTI file ends before its content does; False for every other kind of file.

    Args:
        path: an existing file.
    """
    if not _is_nifti(path):
        return False
    try:
        image = _load(path)
    except (OSError, EOFError, zlib.error, ImageFileError, HeaderDataError, WrapStructError):
        return True  # not even its header is whole
    voxels = math.prod(int(size) for size in image.dataobj.shape)
    expected = int(image.dataobj.offset) + voxels * int(image.get_data_dtype().itemsize)
    if not _is_compressed(path):
        return path.stat().st_size < expected
    # gzip notes the length of its content in the last four bytes, modulo 2**32; files of several
    # gzip members, and those with something behind them, have to be read to their end
    return _noted_length(path) != expected % 2**32 and _length(path) < expected


def has_bad_intensities(path: Path) -> bool:
    """Whether a NIfTI file of floats holds infinite or missing (NaN) ones; else False.

    Args:
        path: a NIfTI file that is whole, or any other file.
    """
    if not _is_nifti(path):
        return False
    image = _load(path)
    if image.get_data_dtype().kind != "f":
        return False
    return not np.isfinite(image.dataobj.get_unscaled()).all()


def _is_nifti(path: Path) -> bool:
    return path.name.endswith((".nii", ".nii.gz"))


def _is_compressed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == _GZIP


def _load(path: Path) -> Any:
    """The image as nibabel sees it, which goes by the name and cannot be told to do otherwise."""
    if path.name.endswith(".nii") or _is_compressed(path):
        return nibabel.load(path)
    content = path.read_bytes()
    is_second = nibabel.Nifti2Header.may_contain_header(content)
    return (nibabel.Nifti2Image if is_second else nibabel.Nifti1Image).from_bytes(content)


def _noted_length(path: Path) -> int:
    with path.open("rb") as file:
        file.seek(-4, os.SEEK_END)
        return int(struct.unpack("<I", file.read(4))[0])


def _length(path: Path) -> int:
    """Length of the content as far as it can be read."""
    length = 0
    try:
        with gzip.open(path) as file:
            while chunk := file.read(_CHUNK_BYTES):
                length += len(chunk)
    except (OSError, EOFError, zlib.error):
        pass
    return length
