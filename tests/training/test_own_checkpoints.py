"""Which checkpoint a training goes on from: nnU-Net's rule, and what is refused."""

import os
from pathlib import Path
from unittest import mock

import pytest
import torch

from nnunetv2_le.errors import CheckpointError, ModelFolderError
from nnunetv2_le.training.own_checkpoints import load_for_validation, load_to_continue


def trainer_of(folder: Path, *names: str, initialized: bool = True) -> mock.Mock:
    """A trainer whose fold has these checkpoints, each older than the next."""
    for age, name in enumerate(names):
        file = folder / f"checkpoint_{name}.pth"
        file.touch()
        os.utime(file, (1000 + age, 1000 + age))
    return mock.Mock(output_folder=str(folder), was_initialized=initialized)


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (("best",), "best"),
        (("latest", "best"), "latest"),
        (("best", "latest", "final"), "final"),
        (("best", "final"), "final"),
    ],
)
def test_the_final_checkpoint_is_taken_else_the_latest_else_the_best(
    tmp_path: Path, names: tuple[str, ...], taken: str
) -> None:
    trainer = trainer_of(tmp_path, *names)
    load_to_continue(trainer, needs_one=True)
    trainer.load_checkpoint.assert_called_once_with(str(tmp_path / f"checkpoint_{taken}.pth"))
    trainer.initialize.assert_not_called()


def test_a_trainer_is_initialized_before_it_loads(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, "best", initialized=False)
    load_for_validation(trainer, "checkpoint_best.pth")
    assert [call[0] for call in trainer.method_calls] == ["initialize", "load_checkpoint"]


def test_a_full_gpu_is_no_reason_to_remove_a_checkpoint(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, "latest")
    trainer.load_checkpoint.side_effect = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        load_to_continue(trainer, needs_one=True)


def test_a_final_checkpoint_older_than_the_latest_is_refused(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, "final", "latest")
    with pytest.raises(CheckpointError, match=r"is older than checkpoint_latest\.pth beside it"):
        load_to_continue(trainer, needs_one=False)
    trainer.load_checkpoint.assert_not_called()


def test_a_latest_checkpoint_as_old_as_the_final_one_hides_no_training(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, "latest", "final")
    os.utime(tmp_path / "checkpoint_latest.pth", (1001, 1001))
    load_to_continue(trainer, needs_one=False)
    trainer.load_checkpoint.assert_called_once_with(str(tmp_path / "checkpoint_final.pth"))


def test_without_any_checkpoint_a_training_begins_anew_and_a_retrofit_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = trainer_of(tmp_path)
    load_to_continue(trainer, needs_one=False)
    assert f"No checkpoint to continue in {tmp_path}" in caplog.text
    with pytest.raises(CheckpointError, match="Start it again without --c"):
        load_to_continue(trainer, needs_one=True)
    trainer.load_checkpoint.assert_not_called()


def test_validation_needs_the_checkpoint_that_was_named(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, "best")
    with pytest.raises(ModelFolderError, match=r"checkpoint_final\.pth, which is missing"):
        load_for_validation(trainer, "checkpoint_final.pth")
