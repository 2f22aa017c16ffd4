"""The one module that nnU-Net's search in ``nnUNet_extTrainer`` finds: it re-exports the trainers.

nnU-Net imports every module it finds there as a top-level module and drops it again. The classes
themselves live in the package, so that there is one copy of each, however often nnU-Net searches.
"""

from nnunetv2_le.training.cyclic_trainer import (
    CyclicLearningRateTrainer,
    CyclicLearningRateTrainerSparse,
)
from nnunetv2_le.training.dropout_trainer import DropoutTrainer, DropoutTrainerHalf
from nnunetv2_le.training.frozen_trainer import LayerEnsembleTrainerFrozen
from nnunetv2_le.training.layer_ensemble_trainer import LayerEnsembleTrainer
from nnunetv2_le.training.lengths import TRAINERS
from nnunetv2_le.training.multi_head_trainer import MultiHeadTrainer, MultiHeadTrainer10
from nnunetv2_le.training.variants import (
    LayerEnsembleTrainerBlockHeads,
    LayerEnsembleTrainerDecoderHeads,
    LayerEnsembleTrainerFullGradient,
    LayerEnsembleTrainerProbes,
)

globals().update(TRAINERS)

__all__ = [  # noqa: PLE0604 (names of classes that were made above)
    "CyclicLearningRateTrainer",
    "CyclicLearningRateTrainerSparse",
    "DropoutTrainer",
    "DropoutTrainerHalf",
    "LayerEnsembleTrainer",
    "LayerEnsembleTrainerBlockHeads",
    "LayerEnsembleTrainerDecoderHeads",
    "LayerEnsembleTrainerFrozen",
    "LayerEnsembleTrainerFullGradient",
    "LayerEnsembleTrainerProbes",
    "MultiHeadTrainer",
    "MultiHeadTrainer10",
    *TRAINERS,
]
