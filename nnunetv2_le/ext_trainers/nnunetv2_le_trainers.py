"""The one module that nnU-Net's search in ``nnUNet_extTrainer`` finds: it re-exports the trainers.

nnU-Net imports every module it finds there as a top-level module and drops it again. The classes
themselves live in the package, so that there is one copy of each, however often nnU-Net searches.
"""

from nnunetv2_le.training.layer_ensemble_trainer import LayerEnsembleTrainer
from nnunetv2_le.training.lengths import (
    LayerEnsembleTrainer_1epoch,
    LayerEnsembleTrainer_5epochs,
    LayerEnsembleTrainer_20epochs,
    LayerEnsembleTrainer_50epochs,
    LayerEnsembleTrainer_100epochs,
    LayerEnsembleTrainer_250epochs,
)
from nnunetv2_le.training.variants import (
    LayerEnsembleTrainerBlockHeads,
    LayerEnsembleTrainerDecoderHeads,
    LayerEnsembleTrainerFullGradient,
    LayerEnsembleTrainerProbes,
)

__all__ = [
    "LayerEnsembleTrainer",
    "LayerEnsembleTrainerBlockHeads",
    "LayerEnsembleTrainerDecoderHeads",
    "LayerEnsembleTrainerFullGradient",
    "LayerEnsembleTrainerProbes",
    "LayerEnsembleTrainer_1epoch",
    "LayerEnsembleTrainer_5epochs",
    "LayerEnsembleTrainer_20epochs",
    "LayerEnsembleTrainer_50epochs",
    "LayerEnsembleTrainer_100epochs",
    "LayerEnsembleTrainer_250epochs",
]
