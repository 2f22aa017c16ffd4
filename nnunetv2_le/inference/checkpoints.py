"""Checkpoints of nnU-Net: which there are, and what a prediction needs of them.

nnU-Net keeps checkpoints as pickles. They are read here with ``weights_only`` and the few NumPy
types that nnU-Net's own log puts into them; a checkpoint that needs more is read as nnU-Net reads
it, which runs code that the file brings along (``documentation/security.md``).
"""

import logging
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from nnunetv2_le.errors import CheckpointError, ModelFolderError
from nnunetv2_le.training.checkpoint_sums import require_sound

logger = logging.getLogger(__name__)

Fold = int | str

# Weights of one run that are copied into memory. Those beyond stay in their files, which the system
# reads when they are used and drops again when memory is short.
_COPIED_BYTES = 4 * 2**30


@dataclass(frozen=True)
class Checkpoint:
    """What a prediction needs of a checkpoint; the optimizer's state is as large again.

    Attributes:
        plans: with which it was trained, as nnU-Net keeps them in every checkpoint.
        dataset_json: the data set's description, likewise.
    """

    weights: dict[str, Tensor]
    trainer_name: str
    configuration_name: str
    mirror_axes: tuple[int, ...] | None
    plans: dict[str, Any]
    dataset_json: dict[str, Any]


class CheckpointReader:
    """Reads the checkpoints of a run, with bounded memory for their weights.

    Args:
        max_bytes: how many bytes of weights are copied into memory.
    """

    def __init__(self, max_bytes: int = _COPIED_BYTES) -> None:
        self._left = max_bytes

    def read(self, folder: Path, fold: Fold, name: str) -> Checkpoint:
        """One checkpoint of a model folder.

        Raises:
            ModelFolderError: it is not there.
            CheckpointError: it cannot be read, or is no checkpoint of nnU-Net.
        """
        path = folder / f"fold_{fold}" / name
        if not path.is_file():
            there = sorted(other.parent.name for other in folder.glob(f"fold_*/{name}"))
            raise ModelFolderError(
                f"Expected {path}, which does not exist. Folds with a {name} here: "
                f"{', '.join(there) or 'none'}. Choose with -f, or name another checkpoint with "
                "-chk."
            )
        content = _require_content(path)
        weights: dict[str, Any] = content["network_weights"]
        tensors = {key: value for key, value in weights.items() if isinstance(value, Tensor)}
        size = sum(value.nbytes for value in tensors.values())
        if size <= self._left:  # copies: nothing of the mapped file is left
            self._left -= size
            weights = {
                key: value.clone() if isinstance(value, Tensor) else value
                for key, value in weights.items()
            }
        axes = content.get("inference_allowed_mirroring_axes")
        return Checkpoint(
            weights=weights,
            trainer_name=content["trainer_name"],
            configuration_name=content["init_args"]["configuration"],
            mirror_axes=tuple(axes) if axes else None,
            plans=content["init_args"].get("plans", {}),
            dataset_json=content["init_args"].get("dataset_json", {}),
        )


def available_folds(folder: Path, wanted: Sequence[str]) -> tuple[Fold, ...]:
    """Numbered folds that have every wanted checkpoint, as nnU-Net finds them; else ``fold_all``.

    Args:
        folder: the model's folder.
        wanted: names of checkpoints, or shell patterns.

    Raises:
        ModelFolderError: no fold has them.
    """
    numbers = sorted(
        int(path.name[5:])
        for path in folder.glob("fold_*")
        if path.name[5:].isdigit() and all(_matching(path, name) for name in wanted)
    )
    if numbers:
        return tuple(numbers)
    if all(_matching(folder / "fold_all", name) for name in wanted):
        return ("all",)
    raise ModelFolderError(
        f"No fold of {folder} has a {' and a '.join(wanted)}. Finish a training, or name another "
        "checkpoint with -chk (for example checkpoint_best.pth)."
    )


