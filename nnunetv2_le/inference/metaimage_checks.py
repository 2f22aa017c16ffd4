"""What ITK does not say about a compressed MetaImage file (``.mha``).

It prints that it cannot decompress damaged content and reads the image all the same, with the
values that it came to and arbitrary ones behind them. A file that was cut off it refuses.
"""

import zlib
from pathlib import Path
from typing import BinaryIO

_CHUNK_BYTES = 2**20
_ZLIB_OR_GZIP = 32 + zlib.MAX_WBITS
_MAX_HEADER_LINES = 1000  # a few dozen are usual; other files need not have lines at all
_MAX_LINE_BYTES = 2**16


def is_damaged_metaimage(path: Path) -> bool:
    """Whether what a compressed MetaImage file holds is not what was compressed into it.

    The whole file is decompressed for this, which compares its checksum.

    Args:
        path: an existing file; every other kind of file is not damaged.
    """
    if path.suffix != ".mha":
        return False
    with path.open("rb") as file:
        return _has_compressed_content(file) and not _is_whole_stream(file)


def _has_compressed_content(file: BinaryIO) -> bool:
    """Read the header; whether what follows it in the file is compressed."""
    is_compressed = False
    for _ in range(_MAX_HEADER_LINES):
        name, _, value = file.readline(_MAX_LINE_BYTES).partition(b"=")
        name, value = name.strip(), value.strip().upper()
        if name == b"CompressedData":
            is_compressed = value == b"TRUE"
        if not name or name == b"ElementDataFile":
            return is_compressed and name != b"" and value == b"LOCAL"
    return False


def _is_whole_stream(file: BinaryIO) -> bool:
    stream = zlib.decompressobj(_ZLIB_OR_GZIP)
    piece = file.read(_CHUNK_BYTES)
    while piece and not stream.eof:
        try:
            stream.decompress(piece, _CHUNK_BYTES)
        except zlib.error:
            return False
        piece = stream.unconsumed_tail or file.read(_CHUNK_BYTES)
    return stream.eof
