"""What a checkpoint can start a network with.

The trunk by nnU-Net's rule: every parameter but those with ``.seg_layers.`` in their name, for a
new task has other classes. nnU-Net's own loader wants the device that wrote the file, so that a
model of a GPU cannot start a training without one. The decoder heads of a layer ensemble and the
first copy of a multi-head network are nnU-Net's own, so where the number of classes is the same
they can start from the checkpoint too.
"""

import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nnunetv2_le.errors import CheckpointError
from nnunetv2_le.network.layer_ensemble_unet import LayerEnsembleUNet
from nnunetv2_le.network.multi_head_unet import MultiHeadUNet
from nnunetv2_le.training.base_trainers import unwrap
from nnunetv2_le.training.checkpoint_sums import require_sound

logger = logging.getLogger(__name__)

_HEADS = ".seg_layers."  # in the names that nnU-Net's loader leaves out
_DECODER_HEADS = "decoder.seg_layers."


def read_weights(file: Path) -> dict[str, Any]:
    """The network weights of an nnU-Net checkpoint.

    Raises:
        CheckpointError: no such file, or not a checkpoint of nnU-Net.
    """
    weights: dict[str, Any] = _read(file)["network_weights"]
    return weights


@lru_cache(maxsize=1)
def read_trainer_name(file: Path) -> str | None:
    """The trainer that wrote an nnU-Net checkpoint, where the file says it.

    Raises:
        CheckpointError: no such file, or not a checkpoint of nnU-Net.
    """
    return _read(file).get("trainer_name")


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise CheckpointError(
            f"-pretrained_weights has to name a checkpoint, found none at {file}."
        )
    try:
        require_sound(file)
        checkpoint: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=False)
        checkpoint["network_weights"]
    except Exception as error:  # whatever torch meets in a file that is something else
        raise CheckpointError(
            f"-pretrained_weights has to name a checkpoint of nnU-Net (with 'network_weights'); "
            f"{file} cannot be read as one ({type(error).__name__})."
        ) from error
    return checkpoint


def take_over_trunk(network: nn.Module, weights: dict[str, Any], file: Path) -> None:
    """Fill a network, all but its heads, from a checkpoint: nnU-Net's rule of pretrained weights.

    Args:
        network: the trainer's network, of any architecture, with or without wrappers.
        weights: network weights of a checkpoint.
        file: where they come from, for the error.

    Raises:
        CheckpointError: a parameter is missing or has another shape.
    """
    bare = unwrap(network)
    own = bare.state_dict()
    needed = [name for name in own if _HEADS not in name]
    for name in needed:
        if (problem := _misfit(name, weights, own)) is not None:
            raise CheckpointError(
                f"{file} does not fit the network to train: {problem}. Name a checkpoint of the "
                "same architecture, or of a configuration with the same one."
            )
    bare.load_state_dict(own | {name: weights[name] for name in needed})


def carry_over_decoder_heads(network: nn.Module, weights: dict[str, Any]) -> tuple[str, ...]:
    """Copy the decoder heads of a checkpoint into a network of ours, where shapes are equal.

    Other networks are left as they are.

    Args:
        network: the trainer's network, with or without wrappers.
        weights: network weights of a checkpoint.

    Returns:
        The names of the parameters that were copied.
    """
    bare = unwrap(network)
    if not isinstance(bare, LayerEnsembleUNet | MultiHeadUNet):
        return ()
    own = bare.state_dict()
    fitting = {
        name: value
        for name, value in weights.items()
        if name.startswith(_DECODER_HEADS) and name in own and own[name].shape == value.shape
    }
    bare.load_state_dict(own | fitting)
    missing = sum(name.startswith(_DECODER_HEADS) for name in own) - len(fitting)
    logger.info(
        "Pretrained weights: trunk and %d tensors of decoder heads; %d that do not fit stay new.",
        len(fitting),
        missing,
    )
    return tuple(fitting)


def take_over_finished_network(network: nn.Module, weights: dict[str, Any], file: Path) -> None:
    """Fill a layer ensemble's trunk and decoder heads, all of them, from a finished model.

    Args:
        network: the trainer's network, with or without wrappers.
        weights: network weights of the model.
        file: where they come from, for the error.

    Raises:
        CheckpointError: a parameter is missing or has another shape, or the model has more of them
            than the plain network, so that its segmentation would not be that of the finest head.
    """
    bare = unwrap(network)
    own = bare.state_dict()
    needed = [name for name in own if not name.startswith("extra_heads.")]
    for name in needed:
        if (problem := _misfit(name, weights, own)) is not None:
            raise CheckpointError(
                f"{file} is no finished model of these plans and labels: {problem}. Name a "
                "checkpoint of the same data set, plans and configuration."
            )
    if more := [name for name in weights if name not in needed]:
        raise CheckpointError(
            f"{file} is no plain model of nnU-Net: it has more parameters, such as {more[-1]}, and "
            "its segmentation is not that of the finest head alone. Name a checkpoint of a trainer "
            "with nnU-Net's own network, such as nnUNetTrainer."
        )
    bare.load_state_dict(own | {name: weights[name] for name in needed})


def _misfit(name: str, weights: dict[str, Any], own: dict[str, Any]) -> str | None:
    """Why a checkpoint cannot give a network one of its parameters."""
    found, expected = weights.get(name), tuple(own[name].shape)
    if found is not None and tuple(found.shape) == expected:
        return None
    what = "is missing" if found is None else f"has the shape {tuple(found.shape)}"
    return f"{name} {what}, expected {expected}"