def checkpoint_names(
    folder: Path, wanted: Sequence[str], *, folds: Sequence[Fold]
) -> tuple[str, ...]:
    """Names of the checkpoints that names and shell patterns stand for, the same in every fold.

    Args:
        folder: the model's folder.
        wanted: names, or patterns such as ``checkpoint_cycle*.pth``.
        folds: the folds that have to have them.

    Returns:
        Names in the order of ``wanted``; those of a pattern by the numbers in them.

    Raises:
        ModelFolderError: a pattern matches nothing, or not the same in every fold.
    """
    names: list[str] = []
    for name in wanted:
        if not _is_pattern(name):
            names.append(name)
            continue
        found = [_matching(folder / f"fold_{fold}", name) for fold in folds]
        if not any(found):
            there = sorted({path.name for path in folder.glob("fold_*/*.pth")})
            raise ModelFolderError(
                f"Nothing in the folds {_listed(folds)} of {folder} matches {name!r}. Checkpoints "
                f"there: {', '.join(there) or 'none'}. Choose with -chk."
            )
        for fold, others in zip(folds, found, strict=True):
            if others != found[0]:
                differing = sorted(set(others) ^ set(found[0]))
                raise ModelFolderError(
                    f"Fold {fold} of {folder} and fold {folds[0]} do not have the same checkpoints "
                    f"that match {name!r}: {', '.join(differing)} is in one alone. Name "
                    "checkpoints with -chk that all folds have, or folds with -f."
                )
        names += found[0]
    return tuple(dict.fromkeys(names))


def _matching(folder: Path, name: str) -> list[str]:
    """Files of a fold that a name or pattern stands for; numbers in names count as numbers."""
    if not _is_pattern(name):
        return [name] if (folder / name).is_file() else []
    names = [path.name for path in folder.glob("*") if path.is_file()]
    return sorted((other for other in names if fnmatchcase(other, name)), key=_by_numbers)


def _is_pattern(name: str) -> bool:
    return any(sign in name for sign in "*?[")


def _by_numbers(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _listed(folds: Sequence[Fold]) -> str:
    return ", ".join(map(str, folds))


def _require_content(path: Path) -> Mapping[str, Any]:
    try:
        require_sound(path)
        content = _load(path)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}: {reason}). It may be "
            "cut off or damaged: copy it again from the training machine."
        ) from error
    if not _is_nnunets(content):
        raise CheckpointError(
            f"{path} is not a checkpoint of nnU-Net v2: it lacks network_weights, trainer_name or "
            "the configuration in init_args. Name a file that nnUNetv2_train wrote."
        )
    return cast("Mapping[str, Any]", content)


def _is_nnunets(content: object) -> bool:
    if not isinstance(content, Mapping):
        return False
    arguments = content.get("init_args")
    return (
        isinstance(content.get("network_weights"), Mapping)
        and isinstance(content.get("trainer_name"), str)
        and isinstance(arguments, Mapping)
        and isinstance(arguments.get("configuration"), str)
    )


def _load(path: Path) -> Any:
    """Read a checkpoint; its file is mapped, so that only what is used is ever read."""
    mapped = zipfile.is_zipfile(path)
    try:
        with torch.serialization.safe_globals(_types_of_logs()):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:
        if "weights_only" not in str(error) and "WeightsUnpickler" not in str(error):
            raise
        logger.debug("%s needs more than weights: %s", path, error)
        return torch.load(path, map_location="cpu", weights_only=False, mmap=mapped)


def _types_of_logs() -> list[Any]:
    """What nnU-Net's log holds beside plain Python: NumPy's scalars, whichever NumPy wrote it."""
    types = [np.dtype, np.float32, np.float64, torch.device]
    types += [type(np.dtype("float32")), type(np.dtype("float64"))]
    return [*types, _scalar("numpy._core.multiarray"), _scalar("numpy.core.multiarray")]


def _scalar(module: str) -> Any:
    """NumPy's function that makes a scalar, under the name that NumPy 2 or 1 writes for it."""
    make: Any = np.float64(0).__reduce__()[0]

    def scalar(*args: Any) -> Any:
        return make(*args)

    scalar.__module__, scalar.__qualname__ = module, "scalar"
    return scalar
