"""Types of arguments: what argparse itself refuses."""

import argparse
from pathlib import Path


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
