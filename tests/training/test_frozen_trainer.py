"""The retrofit on generated data: a stock model, its heads, and what stays equal to the bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.run.run_training import maybe_load_checkpoint

from nnunetv2_le.cli import train as command
from nnunetv2_le.errors import CheckpointError
from nnunetv2_le.inference.model import load_model
from nnunetv2_le.training.pretrained import read_weights
from tests.conftest import NnunetFolders
from tests.helpers import (
    TRAINERS_FOLDER,
    TinyDataset,
    prepare,
    processes_as_threads,
    train,
    trainer_for,
)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # nnU-Net's own warnings

DATASET = TinyDataset(1)
FROZEN = "LayerEnsembleTrainerFrozen"
TINY = "-device cpu -num_epochs 1 -num_iterations_per_epoch 2 -num_val_iterations_per_epoch 1"
COARSER_HEADS = ("extra_heads.", "decoder.seg_layers.0.")


@pytest.fixture(scope="module")
def stock(module_nnunet_folders: NnunetFolders) -> Any:
    prepare(DATASET, ["2d", "3d_fullres"])
    return train(trainer_for(DATASET, "3d_fullres", trainer="nnUNetTrainer"))


@pytest.fixture(scope="module")
def retrofit(stock: Any, module_nnunet_folders: NnunetFolders) -> Path:
    """The model folder that the command trains."""
    file = Path(stock.output_folder) / "checkpoint_final.pth"
    with pytest.MonkeyPatch.context() as monkeypatch, processes_as_threads():
        monkeypatch.setenv("nnUNet_extTrainer", "")
        arguments = f"1 3d_fullres 0 {TINY} --frozen -pretrained_weights {file}"
        assert command.main(arguments.split()) == 0
    return module_nnunet_folders.results / DATASET.name / f"{FROZEN}__nnUNetPlans__3d_fullres"


def weights_of(folder: Path) -> dict[str, Any]:
    return read_weights(folder / "fold_0" / "checkpoint_final.pth")


def prediction(folder: Path) -> tuple[Any, Any]:
    """Segmentation and probabilities by nnU-Net's own predictor, with mirroring."""
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), (0,))
    image = np.random.default_rng(0).normal(size=(1, 20, 30, 24)).astype(np.float32)
    found: tuple[Any, Any] = predictor.predict_single_npy_array(
        image, {"spacing": (1.0, 1.0, 1.0)}, None, None, True
    )
    return found


def assert_unchanged(weights: dict[str, Any], stock_weights: dict[str, Any]) -> None:
    for name, value in stock_weights.items():
        assert torch.equal(weights[name], value) is not name.startswith(COARSER_HEADS), name


def test_trunk_and_finest_head_stay_equal_to_the_bit_and_all_other_heads_learn(
    stock: Any, retrofit: Path
) -> None:
    weights, stock_weights = weights_of(retrofit), weights_of(Path(stock.output_folder_base))
    assert_unchanged(weights, stock_weights)
    assert any(name.startswith("extra_heads.") for name in weights)


