"""The layer-ensemble trainer in lengths that nnU-Net has for its own (there ``Xepochs``)."""

from nnunetv2_le.training.layer_ensemble_trainer import LayerEnsembleTrainer


class LayerEnsembleTrainer_1epoch(LayerEnsembleTrainer):
    """Trains for 1 epoch."""

    length_epochs = 1


class LayerEnsembleTrainer_5epochs(LayerEnsembleTrainer):
    """Trains for 5 epochs."""

    length_epochs = 5


class LayerEnsembleTrainer_20epochs(LayerEnsembleTrainer):
    """Trains for 20 epochs."""

    length_epochs = 20


class LayerEnsembleTrainer_50epochs(LayerEnsembleTrainer):
    """Trains for 50 epochs."""

    length_epochs = 50


class LayerEnsembleTrainer_100epochs(LayerEnsembleTrainer):
    """Trains for 100 epochs."""

    length_epochs = 100


class LayerEnsembleTrainer_250epochs(LayerEnsembleTrainer):
    """Trains for 250 epochs."""

    length_epochs = 250
