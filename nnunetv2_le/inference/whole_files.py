"""Files that appear whole or not at all.

A file is written under its own name into a hidden folder of ``OUT/cases``, checked, and moved to
its place. Hidden folders lie there and not beside the file, because nnU-Net's commands take every
file of OUT with the right ending for a segmentation. Some of nnU-Net's writers make a second file
of a name that follows from the first (``CASE.json`` with the spacing of ``CASE.tif``); it goes the
same way.
"""

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nnunetv2_le.inference.nifti_checks import is_cut_off

ROOM = "cases"
_PART = ".part"


def replace_whole(target: Path, write: Callable[[Path], Any], *, output: Path) -> None:
    """Write a file elsewhere, with what is written beside it, then move all of it to its place.

    Args:
        target: the file, somewhere below ``output``; it is moved last.
        write: writes to the path that it is given, whose name is that of ``target``.
        output: OUT.

    Raises:
        OSError: the file was not written, or not to its end.
    """
    room = TemporaryDirectory(prefix=f"{_PART}.", dir=output / ROOM, ignore_cleanup_errors=True)
    try:
        with room as folder:
            hidden = Path(folder) / target.name
            write(hidden)
            beside = sorted(path for path in Path(folder).iterdir() if path != hidden)
            for path in (*beside, hidden):
                _require_whole(path)
            for path in (*beside, hidden):
                os.replace(path, target.with_name(path.name))
    except RuntimeError as error:  # SimpleITK's way to report a failed write
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise OSError(lines[-1].strip()) from error


def is_whole(path: Path) -> bool:
    """Whether a file is there with all its content, as far as its length and end can tell.

    A system that lost its power may leave files of length 0 that were complete before.

    Args:
        path: a file of a finished case, there or not.
    """
    if not path.is_file() or not path.stat().st_size:
        return False
    return not is_cut_off(path) and (path.suffix != ".npz" or zipfile.is_zipfile(path))


def write_json(target: Path, content: Any, *, output: Path) -> None:
    """Write JSON whole or not at all."""
    text = json.dumps(content, indent=2, allow_nan=False)
    replace_whole(target, lambda path: path.write_text(text, encoding="utf-8"), output=output)


def is_part(path: Path) -> bool:
    """Whether something in ``OUT/cases`` is not a file of a case, but being written."""
    return path.name.startswith(f"{_PART}.")


def remove_leftovers(output: Path) -> None:
    """Remove what a run that was killed left behind; no other run may write at the same time."""
    for path in (output / ROOM).glob(f"{_PART}.*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _require_whole(path: Path) -> None:
    if not path.is_file():
        raise OSError(f"nothing was written to {path}")
    if is_cut_off(path):
        raise OSError("no space left, or a limit on the size of files")
