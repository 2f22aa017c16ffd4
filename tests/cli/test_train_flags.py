"""What the command train is told reaches nnU-Net's trainer; nothing is trained here."""

from collections.abc import Callable
from dataclasses import asdict, replace
from inspect import signature
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from nnunetv2.run import run_training

from nnunetv2_le.cli import train
from nnunetv2_le.cli.train_arguments import TrainRequest

OWN = signature(run_training.run_training)
OWN_TRAINER = signature(run_training.get_trainer_from_args)
START = TrainRequest("4", "2d", "0", device="cpu")


def request(line: str) -> TrainRequest:
    return train.build_request(train.build_parser().parse_args(["4", "2d", "0", *line.split()]))


def test_defaults_are_those_of_a_request_that_names_nothing_else() -> None:
    assert request("") == TrainRequest("4", "2d", "0")


FLAGS: dict[str, dict[str, Any]] = {
    "-tr T": {"trainer": "T"},
    "-p P": {"plans": "P"},
    "-pretrained_weights w.pth": {"pretrained_weights": Path("w.pth")},
    "-num_gpus 3": {"num_gpus": 3},
    "--npz": {"export_probabilities": True},
    "--c": {"continue_training": True},
    "--val": {"only_validation": True},
    "--val_best": {"validate_best": True},
    "--disable_checkpointing": {"disable_checkpointing": True},
    "-device mps": {"device": "mps"},
    "-num_epochs 7": {"num_epochs": 7},
    "-num_iterations_per_epoch 8": {"num_iterations_per_epoch": 8},
    "-num_val_iterations_per_epoch 9": {"num_val_iterations_per_epoch": 9},
    "-seed 5": {"seed": 5},
    "-num_cycles 2": {"num_cycles": 2},
    "-keep_checkpoints sparse": {"keep_checkpoints": "sparse"},
    "--frozen -pretrained_weights w.pth": {
        "frozen": True,
        "trainer": "LayerEnsembleTrainerFrozen",
        "pretrained_weights": Path("w.pth"),
    },
    "--frozen -tr T --val": {"frozen": True, "trainer": "T", "only_validation": True},
}


@pytest.mark.parametrize(("line", "settings"), FLAGS.items(), ids=FLAGS)
def test_a_flag_reaches_the_setting_of_its_name_and_no_other(
    line: str, settings: dict[str, Any]
) -> None:
    before, after = asdict(request("")), asdict(request(line))
    assert {name: value for name, value in after.items() if value != before[name]} == settings


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--frozen", "--frozen needs a finished model"),
        ("--frozen -pretrained_weights w -num_gpus 2", "cannot reach the processes"),
        ("-num_gpus 0", "-num_gpus has to be 1 or more, got 0"),
        ("-num_iterations_per_epoch 0", "-num_iterations_per_epoch has to be 1 or more, got 0"),
        ("-num_val_iterations_per_epoch 0", "-num_val_iterations_per_epoch has to be 1 or more"),
        ("-num_cycles 2 -num_gpus 2", "-num_cycles cannot reach the processes"),
        ("-keep_checkpoints late -num_gpus 2", "-keep_checkpoints cannot reach the processes"),
        ("-seed 4294967296", "between 0 and 4294967295, got 4294967296"),
    ],
)
def test_what_cannot_be_done_is_refused(line: str, said: str) -> None:
    with pytest.raises(train.SettingError, match=said):
        request(line)


def test_what_can_just_be_done_is_not_refused() -> None:
    assert request("--frozen --c").continue_training
    assert request("-seed 4294967295 -num_epochs 1 -num_cycles 1").seed == 2**32 - 1
    assert request("-seed 0").seed == 0


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> Callable[[TrainRequest], mock.Mock]:
    """Train as a request says, with nothing behind; gives what was called."""

    def run(asked: TrainRequest) -> mock.Mock:
        calls = mock.Mock()
        calls.trainer.disable_checkpointing = False
        calls.make.return_value = calls.trainer
        monkeypatch.setattr(run_training, "get_trainer_from_args", calls.make)
        monkeypatch.setattr(train, "_load", calls.load)
        for module, name in (
            ("own_checkpoints", "load_for_validation"),
            ("preconditions", "require_previous_stage"),
        ):
            monkeypatch.setattr(f"nnunetv2_le.training.{module}.{name}", getattr(calls, name))
        train._train(asked, "Dataset004_X", fold=3)
        return calls

    return run


