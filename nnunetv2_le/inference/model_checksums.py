"""Checksums of what a model consists of: two models of one kind have other ones."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from nnunetv2_le.inference.model import Model


def checksums(model: Model) -> dict[str, str]:
    """SHA-256 of each fold's checkpoint and of ``plans.json``."""
    # of several checkpoints every one has its own name
    is_one = len(model.checkpoint_names) == 1
    files = {
        f"{fold}" if is_one else f"{fold} {name}": model.folder / f"fold_{fold}" / name
        for fold in model.folds
        for name in model.checkpoint_names
    }
    return {name: _sha256(file) for name, file in files.items()} | {
        "plans": _sha256(model.folder / "plans.json")
    }


def checksum_of_all(models: Sequence[Model]) -> str:
    """One SHA-256 for the models of a run, in their order."""
    parts = [f"{name} {value}" for model in models for name, value in checksums(model).items()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := stream.read(2**22):
            digest.update(piece)
    return digest.hexdigest()
