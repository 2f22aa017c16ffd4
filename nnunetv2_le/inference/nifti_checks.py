"""What ITK does not say about a NIfTI file.

It reads a file that was cut off, or whose compressed content is damaged, without an error, writes
one to a full disk without an error, and reads infinite and missing intensities as 0
(``documentation/decisions/007-files-appear-whole.md``). It also reads a file named ``.nii.gz`` that
is not compressed, so the first two bytes say what a file is, and not its name.
"""

import gzip
import math
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from nnunetv2_le.inference.metaimage_checks import is_damaged_metaimage

_GZIP = b"\x1f\x8b"
_GZIP_MEMBER = 16 + zlib.MAX_WBITS  # how zlib is told to expect gzip's header and checksum
_CHUNK_BYTES = 2**20
_NOT_READABLE = (
    *(OSError, EOFError, zlib.error, ImageFileError, HeaderDataError, WrapStructError),
    *(ValueError, OverflowError),  # a header of random bytes, with an offset that is no number
)


def is_cut_off(path: Path) -> bool:
    """Whether a NIfTI file ends before its content does; False for every other kind of file.

    Args:
        path: an existing file.
    """
    if not _is_nifti(path):
        return False
    try:
        expected = _expected_length(path)
    except _NOT_READABLE:
        return True  # not even its header is whole
    if not _is_compressed(path):
        return path.stat().st_size < expected
    # gzip notes the length of its content in the last four bytes, modulo 2**32; files of several
    # gzip members, and those with something behind them, have to be read to their end
    return _noted_length(path) != expected % 2**32 and _content(path).length < expected


def is_damaged(path: Path) -> bool:
    """Whether what a compressed NIfTI file holds is not what was compressed into it.

    ITK does not compare the checksum that gzip keeps, so that a flipped bit or a block of zeros
    gives an image with other intensities. The whole file is decompressed for this.

    Args:
        path: an existing file; every other kind of file is not damaged.
    """
    return _is_nifti(path) and _is_compressed(path) and _content(path).is_damaged


def fault(path: Path) -> str | None:
    """What is wrong with the content of a file, for a message; None if it is whole.

    Args:
        path: an existing file, NIfTI or compressed MetaImage; every other kind of file has no fault
            but that it cannot be opened.
    """
    try:
        path.open("rb").close()
    except OSError as error:  # no permission, a drive that is gone
        return str(error.strerror)
    if is_cut_off(path):
        return "it ends before the length that its header states"
    if is_damaged(path):
        return "its content is damaged (gzip's checksum does not fit)"
    if is_damaged_metaimage(path):
        return "its content is damaged (it cannot be decompressed)"
    if _is_nifti(path) and min(shape := _stated_header(path).get_data_shape(), default=1) < 1:
        return f"its header states the shape {tuple(map(int, shape))}"
    return None


def what_itk_refuses(path: Path, error: Exception) -> str | None:
    """What ITK does not read of a sound NIfTI file and what to do about it; None of other files.

    Args:
        path: an existing file.
        error: what the reader raised.
    """
    if not _is_nifti(path):
        return None
    if "orthonormal" in str(error):
        return (
            "its header (sform) states axes that are not at right angles. Resample it to a "
            "straight grid. If only rounding made them so, write the nearest straight axes with "
            "nibabel: image.set_qform(image.affine, code=1)"
        )
    if _kind(_first_bytes(path)) is nibabel.Nifti2Image and "ImageIO" in str(error):
        return "it is NIfTI-2, which ITK does not read. Save it as NIfTI-1"
    return None


def has_voxel_size(path: Path) -> bool:
    """Whether a NIfTI file states how large its voxels are; True for every other kind of file.

    ITK takes 1 mm where the header has 0. An axis of one voxel may do without.

    Args:
        path: a NIfTI file that is whole, or any other file.
    """
    if not _is_nifti(path):
        return True
    header = _stated_header(path)
    axes = zip(header.get_data_shape()[:3], header["pixdim"][1:4], strict=False)
    return all(length == 1 or size != 0 for length, size in axes)


def has_bad_intensities(path: Path) -> bool:
    """Whether a NIfTI file of floats holds infinite or missing (NaN) ones; else False.

    Args:
        path: a NIfTI file that is whole, or any other file.
    """
    return count_bad_intensities(path) > 0


def count_bad_intensities(path: Path) -> int:
    """Voxels of a NIfTI file of floats that are infinite or missing (NaN); of other files 0.

    Args:
        path: a NIfTI file that is whole, or any other file.
    """
    if not _is_nifti(path):
        return 0
    image = _load(path)
    if image.get_data_dtype().kind != "f":
        return 0
    return int(np.count_nonzero(~np.isfinite(image.dataobj.get_unscaled())))


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
    return _kind(content).from_bytes(content)


def _kind(content: bytes) -> Any:
    """NIfTI-1 or NIfTI-2, from how a file begins."""
    is_second = nibabel.Nifti2Header.may_contain_header(content)
    return nibabel.Nifti2Image if is_second else nibabel.Nifti1Image


def _stated_header(path: Path) -> Any:
    """The header as it lies in the file; nibabel's images come with what it mended."""
    content = _first_bytes(path)
    header = _kind(content).header_class
    return header(content[: header.sizeof_hdr], check=False)


def _first_bytes(path: Path) -> bytes:
    """As many as the longest header has."""
    with (gzip.open if _is_compressed(path) else open)(path, "rb") as file:
        return bytes(file.read(nibabel.Nifti2Header.sizeof_hdr))


def _expected_length(path: Path) -> int:
    """Length of the content as its header states it."""
    image = _load(path)
    voxels = math.prod(int(size) for size in image.dataobj.shape)
    return int(image.dataobj.offset) + voxels * int(image.get_data_dtype().itemsize)


def _noted_length(path: Path) -> int:
    with path.open("rb") as file:
        file.seek(-4, os.SEEK_END)
        return int(struct.unpack("<I", file.read(4))[0])


@dataclass(frozen=True)
class _Content:
    """What is in a gzip file: the length of its whole members, and whether a part is wrong."""

    length: int
    is_damaged: bool


def _content(path: Path) -> _Content:
    """Read all gzip members; zlib compares their checksums."""
    length, of_member, member = 0, 0, zlib.decompressobj(_GZIP_MEMBER)
    with path.open("rb") as file:
        piece = file.read(_CHUNK_BYTES)
        while piece:
            try:
                of_member += len(member.decompress(piece, _CHUNK_BYTES))
            except zlib.error:
                return _Content(length, is_damaged=True)
            if member.eof:
                length, of_member = length + of_member, 0
                piece = member.unused_data or file.read(_CHUNK_BYTES)
                if not piece.startswith(_GZIP[: len(piece)]):
                    break  # something else behind the content, which no reader looks at
                member = zlib.decompressobj(_GZIP_MEMBER)
            else:
                piece = member.unconsumed_tail or file.read(_CHUNK_BYTES)
    return _Content(length, is_damaged=False)
