"""Heads on feature maps of any network: for maps (segmentation) and for vectors (classes)."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nnunetv2_le.network.logits import upsample

_CONVOLUTIONS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class MapHead(nn.Module):
    """A 1x1 convolution, then linear upsampling: the head of the paper.

    Args:
        channels: channels of the layer.
        outputs: channels of the prediction.
        axes: spatial axes, 1 to 3.
        like: a tensor of the type and on the device that the head shall have.
    """

    def __init__(self, channels: int, outputs: int, *, axes: int, like: Tensor) -> None:
        super().__init__()
        convolution = _CONVOLUTIONS[axes]
        self.head = convolution(channels, outputs, 1, device=like.device, dtype=like.dtype)

    def forward(
        self, features: Float[Tensor, "batch channels *coarse"], size: Sequence[int]
    ) -> Float[Tensor, "batch outputs *space"]:
        """The layer's prediction at the size of the network's own."""
        return upsample(self.head(_fitting(features, self.head)), size)


class VectorHead(nn.Module):
    """Mean over space, then a linear layer.

    Args:
        channels: channels of the layer.
        outputs: values of the prediction.
        like: a tensor of the type and on the device that the head shall have.
    """

    def __init__(self, channels: int, outputs: int, *, like: Tensor) -> None:
        super().__init__()
        self.head = nn.Linear(channels, outputs, device=like.device, dtype=like.dtype)

    def forward(
        self, features: Float[Tensor, "batch channels *coarse"], size: Sequence[int]
    ) -> Float[Tensor, "batch ..."]:
        """The layer's prediction in the shape of the network's own, (batch, *size)."""
        values: Tensor = self.head(_fitting(torch.flatten(features, 2).mean(2), self.head))
        return values if size else values[:, 0]


def make_head(channels: int, own: Tensor, *, like: Tensor) -> nn.Module:
    """A head that predicts what the network itself predicts.

    Args:
        channels: channels of the layer.
        own: the network's own prediction, (batch,), (batch, values) or (batch, channels, *space).
        like: a tensor of the type and on the device of the layer's features, which can be others
            than those of the prediction.
    """
    if own.ndim > 2:
        return MapHead(channels, own.shape[1], axes=own.ndim - 2, like=like)
    return VectorHead(channels, own.shape[1] if own.ndim > 1 else 1, like=like)


def _fitting(features: Tensor, head: Any) -> Tensor:
    """Features in the type of the head, unless autocast sees to that.

    A network that switches autocast on in its own forward gives them in half precision.
    """
    if torch.is_autocast_enabled(features.device.type):
        return features
    return features.to(head.weight.dtype)


def head_size(own: Tensor) -> tuple[int, ...]:
    """The size that a head is asked for: of space, or of the vector; empty for one number."""
    return tuple(own.shape[2:] if own.ndim > 2 else own.shape[1:])
