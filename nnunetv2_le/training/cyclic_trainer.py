"""Trainers whose learning rate goes in cycles and that keep checkpoints of every cycle."""

import os
import re
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch.optim import Optimizer

from nnunetv2_le.training.base_trainers import OwnLengthTrainer, unwrap
from nnunetv2_le.training.schedules import (
    RESTART_RATE,
    KeepRule,
    cyclic_learning_rate,
    is_kept,
    place_in_cycle,
    require_cycles,
)

_KEPT = "checkpoint_cycle*.pth"
_EARLIER = "earlier_"  # before the name of what an earlier training kept


class CyclicLearningRateTrainer(OwnLengthTrainer):
    """nnU-Net's training in cycles of the learning rate: a checkpoint ensemble from one training.

    Beside nnU-Net's own checkpoints the fold's folder gets ``checkpoint_cycle<k>_epoch<nnn>.pth``
    with the network alone, without the optimizer's state.

    Attributes:
        num_cycles: cycles, each with a restart and a decay.
        keep_checkpoints: which epochs of a cycle are kept: ``late`` or ``sparse``.
        restart_rate: learning rate of the first epoch of every cycle but the first.
    """

    num_cycles: int = 3
    keep_checkpoints: KeepRule = "late"
    restart_rate: float = RESTART_RATE

    def configure_optimizers(self) -> tuple[Optimizer, PolyLRScheduler]:
        """nnU-Net's optimizer, with cycles instead of its one decay.

        Raises:
            SettingError: fewer than two epochs a cycle.
        """
        require_cycles(self.num_epochs, self.num_cycles)
        optimizer, _ = super().configure_optimizers()
        return optimizer, CyclicScheduler(
            optimizer,
            self.initial_lr,
            self.num_epochs,
            num_cycles=self.num_cycles,
            restart_rate=self.restart_rate,
        )

    def on_train_start(self) -> None:
        """Put aside what an earlier training of this fold kept: it would pass for this one's.

        Those of a whole training are renamed, ``earlier_checkpoint_cycle...``, and removed when
        this one has ended, as nnU-Net replaces its final checkpoint then; those of a training that
        was given up are removed.
        """
        super().on_train_start()
        if self.local_rank != 0 or self.disable_checkpointing:
            return
        if self.current_epoch >= self.num_epochs:
            self._take_back()
        else:
            self._put_aside()

    def _put_aside(self) -> None:
        folder = Path(self.output_folder)
        stale = [file for file in folder.glob(_KEPT) if _epoch(file) >= self.current_epoch]
        if any(folder.glob(f"{_EARLIER}{_KEPT}")):
            for file in stale:
                file.unlink()
        elif stale:
            self.print_to_log_file(
                f"{len(stale)} checkpoints that an earlier training kept are called "
                f"{_EARLIER}{_KEPT} until this one has ended."
            )
            for file in stale:
                os.replace(file, file.with_name(f"{_EARLIER}{file.name}"))

    def _take_back(self) -> None:
        """The finished training is continued (``--c``): a later one that was given up goes.

        Every training keeps its last epoch, so the members are the later one's if that is missing.
        """
        folder = Path(self.output_folder)
        kept, earlier = list(folder.glob(_KEPT)), list(folder.glob(f"{_EARLIER}{_KEPT}"))
        if not earlier or any(_epoch(file) == self.num_epochs - 1 for file in kept):
            return
        for file in kept:
            file.unlink()
        for file in earlier:
            os.replace(file, file.with_name(file.name.removeprefix(_EARLIER)))

    def on_train_end(self) -> None:
        """Remove what an earlier training kept."""
        super().on_train_end()
        if self.local_rank == 0 and not self.disable_checkpointing:
            for file in Path(self.output_folder).glob(f"{_EARLIER}{_KEPT}"):
                file.unlink()

    def on_epoch_end(self) -> None:
        """Keep a checkpoint, if the rule says so.

        Before nnU-Net writes its own: a training that ends between the two goes on with this epoch,
        not with the next one and a member less.
        """
        if self.local_rank == 0 and not self.disable_checkpointing:
            self._keep(self.current_epoch)
        super().on_epoch_end()

    def _keep(self, epoch: int) -> None:
        cycles = {"num_epochs": self.num_epochs, "num_cycles": self.num_cycles}
        if is_kept(epoch, **cycles, rule=self.keep_checkpoints):
            digits = max(3, len(str(self.num_epochs - 1)))
            cycle = place_in_cycle(epoch, **cycles).cycle
            self._save_network(f"checkpoint_cycle{cycle}_epoch{epoch:0{digits}d}.pth", epoch)

    def _save_network(self, name: str, epoch: int) -> None:
        """What nnU-Net's predictor reads of a checkpoint, in a file that appears whole."""
        content: dict[str, Any] = {
            "network_weights": unwrap(self.network).state_dict(),
            "current_epoch": epoch + 1,
            "init_args": self.my_init_kwargs,
            "trainer_name": type(self).__name__,
            "inference_allowed_mirroring_axes": self.inference_allowed_mirroring_axes,
        }
        file = Path(self.output_folder) / name
        part = file.with_suffix(".part")
        torch.save(content, part)
        os.replace(part, file)


def _epoch(file: Path) -> int:
    """Of a kept checkpoint; -1 for a file of another name."""
    match = re.search(r"_epoch(\d+)\.pth$", file.name)
    return int(match.group(1)) if match else -1


class CyclicLearningRateTrainerSparse(CyclicLearningRateTrainer):
    """Keeps 6 epochs of each cycle, evenly spaced from 0.7 of it on."""

    keep_checkpoints: KeepRule = "sparse"


class CyclicScheduler(PolyLRScheduler):  # type: ignore[misc]
    """nnU-Net's scheduler with the learning rate in cycles."""

    def __init__(
        self,
        optimizer: Optimizer,
        initial_lr: float,
        max_steps: int,
        *,
        num_cycles: int,
        restart_rate: float,
    ) -> None:
        self.num_cycles = num_cycles
        self.restart_rate = restart_rate
        super().__init__(optimizer, initial_lr, max_steps)

    def step(self, current_step: int | None = None) -> None:
        """Set the rate of an epoch; without one, of the next."""
        if current_step is None or current_step == -1:
            current_step = self.ctr
            self.ctr += 1
        rate = cyclic_learning_rate(
            current_step,
            num_epochs=self.max_steps,
            num_cycles=self.num_cycles,
            initial_rate=self.initial_lr,
            restart_rate=self.restart_rate,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._last_lr = [rate for _ in self.optimizer.param_groups]
