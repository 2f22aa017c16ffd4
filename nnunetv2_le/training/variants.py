"""Variants of the layer-ensemble trainer: other heads, other lengths, as nnU-Net names its own."""

from typing import Any

import torch

from nnunetv2_le.training.layer_ensemble_trainer import LayerEnsembleTrainer


class LayerEnsembleTrainerDecoderHeads(LayerEnsembleTrainer):
    """Heads on the decoder alone: nnU-Net's deep-supervision heads, each trained with weight 1 at full resolution."""

    encoder_heads = False


class LayerEnsembleTrainerProbes(LayerEnsembleTrainer):
    """Encoder heads learn on detached features; the trunk does not see their gradient."""

    encoder_gradient = 0.0


class LayerEnsembleTrainerFullGradient(LayerEnsembleTrainer):
    """The whole gradient of the encoder heads reaches the trunk, as in the paper."""

    encoder_gradient = 1.0


class LayerEnsembleTrainerBlockHeads(LayerEnsembleTrainer):
    """A head after every convolution block, as in the paper's U-Net."""

    granularity = "block"
