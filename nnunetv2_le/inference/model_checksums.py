"""Checksums of what a model consists of: two models of one kind have other ones."""

import hashlib
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from nnunetv2_le.inference.model import Model


def checksums(model: Model) -> dict[str, str]:
    """SHA-256 of each fold's checkpoint and of ``plans.json``."""
    return _of_files(model, _sha256)


def fingerprint(models: Sequence[Model]) -> str:
    """One checksum for the models of a run, in their order, without reading the weights.

    A checkpoint of torch is a ZIP archive with the CRC-32 of every tensor in its directory; an
    older one, or one without them, is read as a whole.
    """
    parts = [of_file for model in models for of_file in _of_files(model, _of_directory).items()]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _of_files(model: Model, checksum: Callable[[Path], str]) -> dict[str, str]:
    # of several checkpoints every one has its own name
    is_one = len(model.checkpoint_names) == 1
    files = {
        f"{fold}" if is_one else f"{fold} {name}": model.folder / f"fold_{fold}" / name
        for fold in model.folds
        for name in model.checkpoint_names
    }
    return {name: checksum(file) for name, file in files.items()} | {
        "plans": checksum(model.folder / "plans.json")
    }


def _of_directory(file: Path) -> str:
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            entries = [(entry.filename, entry.file_size, entry.CRC) for entry in archive.filelist]
        if all(crc for _, size, crc in entries if size):
            return hashlib.sha256(repr(entries).encode()).hexdigest()
    return _sha256(file)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := stream.read(2**22):
            digest.update(piece)
    return digest.hexdigest()
