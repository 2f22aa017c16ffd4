"""Short trainings in cycles, on generated data."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.run_training import maybe_load_checkpoint

from nnunetv2_le.errors import SettingError
from nnunetv2_le.inference.model import load_model
from nnunetv2_le.training.pretrained import read_weights
from nnunetv2_le.training.schedules import cyclic_learning_rate
from tests.conftest import NnunetFolders
from tests.helpers import TRAINERS_FOLDER, TinyDataset, prepare, train, trainer_for

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # nnU-Net's own warnings

DATASET = TinyDataset(1)
EPOCHS = 6  # three cycles of two
KEPT = [f"checkpoint_cycle{cycle}_epoch00{2 * cycle + 1}.pth" for cycle in range(3)]


def rates() -> list[float]:
    cycles = {"num_epochs": EPOCHS, "num_cycles": 3}
    return [
        cyclic_learning_rate(epoch, initial_rate=0.01, restart_rate=0.1, **cycles)
        for epoch in range(EPOCHS)
    ]


def make(**settings: Any) -> Any:
    return trainer_for(
        DATASET,
        "3d_fullres",
        trainer="CyclicLearningRateTrainer",
        **{"epochs": EPOCHS, **settings},
    )


def kept(trainer: Any) -> list[str]:
    files = Path(trainer.output_folder).iterdir()
    return sorted(file.name for file in files if file.name.startswith("checkpoint_cycle"))


def stop_at(trainer: Any, epoch: int) -> None:
    """Train until the beginning of an epoch."""
    begin = trainer.on_epoch_start

    def stop() -> None:
        if trainer.current_epoch == epoch:
            raise KeyboardInterrupt
        begin()

    trainer.on_epoch_start = stop
    with pytest.raises(KeyboardInterrupt):
        trainer.run_training()


def assert_same_weights(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert list(first) == list(second)
    for name, value in first.items():
        assert torch.equal(value, second[name])


@pytest.fixture(scope="module")
def trained(module_nnunet_folders: NnunetFolders) -> Any:
    prepare(DATASET, ["3d_fullres"])
    return train(make())


def test_the_rates_of_a_training_are_those_of_the_schedule(trained: Any) -> None:
    assert trained.logger.get_value("lrs", step=None) == pytest.approx(rates())


def test_each_cycle_leaves_its_checkpoints_beside_nnunets_own(trained: Any) -> None:
    assert kept(trained) == KEPT
    folder = Path(trained.output_folder)
    final = read_weights(folder / "checkpoint_final.pth")
    weights = [read_weights(folder / name) for name in KEPT]
    for name, value in final.items():
        assert torch.equal(weights[-1][name], value)
    first = "encoder.stages.0.0.convs.0.conv.weight"
    assert not torch.equal(weights[0][first], weights[1][first])


def test_a_kept_checkpoint_is_smaller_than_one_of_nnunets(trained: Any) -> None:
    folder = Path(trained.output_folder)
    full = (folder / "checkpoint_final.pth").stat().st_size
    assert (folder / KEPT[0]).stat().st_size < 0.6 * full  # SGD's momentum is as large as the net


def test_nnunets_predictor_and_ours_read_a_kept_checkpoint(
    trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnUNet_extTrainer", TRAINERS_FOLDER)
    folder = Path(trained.output_folder_base)
    predictor = nnUNetPredictor(device=torch.device("cpu"), use_mirroring=True, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), (0,), KEPT[1])
    image = np.random.default_rng(0).normal(size=(1, 16, 24, 20)).astype(np.float32)
    segmentation = predictor.predict_single_npy_array(
        image, {"spacing": (1.0, 1.0, 1.0)}, None, None, False
    )
    assert segmentation.shape == image.shape[1:]
    model = load_model(folder, folds=(0,), checkpoint_name=KEPT[1])
    assert model.mirror_axes == (0, 1, 2)
    weights = read_weights(Path(trained.output_folder) / KEPT[1])
    for name, value in model.sources[0].network.state_dict().items():
        assert torch.equal(value, weights[name])


def test_a_continued_training_goes_on_within_the_cycle(trained: Any) -> None:
    stopped = make(fold=1)
    stopped.save_every = 1  # checkpoint_latest after every epoch
    stop_at(stopped, 3)
    assert kept(stopped) == KEPT[:1]
    stale = Path(stopped.output_folder) / "checkpoint_cycle1_epoch004.pth"
    stale.touch()  # as a training with other cycles would have left it
    more = make(fold=1, continue_training=True)
    maybe_load_checkpoint(more, continue_training=True, validation_only=False)
    assert more.current_epoch == 3
    train(more)
    assert kept(more) == KEPT
    assert more.logger.get_value("lrs", step=None) == pytest.approx(rates())


def test_a_new_training_removes_what_an_earlier_one_kept(trained: Any) -> None:
    first = train(make(fold="all"))
    assert kept(first) == KEPT
    second = make(fold="all", epochs=4)
    second.num_cycles = 1
    train(second)
    assert kept(second) == ["checkpoint_cycle0_epoch003.pth"]


def test_a_training_that_is_given_up_leaves_what_an_earlier_one_kept(trained: Any) -> None:
    first = train(make(fold="all"))
    whole = {name: read_weights(Path(first.output_folder) / name) for name in KEPT}
    for _ in range(2):  # given up twice
        second = make(fold="all")
        stop_at(second, 4)
        assert kept(second) == KEPT[:2]
        folder = Path(second.output_folder)
        assert sorted(file.name for file in folder.glob("earlier_*")) == [
            f"earlier_{name}" for name in KEPT
        ]
        for name, weights in whole.items():
            assert_same_weights(read_weights(folder / f"earlier_{name}"), weights)
    train(make(fold="all"))
    assert kept(first) == KEPT
    assert not list(Path(first.output_folder).glob("earlier_*"))


def test_a_finished_training_that_is_continued_has_its_members_back(trained: Any) -> None:
    """After a new one was given up: nnU-Net's --c prefers the final checkpoint."""
    whole = read_weights(Path(train(make(fold="all")).output_folder) / KEPT[0])
    stop_at(make(fold="all"), 4)
    finished = make(fold="all", continue_training=True)
    maybe_load_checkpoint(finished, continue_training=True, validation_only=False)
    assert finished.current_epoch == EPOCHS
    assert kept(train(finished)) == KEPT
    assert_same_weights(read_weights(Path(finished.output_folder) / KEPT[0]), whole)


