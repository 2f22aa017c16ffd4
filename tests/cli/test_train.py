import os
import shutil
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from nnunetv2.run import run_training

from nnunetv2_le.cli import train
from nnunetv2_le.training.registry import trainers_folder
from tests.conftest import NnunetFolders
from tests.helpers import TinyDataset, prepare, processes_as_threads, trainer_for

DATASET = TinyDataset(1)
TINY = "-device cpu -num_epochs 1 -num_iterations_per_epoch 1 -num_val_iterations_per_epoch 1"


@pytest.fixture(scope="module")
def folders(module_nnunet_folders: NnunetFolders) -> NnunetFolders:
    prepare(DATASET, ["3d_fullres"])
    return module_nnunet_folders


@pytest.fixture(autouse=True)
def surroundings_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command sets an environment variable."""
    monkeypatch.setenv("nnUNet_extTrainer", "")


def call(arguments: str) -> int:
    with processes_as_threads():
        return train.main(arguments.split())


def weights(folders: NnunetFolders, model: str, fold: str = "fold_0") -> dict[str, Any]:
    file = folders.results / DATASET.name / model / fold / "checkpoint_final.pth"
    found: dict[str, Any] = torch.load(file, weights_only=False)["network_weights"]
    return found


def test_arguments_and_defaults_are_those_of_nnunetv2_train(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """nnU-Net's own parser is asked what it would train; only the default trainer differs."""
    asked: list[Any] = []
    monkeypatch.setattr(run_training, "run_training", lambda *args, **_: asked.append(args))
    for line in (
        "4 3d_fullres 0 -device cpu",
        "Dataset004_X 2d all -device cpu -tr T -p P -pretrained_weights W -num_gpus 3 --npz --val "
        "--val_best",
        "4 2d 1 -device cpu --c --disable_checkpointing",
    ):
        monkeypatch.setattr(sys, "argv", ["nnUNetv2_train", *line.split()])
        run_training.run_training_entry()
        arguments = train.build_parser().parse_args(line.split())
        ours = (
            arguments.dataset_name_or_id,
            arguments.configuration,
            arguments.fold,
            "nnUNetTrainer" if arguments.tr == "LayerEnsembleTrainer" else arguments.tr,
            arguments.p,
            None if arguments.pretrained_weights is None else str(arguments.pretrained_weights),
            arguments.num_gpus,
            arguments.npz,
            arguments.c,
            arguments.val,
            arguments.disable_checkpointing,
            arguments.val_best,
        )
        assert ours == asked.pop()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("trainer", ["LayerEnsembleTrainer", "nnUNetTrainer"])
