"""A multi-head nnU-Net: copies of the last decoder stage and its head on one shared trunk.

The baseline "MH" of the layer-ensembles paper: members that differ by initialisation, as those of a
deep ensemble do, but share all layers before the last stage. The first copy is nnU-Net's own last
stage, so a stock checkpoint loads into trunk and first copy.

Source: Kushibar et al., "Layer Ensembles", MICCAI 2022, arXiv:2203.08878 (baseline MH); which parts
are copied: ``documentation/decisions/012-multi-head.md``.
"""

import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nnunetv2_le.errors import SettingError
from nnunetv2_le.network.blocks import require_encoder_decoder
from nnunetv2_le.network.extra_heads import ExtraHeads, WithExtraHeads
from nnunetv2_le.network.logits import mean_probability_logits, scale_gradient


class MultiHeadUNet(WithExtraHeads):
    """Several copies of the last decoder stage and its head.

    The trunk gets the mean of the copies' gradients, each copy its own whole one: with one head
    the network is nnU-Net's.

    Args:
        unet: a network with nnU-Net's ``encoder`` and ``decoder``.
        num_heads: copies, nnU-Net's own stage included.
        deep_supervision: True gives all heads and those of the coarser stages (training), False the
            one fused tensor.

    Raises:
        UnsupportedArchitectureError: ``unet`` has no such encoder and decoder.
        SettingError: fewer than one head.
    """

    encoder: Any
    decoder: Any

    def __init__(
        self, unet: nn.Module, *, num_heads: int = 5, deep_supervision: bool = True
    ) -> None:
        super().__init__()
        require_encoder_decoder(unet)
        if num_heads < 1:
            raise SettingError(f"A multi-head network needs 1 head or more, got {num_heads}.")
        self.encoder = unet.encoder
        self.decoder = unet.decoder
        self.num_heads = num_heads
        self.deep_supervision = deep_supervision
        initialize = getattr(unet, "initialize", None)
        self.extra_heads = ExtraHeads(
            _StageAndHead(self.decoder.stages[-1], self.decoder.seg_layers[-1], initialize)
            for _ in range(num_heads - 1)
        )
        self.head_names = tuple(f"copy_{number}" for number in range(num_heads))

    def forward(self, images: Float[Tensor, "batch channels *space"]) -> list[Tensor] | Tensor:
        """Logits of a batch of patches.

        Returns:
            With ``deep_supervision``: logits of every copy at full resolution, then those of the
            coarser decoder stages at their own, finest first (nnU-Net's order).
            Without: one tensor, the logarithm of the copies' mean probability (regions: its logit),
            which nnU-Net can treat as its own.
        """
        features, coarse = self._decode(self.encoder(images))
        heads = self._copies(features)
        if not self.deep_supervision:
            return mean_probability_logits(heads, has_regions=self.has_regions)
        layers = list(self.decoder.seg_layers)[:-1]
        supervised = [layer(x) for layer, x in zip(layers, coarse, strict=True)]
        return [*heads, *reversed(supervised)]

    def head_logits(
        self, images: Float[Tensor, "batch channels *space"]
    ) -> list[Float[Tensor, "batch classes *space"]]:
        """Logits of every copy at full resolution."""
        return self.head_logits_and_stages(images)[0]

    def head_logits_and_stages(
        self, images: Float[Tensor, "batch channels *space"]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Logits of every copy, and the outputs of the encoder's stages."""
        stages = self.encoder(images)
        return self._copies(self._decode(stages)[0]), list(stages)

    def _decode(self, skips: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """What the copies see, and the features of the coarser decoder stages."""
        x, coarse = skips[-1], []
        steps = list(zip(self.decoder.transpconvs, self.decoder.stages, skips[-2::-1], strict=True))
        for transposed, stage, skip in steps[:-1]:
            x = stage(torch.cat((transposed(x), skip), dim=1))
            coarse.append(x)
        transposed, _, skip = steps[-1]
        return torch.cat((transposed(x), skip), dim=1), coarse

    def _copies(self, features: Tensor) -> list[Tensor]:
        shared = scale_gradient(features, 1 / self.num_heads)
        own = self.decoder.seg_layers[-1](self.decoder.stages[-1](shared))
        return [own, *(head(shared) for head in self.extra_heads.seg_layers)]


class _StageAndHead(nn.Module):
    """A copy of a decoder stage and its head with parameters of its own."""

    def __init__(self, stage: nn.Module, head: nn.Module, initialize: Any) -> None:
        super().__init__()
        self.stage = copy.deepcopy(stage)
        self.head = copy.deepcopy(head)
        for module in self.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
        if initialize is not None:
            self.apply(initialize)

    def forward(self, features: Tensor) -> Tensor:
        """Logits from the features that all copies share."""
        logits: Tensor = self.head(self.stage(features))
        return logits