def test_a_training_that_ends_while_it_saves_lacks_no_member(
    trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = make(fold=3)
    stopped.save_every = 2  # checkpoint_latest after the last epoch of a cycle
    save = stopped.save_checkpoint

    def save_and_stop(file: str) -> None:
        save(file)
        if file.endswith("latest.pth"):
            raise KeyboardInterrupt

    monkeypatch.setattr(stopped, "save_checkpoint", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        stopped.run_training()
    more = make(fold=3, continue_training=True)
    maybe_load_checkpoint(more, continue_training=True, validation_only=False)
    assert kept(train(more)) == KEPT


def test_a_training_without_checkpoints_leaves_those_of_an_earlier_one(trained: Any) -> None:
    first = train(make(fold="all"))
    second = make(fold="all")
    second.disable_checkpointing = True
    train(second)
    assert kept(first) == KEPT


def test_without_checkpoints_none_is_kept(trained: Any) -> None:
    trainer = make(fold="all")
    trainer.disable_checkpointing = True
    for file in Path(trainer.output_folder).glob("*.pth"):
        file.unlink()
    trainer.num_epochs, trainer.num_cycles = 2, 1
    assert kept(train(trainer)) == []


def test_the_sparse_trainer_is_found_and_keeps_by_its_rule(trained: Any) -> None:
    trainer = trainer_for(DATASET, "3d_fullres", trainer="CyclicLearningRateTrainerSparse")
    assert trainer.keep_checkpoints == "sparse"


def test_too_few_epochs_are_refused_before_the_training(trained: Any) -> None:
    with pytest.raises(SettingError, match="3 cycles of the learning rate need 6 epochs or more"):
        make(epochs=5).run_training()
