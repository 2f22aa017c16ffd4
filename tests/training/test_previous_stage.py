"""Where a retrofit of a cascade finds the segmentations of the previous stage."""

from pathlib import Path

import pytest
import torch

from nnunetv2_le.training.frozen_trainer import LayerEnsembleTrainerFrozen

BELOW = "predicted_next_stage/3d_cascade_fullres"


@pytest.fixture
def trainer(tmp_path: Path) -> LayerEnsembleTrainerFrozen:
    made = LayerEnsembleTrainerFrozen.__new__(LayerEnsembleTrainerFrozen)
    made.my_init_kwargs = {}
    made.folder_with_segs_from_previous_stage = str(_folder(tmp_path, type(made).__name__))
    return made


def _folder(results: Path, trainer: str) -> Path:
    return results / f"{trainer}__nnUNetPlans__3d_lowres" / BELOW


@pytest.mark.parametrize("has_own", [False, True])
def test_those_of_the_stock_trainer_come_first(
    trainer: LayerEnsembleTrainerFrozen, tmp_path: Path, has_own: bool
) -> None:
    _folder(tmp_path, "nnUNetTrainer").mkdir(parents=True)
    if has_own:  # heads of the previous stage, perhaps of one fold alone
        _folder(tmp_path, "LayerEnsembleTrainerFrozen").mkdir(parents=True)
    assert trainer.folder_with_segs_from_previous_stage == str(_folder(tmp_path, "nnUNetTrainer"))


def test_then_those_of_its_own(trainer: LayerEnsembleTrainerFrozen, tmp_path: Path) -> None:
    own = _folder(tmp_path, "LayerEnsembleTrainerFrozen")
    own.mkdir(parents=True)
    assert trainer.folder_with_segs_from_previous_stage == str(own)


def test_where_there_are_none_those_of_the_stock_trainer_are_expected(
    trainer: LayerEnsembleTrainerFrozen, tmp_path: Path
) -> None:
    assert trainer.folder_with_segs_from_previous_stage == str(_folder(tmp_path, "nnUNetTrainer"))


def test_or_those_of_the_trainer_of_the_checkpoint(
    trainer: LayerEnsembleTrainerFrozen, tmp_path: Path
) -> None:
    trainer.stock_checkpoint = tmp_path / "checkpoint.pth"
    torch.save({"network_weights": {}, "trainer_name": "Long"}, trainer.stock_checkpoint)
    assert trainer.folder_with_segs_from_previous_stage == str(_folder(tmp_path, "Long"))


def test_a_model_that_is_no_cascade_has_none(trainer: LayerEnsembleTrainerFrozen) -> None:
    trainer.folder_with_segs_from_previous_stage = None
    assert trainer.folder_with_segs_from_previous_stage is None
