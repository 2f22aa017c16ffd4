"""Which of its own checkpoints a training goes on from, and what is said where that fails.

nnU-Net's rule: checkpoint_final, else checkpoint_latest, else checkpoint_best.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunetv2_le.errors import CheckpointError, ModelFolderError

logger = logging.getLogger(__name__)


def load_to_continue(trainer: Any, *, needs_one: bool) -> None:
    """Load the checkpoint that nnU-Net would go on with (``--c``); without any, begin anew.

    Args:
        trainer: nnU-Net's or ours.
        needs_one: a retrofit, which would begin anew with a model that was perhaps not named.

    Raises:
        CheckpointError: it cannot be loaded, it is older than what an interrupted training left, or
            there is none and ``needs_one``.
    """
    names = ("checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth")
    files = [file for name in names if (file := Path(trainer.output_folder) / name).is_file()]
    if files:
        _require_newest(files)
        _load(trainer, files[0])
    elif needs_one:
        raise CheckpointError(
            f"--c goes on with an interrupted training of heads; {trainer.output_folder} has no "
            "checkpoint. Start it again without --c, with the -pretrained_weights that you named."
        )
    else:
        logger.warning(
            "No checkpoint to continue in %s: a new training starts.", trainer.output_folder
        )


def load_for_validation(trainer: Any, name: str) -> None:
    """Load a checkpoint of a training that ended.

    Args:
        trainer: nnU-Net's or ours.
        name: file name in the fold's folder.

    Raises:
        ModelFolderError: it is missing.
        CheckpointError: it cannot be loaded.
    """
    file = Path(trainer.output_folder) / name
    if not file.is_file():
        raise ModelFolderError(
            f"Validation needs {file}, which is missing. Finish the training first."
        )
    _load(trainer, file)


def _require_newest(files: Sequence[Path]) -> None:
    """Refuse to finish a training again after which another one was begun and interrupted.

    nnU-Net would go on with the final checkpoint, which has nothing left to train, and remove the
    latest one at its end.
    """
    first, *others = files
    for other in others:
        is_latest = other.stem == "checkpoint_latest"  # then the first one is checkpoint_final
        if is_latest and other.stat().st_mtime > first.stat().st_mtime:
            raise CheckpointError(
                f"{first} is older than {other.name} beside it: a new training was interrupted, "
                f"and --c would finish the old one and remove {other.name}. Move {first.name} "
                "elsewhere to continue the new training, or validate the old one with --val."
            )


def _load(trainer: Any, file: Path) -> None:
    if not trainer.was_initialized:
        trainer.initialize()
    try:
        trainer.load_checkpoint(str(file))
    except Exception as error:  # whatever torch meets in a file that is cut off, or of other plans
        reason = (str(error).splitlines() or [""])[0]
        raise CheckpointError(
            f"{file} cannot be loaded ({type(error).__name__}: {reason}). If it was cut off while "
            "it was written, remove it: --c takes checkpoint_final, else checkpoint_latest, else "
            "checkpoint_best. If plans or trainer have changed since, train again."
        ) from error
