"""What the encoder saw of a patch, as one short vector: to tell strange images from known ones.

For every channel of every encoder stage its mean and its standard deviation over space. Of the
statistics that were tried (mean, standard deviation, largest value; the first stages, the last
stages, all of them) these two over all stages told contrast-inverted, turned and noise-only
hippocampus images from test images best (``documentation/results.md``). Means alone are weaker:
instance normalisation levels what they see.
"""

from collections.abc import Sequence

import torch
from dynamic_network_architectures.architectures.unet import (
    PlainConvUNet,
    ResidualEncoderUNet,
    ResidualUNet,
)
from jaxtyping import Float
from torch import Tensor, nn

_UNETS = (PlainConvUNet, ResidualEncoderUNet, ResidualUNet)


def has_encoder_stages(network: nn.Module) -> bool:
    """Whether a network is ``decoder(encoder(images))``, the encoder giving all its stages."""
    forwards = [unet.forward for unet in _UNETS]
    return type(network).forward in forwards and bool(network.encoder.return_skips)  # type: ignore[union-attr]


def pool(stages: Sequence[Float[Tensor, "batch _ *_"]]) -> Float[Tensor, "batch features"]:
    """Mean and standard deviation over space of every channel of every stage.

    Args:
        stages: feature maps of the encoder's stages, of any size and precision.

    Returns:
        float32: all means of the first stage, its standard deviations, then the next stage.
    """
    return torch.cat([part for stage in stages for part in _moments(stage.flatten(2))], dim=1)


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Sums in float32 without a copy in float32 of a half-precision map."""
    mean = values.mean(dim=2, dtype=torch.float32)
    norm = torch.linalg.vector_norm(values, dim=2, dtype=torch.float32)
    variance = norm.square() / values.shape[2] - mean.square()
    return mean, variance.clamp(min=0).sqrt()
