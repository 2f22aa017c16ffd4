"""The parts of nnU-Net's convolutional networks that can carry a head."""

from torch import nn

from nnunetv2_le.errors import UnsupportedArchitectureError

_POOLING = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)


def conv_blocks(stage: nn.Module) -> list[nn.Module]:
    """The convolution (or residual) blocks of a stage, and its pooling, in order of computation."""
    if isinstance(stage, nn.Sequential):
        return [block for part in stage for block in conv_blocks(part)]
    for name in ("convs", "blocks"):
        if isinstance(inner := getattr(stage, name, None), nn.Sequential):
            return list(inner)
    return [stage]


def is_pooling(block: nn.Module) -> bool:
    """Whether a block only lowers the resolution; such a block carries no head."""
    return isinstance(block, _POOLING)


def require_encoder_decoder(network: nn.Module) -> None:
    """Refuse a network that has no convolutional encoder and decoder of nnU-Net's kind.

    Raises:
        UnsupportedArchitectureError: naming what is missing.
    """
    needed = {
        "encoder": ("stages", "output_channels", "conv_op"),
        "decoder": ("stages", "transpconvs", "seg_layers"),
    }
    missing = [
        f"{part}.{name}"
        for part, names in needed.items()
        for name in names
        if not hasattr(getattr(network, part, None), name)
    ]
    if missing:
        raise UnsupportedArchitectureError(
            unsupported(type(network).__name__, f"lacks {', '.join(missing)}")
        )


def unsupported(architecture: str, reason: str) -> str:
    """The one line for a network that the trainers of this package cannot take."""
    return (
        "The trainer needs a network with a convolutional encoder and decoder (PlainConvUNet, "
        f"ResidualEncoderUNet, ResidualUNet); {architecture} {reason}. Plan the data set with one "
        "of nnU-Net's U-Net planners, or train this architecture with nnU-Net's own trainer for it."
    )
