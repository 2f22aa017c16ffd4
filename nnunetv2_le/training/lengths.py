"""Trainers in the lengths that nnU-Net has for its own (there ``nnUNetTrainer_Xepochs``).

A length that is a class, not a flag, also reaches nnU-Net's own command and several GPUs.
"""

from nnunetv2_le.training.base_trainers import OwnLengthTrainer
from nnunetv2_le.training.cyclic_trainer import CyclicLearningRateTrainer
from nnunetv2_le.training.dropout_trainer import DropoutTrainer
from nnunetv2_le.training.frozen_trainer import LayerEnsembleTrainerFrozen
from nnunetv2_le.training.layer_ensemble_trainer import LayerEnsembleTrainer
from nnunetv2_le.training.multi_head_trainer import MultiHeadTrainer

LENGTHS_EPOCHS = (1, 5, 20, 50, 100, 250)
CYCLIC_LENGTHS_EPOCHS = (20, 50, 100, 250)  # three cycles need more than five epochs


def trainer_of_length(trainer: type[OwnLengthTrainer], epochs: int) -> type[OwnLengthTrainer]:
    """The same trainer for so many epochs, ``TRAINER_Xepochs``."""
    ending = "epoch" if epochs == 1 else "epochs"
    attributes = {
        "__doc__": f"Trains for {epochs} {ending}.",
        "__module__": __name__,
        "length_epochs": epochs,
    }
    return type(f"{trainer.__name__}_{epochs}{ending}", (trainer,), attributes)


TRAINERS = {
    made.__name__: made
    for trainer, lengths in (
        (LayerEnsembleTrainer, LENGTHS_EPOCHS),
        (LayerEnsembleTrainerFrozen, LENGTHS_EPOCHS),
        (MultiHeadTrainer, LENGTHS_EPOCHS),
        (DropoutTrainer, LENGTHS_EPOCHS),
        (CyclicLearningRateTrainer, CYCLIC_LENGTHS_EPOCHS),
    )
    for made in (trainer_of_length(trainer, epochs) for epochs in lengths)
}
globals().update(TRAINERS)  # nnU-Net looks for a trainer by its name in a module
