"""Variants of the layer-ensemble trainer: other heads, other gradients."""

from nnunetv2_le.network.layer_ensemble_unet import Granularity
from nnunetv2_le.training.layer_ensemble_trainer import LayerEnsembleTrainer


class LayerEnsembleTrainerDecoderHeads(LayerEnsembleTrainer):
    """Heads on the decoder alone: nnU-Net's deep-supervision heads at full resolution."""

    encoder_heads = False


class LayerEnsembleTrainerProbes(LayerEnsembleTrainer):
    """Encoder heads learn on detached features; the trunk does not see their gradient."""

    encoder_gradient = 0.0


class LayerEnsembleTrainerFullGradient(LayerEnsembleTrainer):
    """The whole gradient of every head reaches the trunk, as in the paper."""

    encoder_gradient = 1.0
    decoder_gradient = 1.0


class LayerEnsembleTrainerBlockHeads(LayerEnsembleTrainer):
    """A head after every convolution block, as in the paper's U-Net."""

    granularity: Granularity = "block"
