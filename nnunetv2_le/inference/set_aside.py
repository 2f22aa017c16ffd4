"""What an earlier run wrote of a case that is predicted anew, kept until there is a new result.

It lies in ``OUT/set_aside/CASE``, laid out as in OUT. A case that is written loses it; of one that
fails, or whose run was interrupted, it stays there, so that nothing is lost and nothing stale is
taken for a result. The record of the case shows that the files are those of this command.
"""

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

FOLDER = "set_aside"


def set_aside(folder: Path, case: str, files: Iterable[Path]) -> None:
    """Move files of a case, those that are there and of which none was set aside before.

    Args:
        folder: OUT.
        case: its name.
        files: below OUT.

    Raises:
        OSError: a file cannot be moved.
    """
    for path in files:
        target = folder_of(folder, case) / path.relative_to(folder)
        if os.path.lexists(path) and not os.path.lexists(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)


def is_recorded(folder: Path, case: str) -> bool:
    """Whether an earlier run of this command had finished the case, set aside or not."""
    record = Path("cases") / f"{case}.json"
    return any((room / record).is_file() for room in (folder, folder_of(folder, case)))


def folder_of(folder: Path, case: str) -> Path:
    """Where the files of a case lie that were set aside."""
    return folder / FOLDER / case


def forget_set_aside(folder: Path, case: str) -> None:
    """The case has a newer result."""
    shutil.rmtree(folder_of(folder, case), ignore_errors=True)


def remove_if_empty(folder: Path) -> None:
    """Remove ``OUT/set_aside`` where nothing is in it; no other run may write at the same time."""
    with suppress(OSError):
        (folder / FOLDER).rmdir()
