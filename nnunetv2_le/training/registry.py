"""Where nnU-Net finds the trainers of this package."""

import os
from pathlib import Path

import nnunetv2_le.ext_trainers

VARIABLE = "nnUNet_extTrainer"


def trainers_folder() -> Path:
    """The folder that ``nnUNet_extTrainer`` has to name."""
    return Path(nnunetv2_le.ext_trainers.__file__).resolve().parent


def register_trainers() -> None:
    """Let nnU-Net find the trainers in this process and its children.

    Folders that the user named already are kept and searched first.
    """
    folder = str(trainers_folder())
    known = [path for path in os.environ.get(VARIABLE, "").split(os.pathsep) if path]
    if folder not in known:
        os.environ[VARIABLE] = os.pathsep.join([*known, folder])
