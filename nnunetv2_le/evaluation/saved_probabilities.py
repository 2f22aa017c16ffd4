"""Saved probabilities (nnU-Net's CASE.npz) in slabs, so that a volume of any size can be looked at.

The file is a zip archive with one array ``probabilities`` (channels, depth, height, width). Arrays
up to 256 MiB are read whole; of larger ones every channel is unpacked beside the others, a slab at
a time, so that memory holds one slab.
"""

import copy
import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float
from numpy.lib import format as npy

from nnunetv2_le.errors import InputError
from nnunetv2_le.types import Labels

_WHOLE_BYTES = 2**28
_SLAB_VOXELS = 2**21
_SLAB_VALUES = 2**25  # of all channels: 128 MiB in single precision
_PACKED_BYTES = 2**16  # read at one time for each channel
_UNPACKED_BYTES = 2**20
_KEY = "probabilities"
_NOT_READABLE = (
    *(OSError, KeyError, ValueError, zipfile.BadZipFile, zlib.error, EOFError),
    *(RuntimeError, tokenize.TokenError),  # damaged headers, of the archive and of the array
)


@dataclass(frozen=True)
class _Header:
    """What an array in the archive looks like."""

    shape: tuple[int, ...]
    dtype: np.dtype
    is_fortran: bool
    offset: int


