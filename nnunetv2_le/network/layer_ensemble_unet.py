"""A layer ensemble on an nnU-Net U-Net: heads on layers of different depth, one forward pass.

The trunk keeps nnU-Net's own modules and names (``encoder.*``, ``decoder.*``), and the decoder
heads are nnU-Net's own ``decoder.seg_layers``, so a stock checkpoint loads into it. All further
heads are 1x1 convolutions whose parameter names contain ``.seg_layers.``: nnU-Net's loader of
pretrained weights demands every other name to be in the checkpoint.

Our heads are the paper's "output heads" (Fig. 1): there after every convolution block of a U-Net,
here after every stage by default (``documentation/decisions/003-heads-per-stage.md``).

Source: Kushibar et al., "Layer Ensembles: A Single-Pass Uncertainty Estimation in Deep Learning for
Segmentation", MICCAI 2022, arXiv:2203.08878.
"""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nnunetv2_le.network.blocks import conv_blocks, is_pooling, require_encoder_decoder
from nnunetv2_le.network.extra_heads import ExtraHeads, WithExtraHeads
from nnunetv2_le.network.logits import mean_probability_logits, scale_gradient, upsample

Granularity = Literal["stage", "block"]


class LayerEnsembleUNet(WithExtraHeads):
    """Segmentation heads on the layers of a convolutional encoder and decoder.

    Heads are ordered shallow to deep: the encoder from the input to the bottleneck, then the
    decoder from the bottleneck to full resolution. The last head is the one that a stock nnU-Net
    uses.

    Args:
        unet: a network with nnU-Net's ``encoder`` and ``decoder``.
        encoder_heads: whether encoder layers carry heads.
        encoder_gradient: share of the encoder heads' gradient that reaches the trunk: 0 (probes)
            to 1.
        decoder_gradient: the same for the decoder heads before the last; the last head's gradient
            always reaches the trunk whole.
        granularity: a head after every ``stage``, or after every convolution ``block`` in it.
        num_fused_heads: how many of the last heads are fused into the one tensor that a stock
            predictor gets.
        deep_supervision: True gives all heads (training), False the one fused tensor.

    Raises:
        UnsupportedArchitectureError: ``unet`` has no such encoder and decoder.
    """

    encoder: Any
    decoder: Any

    def __init__(
        self,
        unet: nn.Module,
        *,
        encoder_heads: bool = True,
        encoder_gradient: float = 1.0,
        decoder_gradient: float = 1.0,
        granularity: Granularity = "stage",
        num_fused_heads: int = 2,
        deep_supervision: bool = True,
    ) -> None:
        super().__init__()
        require_encoder_decoder(unet)
        self.encoder = unet.encoder
        self.decoder = unet.decoder
        self.encoder_gradient = encoder_gradient
        self.decoder_gradient = decoder_gradient
        self.has_encoder_heads = encoder_heads
        self.granularity = granularity
        self.deep_supervision = deep_supervision
        num_classes: int = self.decoder.seg_layers[-1].out_channels
        self.extra_heads = ExtraHeads(
            self.encoder.conv_op(width, num_classes, 1, 1, 0, bias=True)
            for width in self._extra_channels()
        )
        self.head_names = tuple(self._head_names())
        self.num_fused_heads = min(num_fused_heads, len(self.head_names))

    def forward(self, images: Float[Tensor, "batch channels *space"]) -> list[Tensor] | Tensor:
        """Logits at the resolution of the images.

        Args:
            images: a batch of patches.

        Returns:
            With ``deep_supervision``: logits of every head, finest first (nnU-Net's order).
            Without: one tensor, the logarithm of the fused heads' mean probability (regions: its
            logit), which nnU-Net can treat as its own.
        """
        size = images.shape[2:]
        if self.deep_supervision:
            return [upsample(logits, size) for logits in reversed(self.head_logits(images))]
        first_fused = len(self.head_names) - self.num_fused_heads
        fused = [upsample(logits, size) for logits in self.head_logits(images, first=first_fused)]
        return mean_probability_logits(fused, has_regions=self.has_regions)

    def head_logits(
        self, images: Float[Tensor, "batch channels *space"], *, first: int = 0
    ) -> list[Float[Tensor, "batch classes *_"]]:
        """Logits of every head at its own layer's resolution, in head order (shallow to deep).

        Args:
            images: a batch of patches.
            first: the first head that is wanted; the heads before it cost nothing.
        """
        return self._logits(self._features(images)[0], first=first)

    def head_logits_and_stages(
        self, images: Float[Tensor, "batch channels *space"]
    ) -> tuple[list[Float[Tensor, "batch classes *_"]], list[Float[Tensor, "batch _ *_"]]]:
        """Logits of every head, and the output of every encoder stage, from one forward pass."""
        seen, stages = self._features(images)
        return self._logits(seen), stages

    def _logits(self, seen: list[Tensor], *, first: int = 0) -> list[Tensor]:
        pairs = list(zip(self._heads(), seen, strict=True))
        return [head(features) for head, features in pairs[first:]]

    def _features(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """What each head sees, in head order; and the outputs of the encoder's stages."""
        stem = getattr(self.encoder, "stem", None)
        x = images if stem is None else stem(images)
        seen: list[Tensor] = []
        skips = []
        for stage in self.encoder.stages:
            outputs = self._run(stage, x)
            x = outputs[-1]
            skips.append(x)
            if self.has_encoder_heads:
                seen += [scale_gradient(output, self.encoder_gradient) for output in outputs]
        for transposed, stage, skip in zip(
            self.decoder.transpconvs, self.decoder.stages, skips[-2::-1], strict=True
        ):
            outputs = self._run(stage, torch.cat((transposed(x), skip), dim=1))
            x = outputs[-1]
            seen += [scale_gradient(output, self.decoder_gradient) for output in outputs]
        return [*seen[:-1], x], skips

    def _run(self, stage: nn.Module, x: Tensor) -> list[Tensor]:
        """Outputs of a stage that carry a head; the last one is the stage's own output."""
        if self.granularity == "stage":
            return [stage(x)]
        outputs = []
        for block in conv_blocks(stage):
            x = block(x)
            if not is_pooling(block):
                outputs.append(x)
        return outputs

    def _heads(self) -> list[nn.Module]:
        """The heads in order; nnU-Net's own layer is the last one of each decoder stage."""
        extra = list(self.extra_heads.seg_layers)
        num_encoder = sum(map(self._heads_on, self.encoder.stages)) * self.has_encoder_heads
        heads, extra = extra[:num_encoder], extra[num_encoder:]
        for stage, own in zip(self.decoder.stages, self.decoder.seg_layers, strict=True):
            inner = self._heads_on(stage) - 1
            heads += [*extra[:inner], own]
            extra = extra[inner:]
        return heads

    def _heads_on(self, stage: nn.Module) -> int:
        if self.granularity == "stage":
            return 1
        return sum(not is_pooling(block) for block in conv_blocks(stage))

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

    def _head_names(self) -> list[str]:
        parts = [("encoder", self.encoder.stages)] if self.has_encoder_heads else []
        stages = [
            (f"{part}_{number}", stage)
            for part, part_stages in [*parts, ("decoder", self.decoder.stages)]
            for number, stage in enumerate(part_stages)
        ]
        if self.granularity == "stage":
            return [name for name, _ in stages]
        return [
            f"{name}_block_{block}"
            for name, stage in stages
            for block in range(self._heads_on(stage))
        ]