def test_trains_any_trainer_and_validates(folders: NnunetFolders, trainer: str) -> None:
    assert call(f"1 3d_fullres 0 {TINY} -tr {trainer} --npz") == 0
    model = folders.results / DATASET.name / f"{trainer}__nnUNetPlans__3d_fullres" / "fold_0"
    assert (model / "checkpoint_final.pth").is_file()
    assert (model / "validation" / "case_0.npz").is_file()
    assert os.environ["nnUNet_extTrainer"].split(os.pathsep)[-1] == str(trainers_folder())


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_same_seed_gives_the_same_weights_without_augmentation_processes(
    folders: NnunetFolders,
) -> None:
    model, found = "LayerEnsembleTrainer__nnUNetPlans__3d_fullres", []
    for seed in (3, 3, 4):
        assert call(f"1 3d_fullres 1 {TINY} -seed {seed}") == 0
        found.append(weights(folders, model, "fold_1")["encoder.stages.0.0.convs.0.conv.weight"])
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    assert not torch.equal(found[0], found[2])


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_pretrained_weights_of_a_stock_checkpoint_reach_trunk_and_decoder_heads(
    folders: NnunetFolders,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stock = trainer_for(DATASET, "3d_fullres", trainer="nnUNetTrainer")
    stock.initialize()
    stock.save_checkpoint(str(tmp_path / "stock.pth"))
    started: list[dict[str, Any]] = []

    def remember(trainer: Any) -> None:
        started.append({k: v.clone() for k, v in trainer.network.state_dict().items()})
        raise KeyboardInterrupt

    monkeypatch.setattr(
        "nnunetv2.training.nnUNetTrainer.nnUNetTrainer.nnUNetTrainer.run_training", remember
    )
    assert call(f"1 3d_fullres 0 {TINY} -pretrained_weights {tmp_path}/stock.pth") == 130
    for name, value in stock.network.state_dict().items():
        assert torch.equal(started[0][name], value), name
    assert "trunk and 4 tensors of decoder heads" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_pretrained_weights_that_a_gpu_wrote_start_a_training_without_one(
    folders: NnunetFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock = trainer_for(DATASET, "3d_fullres", trainer="nnUNetTrainer")
    stock.initialize()
    with mock.patch("torch.serialization.location_tag", return_value="cuda:0"):
        stock.save_checkpoint(str(tmp_path / "stock.pth"))
    monkeypatch.setattr(
        "nnunetv2.training.nnUNetTrainer.nnUNetTrainer.nnUNetTrainer.run_training",
        mock.Mock(side_effect=KeyboardInterrupt),
    )
    assert call(f"1 3d_fullres 0 {TINY} -pretrained_weights {tmp_path}/stock.pth") == 130


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_pretrained_weights_of_another_network_are_one_line(
    folders: NnunetFolders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"network_weights": {"other": torch.zeros(1)}}, tmp_path / "other.pth")
    assert call(f"1 3d_fullres 0 {TINY} -pretrained_weights {tmp_path}/other.pth") == 1
    error = capsys.readouterr().err.strip()
    assert "other.pth does not fit the network to train" in error
    assert "\n" not in error.split("nnUNetv2_le_train: ", 1)[1]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("1 3d_fullres 0 -tr NoTrainer", "No trainer 'NoTrainer'"),
        (
            "1 3d_fullres 0 -num_cycles 2 -keep_checkpoints late",
            "-num_cycles, -keep_checkpoints need a trainer with cycles of the learning rate",
        ),
        (
            "1 3d_fullres 0 -tr CyclicLearningRateTrainer -num_cycles 0",
            "-num_cycles has to be 1 or more, got 0",
        ),
        (
            "1 3d_fullres 0 -device cpu -tr CyclicLearningRateTrainer -num_epochs 3",
            "3 cycles of the learning rate need 6 epochs or more, got 3",
        ),
        ("9 3d_fullres 0", "No data set has the number '9'"),
        ("Dataset009_None 3d_fullres 0", "'Dataset009_None' is not preprocessed"),
        ("hippocampus 3d_fullres 0", "a name like Dataset004_Hippocampus or a number"),
        ("1 3d_fullres 0 -p otherPlans", "No plans 'otherPlans'"),
        ("1 3d_lowres 0", "no configuration '3d_lowres'"),
        ("1 2d 0", "not preprocessed"),
        ("1 3d_fullres first", "A fold is a number from 0, or all; got 'first'"),
        ("1 3d_fullres 0 --c --val", "--c and --val exclude each other"),
        ("1 3d_fullres 0 --c -pretrained_weights x", "--c and -pretrained_weights exclude"),
        ("1 3d_fullres 0 -pretrained_weights none.pth", "found none at none.pth"),
        ("1 3d_fullres 7 --val", "checkpoint_final.pth, which is missing"),
        ("1 3d_fullres 0 --val_best --disable_checkpointing", "--val_best needs a checkpoint"),
        ("1 3d_fullres 0 -num_gpus 2", "-num_gpus 2 needs -device cuda"),
        ("1 3d_fullres 0 -num_epochs 0", "-num_epochs has to be 1 or more, got 0"),
        ("1 3d_fullres 0 -seed -1", "-seed has to be between 0 and 4294967295, got -1"),
        ("1 3d_fullres 0 -seed 99999999999", "4294967295, got 99999999999"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    folders: NnunetFolders, arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(f"{arguments} -device cpu") == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert error[0].startswith("nnUNetv2_le_train: ")
    assert message in error[0]


@pytest.fixture
def interrupted(folders: NnunetFolders) -> Path:
    """A fold with nothing but the checkpoint of its first epoch."""
    trainer = trainer_for(DATASET, "3d_fullres", fold=8)
    trainer.initialize()
    trainer.save_checkpoint(f"{trainer.output_folder}/checkpoint_best.pth")
    return Path(trainer.output_folder)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("damage", ["empty", "cut off", "other plans"])
def test_a_checkpoint_that_cannot_be_continued_is_named(
    interrupted: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = interrupted / "checkpoint_best.pth"
    if damage == "other plans":
        content = torch.load(file, weights_only=False)
        content["network_weights"]["decoder.seg_layers.1.bias"] = torch.zeros(7)
        torch.save(content, file)
    else:
        file.write_bytes(file.read_bytes()[: 5000 if damage == "cut off" else 0])
    assert call(f"1 3d_fullres 8 {TINY} --c") == 1
    error = capsys.readouterr().err
    assert f"{file} cannot be loaded (" in error
    assert "If it is damaged or was cut off, remove it" in error
    assert "unexpected" not in error


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_finished_training_does_not_hide_a_later_one_that_was_interrupted(
    interrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    final, latest = (interrupted / f"checkpoint_{name}.pth" for name in ("final", "latest"))
    for file in (final, latest):
        shutil.copy(interrupted / "checkpoint_best.pth", file)
    os.utime(final, (1, 1))
    assert call(f"1 3d_fullres 8 {TINY} --c") == 1
    error = capsys.readouterr().err
    assert f"{final} is older than checkpoint_latest.pth beside it" in error
    assert latest.is_file()
    os.utime(latest, (1, 1))  # a training that was ended just before nnU-Net removes it
    assert call(f"1 3d_fullres 8 {TINY} --c") == 0
    assert not latest.exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_nothing_to_continue_is_said(
    folders: NnunetFolders, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(f"1 3d_fullres 9 {TINY} --c") == 0
    assert "No checkpoint to continue in " in capsys.readouterr().err


def test_lengths_and_seed_are_refused_with_several_gpus(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call("1 3d_fullres 0 -num_gpus 2 -num_epochs 3 -seed 1") == 1
    assert "-num_epochs, -seed cannot reach the processes" in capsys.readouterr().err


@pytest.fixture
def three_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    for name in ("deterministic", "benchmark"):  # the command sets them
        monkeypatch.setattr(torch.backends.cudnn, name, getattr(torch.backends.cudnn, name))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("num_gpus", "message"),
    [
        (4, "-num_gpus 4 is more than torch sees: 3."),
        (3, "3 GPUs share the batch of '3d_fullres', which has 2 images. Train with -num_gpus 2"),
    ],
)
def test_too_many_gpus_are_refused(
    folders: NnunetFolders,
    three_gpus: None,
    num_gpus: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(f"1 3d_fullres 0 -num_gpus {num_gpus}") == 1
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_what_goes_wrong_in_the_process_of_a_gpu_is_told_without_its_traceback(
    folders: NnunetFolders,
    three_gpus: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: Any) -> None:
        text = "\n\n-- Process 1 terminated with the following error:\nTraceback (most recent call "
        text += 'last):\n  File "a.py", line 1, in wrap\n    fn()\na.b.CheckpointError: no\nmodel.'
        raise torch.multiprocessing.ProcessRaisedException(text, 1, 2)

    monkeypatch.setattr(run_training, "run_training", fail)
    assert call("1 3d_fullres 0 -num_gpus 2") == 1
    assert capsys.readouterr().err == (
        "nnUNetv2_le_train: The process of GPU 1 ended with a.b.CheckpointError: no model.\n"
    )


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is an Apple GPU")
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_missing_apple_gpu_is_told_in_one_line(
    folders: NnunetFolders, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("1 3d_fullres 0 -device mps") == 1
    assert "No Apple GPU was found (-device mps)" in capsys.readouterr().err


@pytest.mark.parametrize("variable", ["nnUNet_preprocessed", "nnUNet_results"])
def test_a_missing_variable_is_told_in_one_line(
    nnunet_folders: NnunetFolders,
    variable: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv(variable)
    assert call("1 3d_fullres 0 -device cpu") == 1
    assert f"The environment variable {variable} has to name a folder" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_missing_gpu_is_told_in_one_line(
    folders: NnunetFolders, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("1 3d_fullres 0") == 1
    assert "No GPU was found (-device cuda). Train with -device cpu" in capsys.readouterr().err


def test_wrong_usage_leaves_with_code_two() -> None:
    with pytest.raises(SystemExit, match="2"):
        train.main(["1", "3d_fullres"])


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_cycles_and_their_rule_reach_the_trainer(folders: NnunetFolders) -> None:
    arguments = "-num_epochs 4 -num_iterations_per_epoch 1 -num_val_iterations_per_epoch 1"
    cycles = "-tr CyclicLearningRateTrainer -num_cycles 1 -keep_checkpoints sparse"
    assert call(f"1 3d_fullres 0 -device cpu {arguments} {cycles}") == 0
    fold = folders.results / DATASET.name / "CyclicLearningRateTrainer__nnUNetPlans__3d_fullres"
    kept = sorted(file.name for file in (fold / "fold_0").glob("checkpoint_cycle*"))
    assert kept == ["checkpoint_cycle0_epoch003.pth"]