Done = Callable[[TrainRequest], mock.Mock]


def test_the_trainer_is_made_as_nnunet_makes_it(done: Done) -> None:
    asked = replace(START, trainer="T", plans="P", continue_training=True)
    calls = done(asked)
    given = OWN_TRAINER.bind(*calls.make.call_args.args, **calls.make.call_args.kwargs)
    assert list(given.arguments) == list(OWN_TRAINER.parameters)
    assert tuple(given.arguments.values()) == (
        *("Dataset004_X", "2d", 3, "T", "P", True),
        torch.device("cpu"),
    )
    calls.load.assert_called_once_with(calls.trainer, asked)


def test_a_training_checks_loads_trains_and_validates_in_this_order(done: Done) -> None:
    calls = done(START)
    assert [name for name, *_ in calls.mock_calls] == [
        *("make", "load", "require_previous_stage"),
        *("trainer.run_training", "trainer.perform_actual_validation"),
    ]
    calls.trainer.perform_actual_validation.assert_called_once_with(False)
    assert calls.trainer.disable_checkpointing is False


def test_a_validation_alone_does_not_train_and_is_of_the_best_if_asked_for(done: Done) -> None:
    asked = replace(START, only_validation=True, validate_best=True, export_probabilities=True)
    calls = done(asked)
    assert [name for name, *_ in calls.mock_calls] == [
        *("make", "load", "require_previous_stage"),
        *("load_for_validation", "trainer.perform_actual_validation"),
    ]
    calls.require_previous_stage.assert_called_once_with(calls.trainer, only_validation=True)
    calls.load_for_validation.assert_called_once_with(calls.trainer, "checkpoint_best.pth")
    calls.trainer.perform_actual_validation.assert_called_once_with(True)


def test_lengths_and_cycles_are_set_on_the_trainer_where_they_are_named(done: Done) -> None:
    named = {
        "num_epochs": 7,
        "num_iterations_per_epoch": 8,
        "num_val_iterations_per_epoch": 9,
        "num_cycles": 2,
        "keep_checkpoints": "sparse",
    }
    calls = done(replace(START, disable_checkpointing=True, **named))  # type: ignore[arg-type]
    assert {name: getattr(calls.trainer, name) for name in named} == named
    assert calls.trainer.disable_checkpointing is True
    own = done(START).trainer
    assert not any(name in vars(own) and vars(own)[name] is None for name in named)


def test_several_gpus_are_asked_of_nnunet_by_its_own_names(monkeypatch: Any) -> None:
    monkeypatch.setattr("nnunetv2_le.training.preconditions.require_batch_for", mock.Mock())
    read = mock.Mock()
    monkeypatch.setattr("nnunetv2_le.training.pretrained.read_weights", read)
    with mock.patch.object(run_training, "run_training") as run:
        asked = request(
            "-tr T -p P -pretrained_weights w.pth -num_gpus 3 --npz --val --val_best -device cuda"
        )
        train._train_on_several_gpus(asked, Path("preprocessed/Dataset004_X"))
        train._train_on_several_gpus(
            request("-num_gpus 2 --c --disable_checkpointing"), Path("preprocessed/Dataset004_X")
        )
    read.assert_called_once_with(Path("w.pth"))
    first, second = (OWN.bind(*call.args).arguments for call in run.call_args_list)
    common = {"dataset_name_or_id": "Dataset004_X", "configuration": "2d", "fold": "0"}
    assert first == common | {
        "trainer_class_name": "T",
        "plans_identifier": "P",
        "pretrained_weights": "w.pth",
        "num_gpus": 3,
        "export_validation_probabilities": True,
        "continue_training": False,
        "only_run_validation": True,
        "disable_checkpointing": False,
        "val_with_best": True,
    }
    assert second == common | {
        "trainer_class_name": "LayerEnsembleTrainer",
        "plans_identifier": "nnUNetPlans",
        "pretrained_weights": None,
        "num_gpus": 2,
        "export_validation_probabilities": False,
        "continue_training": True,
        "only_run_validation": False,
        "disable_checkpointing": True,
        "val_with_best": False,
    }
