"""Which of its own checkpoints a training goes on from, and what is said where that fails.

nnU-Net's rule: checkpoint_final, else checkpoint_latest, else checkpoint_best.
"""

import logging
from pathlib import Path
from typing import Any

import torch

from nnunetv2_le.errors import CheckpointError, ModelFolderError
from nnunetv2_le.training.checkpoint_sums import require_sound

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
    folder = Path(trainer.output_folder)
    files = (folder / f"checkpoint_{name}.pth" for name in ("final", "latest", "best"))
    file = next((file for file in files if file.is_file()), None)
    if file is not None:
        _require_newest(folder)
        _load(trainer, file)
    elif needs_one:
        raise CheckpointError(
            f"--c goes on with an interrupted training of heads; {folder} has no "
            "checkpoint. Start it again without --c, with the -pretrained_weights that you named."
        )
    else:
        logger.warning("No checkpoint to continue in %s: a new training starts.", folder)


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


def _require_newest(folder: Path) -> None:
    """Refuse to finish a training again after which another one was begun and interrupted.

    nnU-Net would go on with the final checkpoint, which has nothing left to train, and remove the
    latest one at its end.
    """
    final, latest = (folder / f"checkpoint_{name}.pth" for name in ("final", "latest"))
    if not (final.is_file() and latest.is_file()):
        return
    if latest.stat().st_mtime > final.stat().st_mtime:
        raise CheckpointError(
            f"{final} is older than {latest.name} beside it: a new training was interrupted, and "
            f"--c would finish the old one and remove {latest.name}. Move {final.name} elsewhere "
            "to continue the new training, or validate the old one with --val."
        )


def _load(trainer: Any, file: Path) -> None:
    if not trainer.was_initialized:
        trainer.initialize()
    try:
        require_sound(file)
        trainer.load_checkpoint(str(file))
    except torch.OutOfMemoryError:  # the checkpoint is as good as before
        raise
    except Exception as error:  # whatever torch meets in a file that is cut off, or of other plans
        reason = (str(error).splitlines() or [""])[0]
        raise CheckpointError(
            f"{file} cannot be loaded ({type(error).__name__}: {reason}). If it is damaged "
            "or was cut off, remove it: --c takes checkpoint_final, else checkpoint_latest, else "
            "checkpoint_best. If plans or trainer have changed since, train again."
        ) from error