def iterate_slabs(
    file: Path, *, shape: tuple[int, ...], whole_bytes: int = _WHOLE_BYTES
) -> Iterator[tuple[slice, Float[np.ndarray, "channels slab height width"]]]:
    """The probabilities of a case, slab by slab along the first axis.

    Args:
        file: CASE.npz.
        shape: of the case's segmentation (depth, height, width).
        whole_bytes: arrays up to this size are read at once.

    Yields:
        The slab's place along the first axis, and its probabilities.

    Raises:
        InputError: if the file cannot be read or its shape does not fit.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            header = _read_header(archive)
            if header.shape[1:] != shape:
                raise InputError(f"{file} has shape {header.shape[1:]}, the segmentation {shape}")
            voxels = min(_SLAB_VOXELS, _SLAB_VALUES // max(1, header.shape[0]))
            thickness = max(1, voxels // max(1, math.prod(shape[1:])))
            slabs = [slice(i, min(i + thickness, shape[0])) for i in range(0, shape[0], thickness)]
            size = math.prod(header.shape) * header.dtype.itemsize
            if size <= whole_bytes or header.is_fortran:
                with archive.open(f"{_KEY}.npy") as stream:
                    whole = npy.read_array(stream, allow_pickle=False)
                yield from ((slab, whole[:, slab]) for slab in slabs)
            else:
                yield from _lockstep(archive, header, slabs)
    except _NOT_READABLE as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file} holds no array {_KEY!r} that can be read: {error}") from error


def segmentation_of(file: Path, labels: Labels, *, shape: tuple[int, ...]) -> np.ndarray:
    """The label map that saved probabilities mean.

    Classes: the most probable one. Regions: each above 0.5 paints its value, in order, as nnU-Net
        does.

    Args:
        file: CASE.npz of a head or of the fused prediction.
        labels: what its channels mean.
        shape: of the case's segmentation.
    """
    segmentation = np.zeros(shape, dtype=np.int32)
    for slab, probabilities in iterate_slabs(file, shape=shape):
        segmentation[slab] = decided(probabilities, labels)
    return segmentation


def decided(probabilities: np.ndarray, labels: Labels) -> np.ndarray:
    """Label map of probabilities (channels first), as nnU-Net decides."""
    if not labels.has_regions:
        return np.asarray(probabilities.argmax(axis=0), dtype=np.int32)
    painted = np.zeros(probabilities.shape[1:], dtype=np.int32)
    for probability, value in zip(probabilities, labels.region_values, strict=True):
        painted[probability > 0.5] = value
    return painted


def _read_header(archive: zipfile.ZipFile) -> _Header:
    with archive.open(f"{_KEY}.npy") as stream:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, is_fortran, dtype = read(stream)
        if not np.issubdtype(dtype, np.floating) or len(shape) < 2:
            raise InputError(f"expected floating-point probabilities, got {dtype} of shape {shape}")
        return _Header(shape, dtype, is_fortran, stream.tell())


def _lockstep(
    archive: zipfile.ZipFile, header: _Header, slabs: list[slice]
) -> Iterator[tuple[slice, np.ndarray]]:
    """Unpack the same slab of every channel, each from a stream of its own."""
    channel_bytes = math.prod(header.shape[1:]) * header.dtype.itemsize
    plane_bytes = channel_bytes // header.shape[1]
    with Path(str(archive.filename)).open("rb") as file:
        walker = _Unpacked(file, archive.getinfo(f"{_KEY}.npy"))
        walker.skip(header.offset)
        streams = []
        for _ in range(header.shape[0]):
            streams.append(walker.copy())
            walker.skip(channel_bytes)
        walker.require_checksum()
        for slab in slabs:
            thickness = slab.stop - slab.start
            pieces = [stream.read(thickness * plane_bytes) for stream in streams]
            flat = [np.frombuffer(piece, dtype=header.dtype) for piece in pieces]
            yield slab, np.stack(flat).reshape(header.shape[0], thickness, *header.shape[2:])


class _Unpacked:
    """A file of an archive, read from its beginning; a copy goes on from where it was made.

    A stream of ``zipfile`` gets to a channel only by unpacking all channels before it, and one for
    each channel does that again and again.

    Args:
        file: the archive.
        entry: of the file, deflated or stored.
    """

    def __init__(self, file: BinaryIO, entry: zipfile.ZipInfo) -> None:
        self._file, self._entry = file, entry
        file.seek(entry.header_offset + 26)  # lengths of the name and of the extra field
        lengths = [int.from_bytes(file.read(2), "little") for _ in range(2)]
        self._position = entry.header_offset + 30 + sum(lengths)
        self._end = self._position + entry.compress_size
        is_packed = entry.compress_type == zipfile.ZIP_DEFLATED
        self._unpacker = zlib.decompressobj(-zlib.MAX_WBITS) if is_packed else None
        self._packed = b""
        self._checksum = 0

    def copy(self) -> "_Unpacked":
        """The same place a second time."""
        other = copy.copy(self)
        other._unpacker = None if self._unpacker is None else self._unpacker.copy()
        return other

    def read(self, size: int) -> bytes:
        """The next bytes.

        Raises:
            EOFError: there are fewer.
        """
        pieces = []
        while size:
            if not self._packed:
                self._file.seek(self._position)
                self._packed = self._file.read(min(_PACKED_BYTES, self._end - self._position))
                self._position += len(self._packed)
            is_last = not self._packed
            pieces.append(self._next(size))
            if is_last and not pieces[-1]:
                raise EOFError("the array ends too early")
            size -= len(pieces[-1])
        return b"".join(pieces)

    def skip(self, size: int) -> None:
        """Pass over the next bytes, and take them into the checksum."""
        while size:
            piece = self.read(min(size, _UNPACKED_BYTES))
            self._checksum = zlib.crc32(piece, self._checksum)
            size -= len(piece)

    def require_checksum(self) -> None:
        """Refuse a file other than the one that was written, once all of it was skipped.

        Raises:
            BadZipFile: it was damaged.
        """
        if self._checksum != self._entry.CRC:
            raise zipfile.BadZipFile("its checksum is another")

    def _next(self, most: int) -> bytes:
        if self._unpacker is None:
            piece, self._packed = self._packed[:most], self._packed[most:]
        else:
            piece = self._unpacker.decompress(self._packed, most)
            self._packed = self._unpacker.unconsumed_tail
        return piece