def test_nnunets_own_predictor_gives_exactly_the_stock_segmentation(
    stock: Any, retrofit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnUNet_extTrainer", TRAINERS_FOLDER)
    for ours, theirs in zip(
        prediction(retrofit), prediction(Path(stock.output_folder_base)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_our_predictor_has_all_heads_and_fuses_the_last(retrofit: Path) -> None:
    source = load_model(retrofit, folds=(0,)).sources[0]
    assert source.head_names == ("encoder_0", "encoder_1", "encoder_2", "decoder_0", "decoder_1")
    assert source.num_fused_heads == 1


def test_without_a_file_the_stock_model_of_the_fold_is_taken(stock: Any) -> None:
    trainer = train(trainer_for(DATASET, "3d_fullres", trainer=f"{FROZEN}_5epochs"))
    assert_unchanged(
        weights_of(Path(trainer.output_folder_base)), weights_of(Path(stock.output_folder_base))
    )


def test_nothing_to_continue_is_said_instead_of_taking_another_model(
    stock: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["1", "3d_fullres", "0", "-tr", f"{FROZEN}_50epochs", "-device", "cpu"]
    assert command.main([*arguments, "--frozen", "--c"]) == 1
    error = capsys.readouterr().err
    assert "--c goes on with an interrupted training of heads;" in error
    assert "has no checkpoint. Start it again without --c" in error


def test_a_continued_training_keeps_the_heads_that_it_had(stock: Any) -> None:
    first = train(trainer_for(DATASET, "3d_fullres", trainer=f"{FROZEN}_20epochs"))
    more = trainer_for(
        DATASET, "3d_fullres", trainer=f"{FROZEN}_20epochs", epochs=2, continue_training=True
    )
    maybe_load_checkpoint(more, continue_training=True, validation_only=False)
    for name, value in more.network.state_dict().items():
        assert torch.equal(value, first.network.state_dict()[name])
    assert train(more).current_epoch == 2
    assert_unchanged(
        weights_of(Path(more.output_folder_base)), weights_of(Path(stock.output_folder_base))
    )


def test_a_continued_training_knows_whose_model_it_was_given(stock: Any, tmp_path: Path) -> None:
    """The second stage of a cascade takes the first stage's segmentations of that trainer."""
    content = torch.load(Path(stock.output_folder) / "checkpoint_final.pth", weights_only=False)
    torch.save({**content, "trainer_name": "nnUNetTrainer_250epochs"}, tmp_path / "named.pth")
    made = {"trainer": f"{FROZEN}_100epochs", "fold": 1}
    first = trainer_for(DATASET, "3d_fullres", **made)
    first.stock_checkpoint = tmp_path / "named.pth"
    train(first)
    more = trainer_for(DATASET, "3d_fullres", continue_training=True, **made)
    maybe_load_checkpoint(more, continue_training=True, validation_only=False)
    more.folder_with_segs_from_previous_stage = (
        f"{tmp_path}/{FROZEN}_100epochs__nnUNetPlans__3d_lowres/predicted_next_stage/second"
    )
    assert more.folder_with_segs_from_previous_stage == (
        f"{tmp_path}/nnUNetTrainer_250epochs__nnUNetPlans__3d_lowres/predicted_next_stage/second"
    )


def test_its_default_length_is_twenty_epochs(stock: Any) -> None:
    assert trainer_for(DATASET, "3d_fullres", trainer=FROZEN, epochs=None).num_epochs == 20
    assert (
        trainer_for(DATASET, "3d_fullres", trainer=f"{FROZEN}_5epochs", epochs=None).num_epochs == 5
    )


@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
def test_a_fold_without_a_stock_model_is_refused(stock: Any, configuration: str) -> None:
    trainer = trainer_for(DATASET, configuration, fold=1, trainer=FROZEN)
    with pytest.raises(CheckpointError, match=r"nnUNetTrainer__.*fold_1.*Finish that training"):
        trainer.run_training()


def test_nnunets_own_loader_of_pretrained_weights_is_refused(stock: Any) -> None:
    trainer = trainer_for(DATASET, "3d_fullres", trainer=FROZEN)
    trainer.initialize()
    load_pretrained_weights(
        trainer.network, str(Path(stock.output_folder) / "checkpoint_final.pth")
    )
    with pytest.raises(CheckpointError, match="leaves out the heads"):
        trainer.run_training()


@pytest.mark.parametrize("change", ["missing", "shape"])
def test_a_model_of_other_plans_or_labels_is_refused(
    stock: Any, tmp_path: Path, change: str
) -> None:
    weights = dict(weights_of(Path(stock.output_folder_base)))
    name = "decoder.seg_layers.1.weight"
    if change == "missing":
        del weights[name]
    else:
        weights[name] = weights[name][:2]
    torch.save({"network_weights": weights}, tmp_path / "other.pth")
    trainer = trainer_for(DATASET, "3d_fullres", trainer=FROZEN)
    trainer.stock_checkpoint = tmp_path / "other.pth"
    with pytest.raises(CheckpointError, match=r"no finished model.*decoder\.seg_layers\.1\.weight"):
        trainer.run_training()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--frozen", "--frozen needs a finished model"),
        ("--frozen -pretrained_weights none.pth", "found none at none.pth"),
        (
            "--frozen -pretrained_weights x -tr nnUNetTrainer",
            "--frozen trains the heads of a layer ensemble, which -tr nnUNetTrainer does not",
        ),
        (
            "--frozen -pretrained_weights x -num_gpus 2",
            "--frozen cannot reach the processes of several GPUs",
        ),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    stock: Any,
    arguments: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("nnUNet_extTrainer", "")
    assert command.main(["1", "3d_fullres", "0", "-device", "cpu", *arguments.split()]) == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert message in error[0]
