"""The retrofit: heads on a finished stock model, which stays what it is to the bit."""

from pathlib import Path

import torch

from nnunetv2_le.errors import CheckpointError
from nnunetv2_le.network.frozen_layer_ensemble_unet import FrozenLayerEnsembleUNet
from nnunetv2_le.network.layer_ensemble_unet import LayerEnsembleUNet
from nnunetv2_le.training.base_trainers import unwrap
from nnunetv2_le.training.layer_ensemble_trainer import LayerEnsembleTrainer
from nnunetv2_le.training.pretrained import (
    read_trainer_name,
    read_weights,
    take_over_finished_network,
)

_FINISHED_TRAINER = "finished_trainer"  # among what nnU-Net keeps in a checkpoint as init_args


class LayerEnsembleTrainerFrozen(LayerEnsembleTrainer):
    """Trains the heads of a layer ensemble on a finished network that does not change.

    A new training starts from a finished model of the same plans and configuration: the file that
    ``nnUNetv2_le_train -pretrained_weights`` names, or else the final checkpoint of the stock
    trainer for the same fold, where nnU-Net keeps it.

    Attributes:
        stock_trainer: whose model is taken if no file is named.
        stock_checkpoint: the file that was named.
    """

    network_class: type[LayerEnsembleUNet] = FrozenLayerEnsembleUNet
    num_fused_heads: int = 1
    length_epochs: int | None = 20
    stock_trainer: str = "nnUNetTrainer"
    stock_checkpoint: Path | None = None
    _own_previous_stage: str | None = None

    @property
    def folder_with_segs_from_previous_stage(self) -> str | None:
        """Segmentations of a cascade's previous stage: those that the finished model saw.

        nnU-Net looks for those of a trainer of the same name. A retrofit seldom has them, and not
        of every case if the previous stage had its heads trained for some folds alone.
        """
        own = self._own_previous_stage
        if own is None:
            return None
        model, *below = Path(own).parts[-3:]
        stock = Path(own).parents[2] / self._renamed(model, self._finished_trainer())
        folder = stock.joinpath(*below)
        return own if Path(own).is_dir() and not folder.is_dir() else str(folder)

    @folder_with_segs_from_previous_stage.setter
    def folder_with_segs_from_previous_stage(self, folder: str | None) -> None:
        """What nnU-Net's trainer sets: the folder of a trainer of the same name."""
        self._own_previous_stage = folder

    def initialize(self) -> None:
        """Build the network, and remember how it starts."""
        super().initialize()
        self._first_weight = self._a_trunk_weight()

    def on_train_start(self) -> None:
        """Take over the finished network before the first epoch.

        Raises:
            CheckpointError: there is none, or it does not fit.
        """
        if not self.was_initialized:
            self.initialize()
        if self.current_epoch == 0:
            file = self._finished_model()
            take_over_finished_network(self.network, read_weights(file), file)
            self.my_init_kwargs[_FINISHED_TRAINER] = read_trainer_name(file)
            self.print_to_log_file(f"Heads are trained on the finished network of {file}.")
        super().on_train_start()

    def _finished_model(self) -> Path:
        """The checkpoint to start from."""
        if self.stock_checkpoint is not None:
            return self.stock_checkpoint
        if not torch.equal(self._first_weight, self._a_trunk_weight()):
            raise CheckpointError(
                "nnU-Net's own loader of -pretrained_weights leaves out the heads, and the finest "
                "one belongs to a finished model. Train with nnUNetv2_le_train --frozen "
                "-pretrained_weights FILE instead."
            )
        folder = self._renamed(Path(self.output_folder_base).name, self.stock_trainer)
        file = Path(self.output_folder_base).parent / folder / f"fold_{self.fold}"
        if not (file / "checkpoint_final.pth").is_file():
            raise CheckpointError(
                f"Heads are trained on a finished model, but there is no "
                f"{file / 'checkpoint_final.pth'}. Finish that training, or name a checkpoint: "
                "nnUNetv2_le_train --frozen -pretrained_weights FILE"
            )
        return file / "checkpoint_final.pth"

    def _finished_trainer(self) -> str:
        """Whose model the heads are trained on; their checkpoint knows it, for --c and --val."""
        named = self.my_init_kwargs.get(_FINISHED_TRAINER)
        if named is None and self.stock_checkpoint is not None:
            named = read_trainer_name(self.stock_checkpoint)
        return named or self.stock_trainer

    def _renamed(self, model_folder: str, trainer: str) -> str:
        """The name of the model folder of another trainer with the same plans."""
        return model_folder.replace(type(self).__name__, trainer, 1)

    def _a_trunk_weight(self) -> torch.Tensor:
        weight: torch.Tensor = next(iter(unwrap(self.network).encoder.parameters()))
        return weight.detach().clone()
