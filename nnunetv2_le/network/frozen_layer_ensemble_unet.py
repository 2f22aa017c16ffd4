"""A layer ensemble on a finished network: heads learn, the network itself never changes."""

from typing import Any

import torch
from torch import Tensor, nn

from nnunetv2_le.network.layer_ensemble_unet import LayerEnsembleUNet


class FrozenLayerEnsembleUNet(LayerEnsembleUNet):
    """Only heads other than the last have parameters that learn.

    Encoder, decoder and the last head are nnU-Net's finished network: without gradients, which are
    not computed either, and always as in evaluation, so that running statistics and dropout stay
    out of the training (``documentation/decisions/014-retrofit.md``).

    Args:
        unet: a network with nnU-Net's ``encoder`` and ``decoder``.
        settings: as of ``LayerEnsembleUNet``.
    """

    def __init__(self, unet: nn.Module, **settings: Any) -> None:
        super().__init__(unet, **settings)
        for part in (self.encoder, self.decoder):
            part.requires_grad_(False)
        for layer in list(self.decoder.seg_layers)[:-1]:
            layer.requires_grad_(True)
        self.train(self.training)

    def train(self, mode: bool = True) -> "FrozenLayerEnsembleUNet":
        """Training mode of the heads alone."""
        super().train(mode)
        self.encoder.eval()
        self.decoder.eval()
        return self

    def _features(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        with torch.no_grad():
            return super()._features(images)
