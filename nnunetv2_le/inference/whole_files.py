"""Files that appear whole or not at all.

A file is written under a hidden name in ``OUT/cases``, checked, and renamed. Hidden names lie there
and not beside the file, because nnU-Net's commands take every file of OUT with the right ending for
a segmentation.
"""

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nnunetv2_le.inference.nifti_checks import is_cut_off

ROOM = "cases"
_PART = ".part"


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
    if not path.is_file():
        raise OSError(f"nothing was written to {path}")
    if is_cut_off(path):
        raise OSError("no space left, or a limit on the size of files")
