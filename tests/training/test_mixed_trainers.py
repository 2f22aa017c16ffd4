"""A user's class that derives from one of our trainers and from another of nnU-Net's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nnunetv2.training.loss.robust_ce_loss import RobustCrossEntropyLoss
from torch import nn, optim

from tests.conftest import NnunetFolders
from tests.helpers import TRAINERS_FOLDER, TinyDataset, prepare, train, trainer_for

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # nnU-Net's own warnings

Mixed = Callable[..., Any]
OURS = {
    "LayerEnsembleTrainer": "layer_ensemble_trainer",
    "MultiHeadTrainer": "multi_head_trainer",
    "DropoutTrainer": "dropout_trainer",
}
MODULE = """
from nnunetv2_le.training.{module} import {ours} as Ours
{other}


class MyTrainer(Ours, Other):
    pass
"""
VARIANT = "from nnunetv2.training.nnUNetTrainer.variants.{} import {} as Other"
ALWAYS_WRAPPED = """
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.robust_ce_loss import RobustCrossEntropyLoss
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class Other(nnUNetTrainer):
    def _build_loss(self):
        return DeepSupervisionWrapper(RobustCrossEntropyLoss(), [0.7, 0.3, 0.0])
"""


@pytest.fixture(scope="module")
def plain(module_nnunet_folders: NnunetFolders) -> TinyDataset:
    dataset = TinyDataset(1)
    prepare(dataset, ["3d_fullres"])
    return dataset


@pytest.fixture
def mixed(plain: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mixed:
    def make(other: str, ours: str = "LayerEnsembleTrainer") -> Any:
        """Of a class in a folder of the user, made as nnU-Net's command makes it."""
        if "\n" not in other:
            other = VARIANT.format(other, other.rpartition(".")[2])
        text = MODULE.format(module=OURS[ours], ours=ours, other=other)
        (tmp_path / "my_trainers.py").write_text(text)
        monkeypatch.setattr("tests.helpers.TRAINERS_FOLDER", f"{TRAINERS_FOLDER}:{tmp_path}")
        return trainer_for(plain, "3d_fullres", trainer="MyTrainer")

    return make


@pytest.mark.parametrize("ours", OURS)
def test_the_network_is_built_on_that_of_the_other(mixed: Mixed, ours: str) -> None:
    trainer = mixed("network_architecture.nnUNetTrainerBN", ours)
    trainer.initialize()
    kinds = {type(module) for module in trainer.network.modules()}
    assert nn.BatchNorm3d in kinds
    assert nn.InstanceNorm3d not in kinds


@pytest.mark.parametrize(
    "other", ["loss.nnUNetTrainerCELoss", ALWAYS_WRAPPED], ids=["a variant", "always wrapped"]
)
def test_every_head_learns_from_the_loss_of_the_other(mixed: Mixed, other: str) -> None:
    trainer = train(mixed(other))
    assert isinstance(trainer.loss.loss, RobustCrossEntropyLoss)


def test_optimizer_and_mirroring_are_those_of_the_other(mixed: Mixed) -> None:
    adam = mixed("optimizer.nnUNetTrainerAdam")
    adam.initialize()
    assert isinstance(adam.optimizer, optim.AdamW)
    unmirrored = train(mixed("data_augmentation.nnUNetTrainerNoMirroring"))
    assert unmirrored.inference_allowed_mirroring_axes is None
