"""A layer ensemble on an nnU-Net U-Net: heads on layers of different depth, one forward pass.

The trunk keeps nnU-Net's own modules and names (``encoder.*``, ``decoder.*``), and the decoder heads are nnU-Net's own
``decoder.seg_layers``, so a stock checkpoint loads into it. All further heads are 1x1 convolutions whose parameter names
contain ``.seg_layers.``: nnU-Net's loader of pretrained weights demands every other name to be in the checkpoint.

Our heads are the paper's "output heads" (Fig. 1): there after every convolution block of a U-Net, here after every stage
by default. Source: Kushibar et al., "Layer Ensembles: A Single-Pass Uncertainty Estimation in Deep Learning for
Segmentation", MICCAI 2022, arXiv:2203.08878.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nnunetv2_le.errors import UnsupportedArchitectureError
from nnunetv2_le.network.logits import mean_probability_logits, upsample

Granularity = Literal["stage", "block"]


class LayerEnsembleUNet(nn.Module):
    """Segmentation heads on the layers of a convolutional encoder and decoder.

    Heads are ordered shallow to deep: the encoder from the input to the bottleneck, then the decoder from the bottleneck
    to full resolution. The last head is the one that a stock nnU-Net uses.

    Args:
        unet: a network with nnU-Net's ``encoder`` and ``decoder``.
        encoder_heads: whether encoder layers carry heads.
        encoder_gradient: share of the encoder heads' gradient that reaches the trunk: 0 (probes) to 1.
        granularity: a head after every ``stage``, or after every convolution ``block`` inside the stages.
        num_fused_heads: how many of the last heads are fused into the one tensor that a stock predictor gets.
        deep_supervision: True gives all heads (training), False the one fused tensor.

    Raises:
        UnsupportedArchitectureError: ``unet`` has no such encoder and decoder.
    """

    def __init__(
        self,
        unet: nn.Module,
        *,
        encoder_heads: bool = True,
        encoder_gradient: float = 1.0,
        granularity: Granularity = "stage",
        num_fused_heads: int = 2,
        deep_supervision: bool = True,
    ) -> None:
        super().__init__()
        require_encoder_decoder(unet)
        self.encoder: Any = unet.encoder
        self.decoder: Any = unet.decoder
        self.encoder_gradient = encoder_gradient
        self.has_encoder_heads = encoder_heads
        self.granularity = granularity
        self.deep_supervision = deep_supervision
        self.extra_heads = _ExtraHeads(
            self.encoder.conv_op, self._extra_channels(), self.decoder.seg_layers[-1].out_channels
        )
        self.head_names = tuple(self._head_names())
        self.num_fused_heads = min(num_fused_heads, len(self.head_names))

    @property
    def has_regions(self) -> bool:
        """Whether channels are overlapping regions (sigmoid) instead of exclusive classes (softmax)."""
        return self.extra_heads.seg_layers.has_regions

    @has_regions.setter
    def has_regions(self, value: bool) -> None:
        self.extra_heads.seg_layers.has_regions = value

    def forward(self, images: Float[Tensor, "batch channels *space"]) -> list[Tensor] | Tensor:
        """Logits at the resolution of the images.

        Args:
            images: a batch of patches.

        Returns:
            With ``deep_supervision``: logits of every head, finest first (nnU-Net's order). Without: one tensor, the
            logarithm of the fused heads' mean probability (regions: its logit), which nnU-Net can treat as its own.
        """
        size = images.shape[2:]
        if self.deep_supervision:
            return [upsample(logits, size) for logits in reversed(self.head_logits(images))]
        fused = [upsample(logits, size) for logits in self._last_heads(images)]
        return mean_probability_logits(fused, has_regions=self.has_regions)

    def head_logits(
        self, images: Float[Tensor, "batch channels *space"]
    ) -> list[Float[Tensor, "batch classes *coarse"]]:
        """Logits of every head at its own layer's resolution, in head order (shallow to deep)."""
        heads = self._heads()
        return [next(heads)(features) for features in self._features(images)]

    def _last_heads(self, images: Tensor) -> list[Tensor]:
        """Logits of the fused heads alone; other heads cost nothing at a stock prediction."""
        heads = list(self._heads())
        first = len(heads) - self.num_fused_heads
        return [
            head(features)
            for number, (head, features) in enumerate(
                zip(heads, self._features(images), strict=True)
            )
            if number >= first
        ]

    def _features(self, images: Tensor) -> Iterator[Tensor]:
        """What each head sees, in head order."""
        stem = getattr(self.encoder, "stem", None)
        x = images if stem is None else stem(images)
        skips = []
        for stage in self.encoder.stages:
            for x in self._run(stage, x):
                if self.has_encoder_heads:
                    yield scale_gradient(x, self.encoder_gradient)
            skips.append(x)
        for transposed, stage, skip in zip(
            self.decoder.transpconvs, self.decoder.stages, skips[-2::-1], strict=True
        ):
            x = torch.cat((transposed(x), skip), dim=1)
            for x in self._run(stage, x):
                yield x

    def _run(self, stage: nn.Module, x: Tensor) -> Iterator[Tensor]:
        """Outputs of a stage that carry a head; the last one is the stage's own output."""
        if self.granularity == "stage":
            yield stage(x)
            return
        for block in conv_blocks(stage):
            x = block(x)
            if not isinstance(block, _POOLING):
                yield x

    def _heads(self) -> Iterator[nn.Module]:
        """The heads in order; nnU-Net's own segmentation layer is the last one of each decoder stage."""
        extra = iter(self.extra_heads.seg_layers)
        if self.has_encoder_heads:
            for stage in self.encoder.stages:
                for _ in range(self._heads_on(stage)):
                    yield next(extra)
        for stage, own in zip(self.decoder.stages, self.decoder.seg_layers, strict=True):
            for _ in range(self._heads_on(stage) - 1):
                yield next(extra)
            yield own

    def _heads_on(self, stage: nn.Module) -> int:
        if self.granularity == "stage":
            return 1
        return sum(not isinstance(block, _POOLING) for block in conv_blocks(stage))

    def _extra_channels(self) -> list[int]:
        """Channels that each head besides nnU-Net's own sees, in head order."""
        widths = list(self.encoder.output_channels)
        channels: list[int] = []
        if self.has_encoder_heads:
            for width, stage in zip(widths, self.encoder.stages, strict=True):
                channels += [width] * self._heads_on(stage)
        for width, stage in zip(widths[-2::-1], self.decoder.stages, strict=True):
            channels += [width] * (self._heads_on(stage) - 1)
        return channels

    def _head_names(self) -> Iterator[str]:
        parts = [("encoder", self.encoder.stages)] if self.has_encoder_heads else []
        for part, stages in [*parts, ("decoder", self.decoder.stages)]:
            for number, stage in enumerate(stages):
                count = self._heads_on(stage)
                for block in range(count):
                    yield (
                        f"{part}_{number}"
                        if self.granularity == "stage"
                        else f"{part}_{number}_block_{block}"
                    )


class _ExtraHeads(nn.Module):
    """Holds the extra heads under the name ``seg_layers``, which nnU-Net's loader of pretrained weights skips."""

    def __init__(self, conv_op: type[nn.Module], channels: list[int], num_classes: int) -> None:
        super().__init__()
        self.seg_layers = _HeadList(
            [conv_op(width, num_classes, 1, 1, 0, bias=True) for width in channels]
        )


class _HeadList(nn.ModuleList):
    """Heads, and in the checkpoint beside them whether their channels are regions.

    nnU-Net does not say at prediction whether a network was trained on regions, and the fused tensor depends on it.
    """

    has_regions = False

    def get_extra_state(self) -> Tensor:
        """What the checkpoint keeps: a tensor, so that it can be loaded with ``weights_only``."""
        return torch.tensor(self.has_regions)

    def set_extra_state(self, state: Tensor) -> None:
        """Take over what the checkpoint kept."""
        self.has_regions = bool(state)


_POOLING = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)


def conv_blocks(stage: nn.Module) -> list[nn.Module]:
    """The convolution (or residual) blocks of a stage of nnU-Net's networks, in order of computation."""
    if isinstance(stage, nn.Sequential):
        return [block for part in stage for block in conv_blocks(part)]
    for name in ("convs", "blocks"):
        if isinstance(inner := getattr(stage, name, None), nn.Sequential):
            return list(inner)
    return [stage]


def scale_gradient(features: Float[Tensor, "*shape"], share: float) -> Float[Tensor, "*shape"]:
    """The same values with only a share of the gradient passing back: 0 none, 1 all."""
    if share == 1:
        return features
    if share == 0:
        return features.detach()
    return share * features + (1 - share) * features.detach()


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
            f"A layer ensemble needs a network with a convolutional encoder and decoder (PlainConvUNet, ResidualEncoderUNet, "
            f"ResidualUNet); {type(network).__name__} lacks {', '.join(missing)}. Plan the dataset with one of nnU-Net's "
            f"U-Net planners, or train this architecture with nnUNetTrainer."
        )
