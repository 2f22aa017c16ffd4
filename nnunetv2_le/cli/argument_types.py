"""Types of arguments: what argparse itself refuses, and folds."""

import argparse
from pathlib import Path

from nnunetv2_le.errors import SettingError


def not_empty(text: str) -> str:
    """The type of an argument that may not be empty.

    Raises:
        argparse.ArgumentTypeError: it is.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError(f"expected a name, got {text!r}")
    return text


def path(text: str) -> Path:
    """The type of a path; an empty one would mean the current folder.

    Raises:
        argparse.ArgumentTypeError: it is empty.
    """
    return Path(not_empty(text))


def parse_fold(text: str | int) -> int | str:
    """A fold as the user names it.

    Raises:
        SettingError: it is neither a number nor ``all``.
    """
    if str(text) == "all":
        return "all"
    if not str(text).isdecimal():
        raise SettingError(f"A fold is a number from 0, or all; got {text!r}.")
    return int(text)
