"""Damaged weights, which torch reads without a word."""

import zipfile
from pathlib import Path
from unittest import mock

import pytest
import torch

from nnunetv2_le.errors import CheckpointError
from nnunetv2_le.training.checkpoint_sums import require_sound
from nnunetv2_le.training.own_checkpoints import load_for_validation
from nnunetv2_le.training.pretrained import read_weights

WEIGHTS = torch.arange(1000.0)


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """One byte of a weight is another one."""
    file = tmp_path / "checkpoint_final.pth"
    torch.save({"network_weights": {"weight": WEIGHTS}}, file)
    content = bytearray(file.read_bytes())
    content[content.index(WEIGHTS.numpy().tobytes()) + 1000] ^= 0xFF
    file.write_bytes(content)
    return file


def test_torch_itself_reads_other_weights(damaged: Path) -> None:
    read = torch.load(damaged)["network_weights"]["weight"]
    assert not torch.equal(read, WEIGHTS)


def test_damaged_weights_are_named(damaged: Path) -> None:
    with pytest.raises(zipfile.BadZipFile, match="Bad CRC-32 for file"):
        require_sound(damaged)


def test_sound_files_and_those_without_checksums_pass(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "sound.pth")
    torch.save(WEIGHTS, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    require_sound(tmp_path / "sound.pth")
    require_sound(tmp_path / "old.pth")


def test_no_training_starts_from_damaged_weights(damaged: Path) -> None:
    with pytest.raises(CheckpointError, match=r"final.pth cannot be read as one \(BadZipFile"):
        read_weights(damaged)


def test_no_training_goes_on_from_damaged_weights(damaged: Path) -> None:
    trainer = mock.Mock(output_folder=str(damaged.parent), was_initialized=True)
    with pytest.raises(CheckpointError, match=r"cannot be loaded \(BadZipFile.*If it is damaged"):
        load_for_validation(trainer, damaged.name)
    trainer.load_checkpoint.assert_not_called()
