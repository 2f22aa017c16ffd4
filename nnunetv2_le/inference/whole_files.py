"""Files that appear whole or not at all.

A file is written under a hidden name in ``OUT/cases``, checked, and renamed. Hidden names lie there
and not beside the file, because nnU-Net's commands take every file of OUT with the right ending for
a segmentation.
"""

import gzip
import json
import math
import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOM = "cases"
_PART = ".part"

_NIFTI_HEADER_BYTES = 352


def replace_whole(target: Path, write: Callable[[Path], Any], *, output: Path) -> None:
    """Write a file under another name, then give it its own.

    Args:
        target: the file, somewhere below ``output``.
        write: writes to the path that it is given, which ends as ``target`` does.
        output: OUT.

    Raises:
        OSError: the file was not written, or not to its end.
    """
    owner = f"{os.getpid()}_{threading.get_native_id()}"
    hidden = output / ROOM / f"{_PART}.{owner}.{target.name}"
    try:
        write(hidden)
        _require_whole(hidden)
        os.replace(hidden, target)
    except RuntimeError as error:  # SimpleITK's way to report a failed write
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise OSError(lines[-1].strip()) from error
    finally:
        hidden.unlink(missing_ok=True)


def write_json(target: Path, content: Any, *, output: Path) -> None:
    """Write JSON whole or not at all."""
    text = json.dumps(content, indent=2, allow_nan=False)
    replace_whole(target, lambda path: path.write_text(text, encoding="utf-8"), output=output)


def remove_leftovers(output: Path) -> None:
    """Remove what a run that was killed left behind; no other run may write at the same time."""
    for path in (output / ROOM).glob(f"{_PART}.*"):
        path.unlink(missing_ok=True)


def _require_whole(path: Path) -> None:
    """ITK writes NIfTI without looking whether the disk took it: compare size and header."""
    if not path.is_file():
        raise OSError(f"nothing was written to {path}")
    if path.name.endswith(".nii.gz"):
        try:
            with gzip.open(path) as file:
                expected = _nifti_bytes(file.read(_NIFTI_HEADER_BYTES))
        except EOFError as error:
            raise OSError("No space left on device, or a limit on file size") from error
        with path.open("rb") as file:
            file.seek(-4, os.SEEK_END)
            # the last four bytes of a gzip file: the length of its content modulo 2**32
            came = struct.unpack("<I", file.read(4))[0]
        expected %= 2**32
    elif path.name.endswith(".nii"):
        with path.open("rb") as file:
            expected, came = _nifti_bytes(file.read(_NIFTI_HEADER_BYTES)), path.stat().st_size
    else:
        return
    if came != expected:
        raise OSError("No space left on device, or a limit on file size")


def _nifti_bytes(header: bytes) -> int:
    """Length of a NIfTI-1 or NIfTI-2 file according to its header."""
    if len(header) < _NIFTI_HEADER_BYTES:
        raise OSError("No space left on device, or a limit on file size")
    if struct.unpack_from("<i", header)[0] == 348:
        dims = struct.unpack_from("<8h", header, 40)
        (bits,), (offset,) = (
            struct.unpack_from("<h", header, 72),
            struct.unpack_from("<f", header, 108),
        )
    else:
        dims = struct.unpack_from("<8q", header, 16)
        (bits,), (offset,) = (
            struct.unpack_from("<h", header, 14),
            struct.unpack_from("<q", header, 168),
        )
    voxels = int(math.prod(dims[1 : dims[0] + 1]))
    return int(offset) + voxels * int(bits) // 8
