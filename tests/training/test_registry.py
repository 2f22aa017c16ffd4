import inspect
import os
from pathlib import Path

import pytest
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunetv2_le.ext_trainers import nnunetv2_le_trainers
from nnunetv2_le.training import (
    cyclic_trainer,
    dropout_trainer,
    frozen_trainer,
    layer_ensemble_trainer,
    lengths,
    multi_head_trainer,
    variants,
)
from nnunetv2_le.training.registry import VARIABLE, register_trainers, trainers_folder

TRAINERS = {
    name: trainer
    for module in (
        cyclic_trainer,
        dropout_trainer,
        frozen_trainer,
        layer_ensemble_trainer,
        lengths,
        multi_head_trainer,
        variants,
    )
    for name, trainer in vars(module).items()
    if inspect.isclass(trainer)
    and issubclass(trainer, nnUNetTrainer)
    and trainer.__module__ == module.__name__
}


def test_every_trainer_of_the_package_is_exported_exactly_once() -> None:
    exported = nnunetv2_le_trainers.__all__
    assert sorted(exported) == sorted(TRAINERS)
    assert len(set(exported)) == len(exported)


@pytest.mark.filterwarnings("default")  # nnU-Net imports every trainer and what those need
@pytest.mark.parametrize("name", TRAINERS)
def test_nnunets_own_search_finds_the_packages_own_class(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(trainers_folder()))
    assert recursive_find_trainer_class_by_name(name) is TRAINERS[name]
    assert recursive_find_trainer_class_by_name(name) is TRAINERS[name]


@pytest.mark.filterwarnings("default")
def test_nnunet_finds_no_trainer_without_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(RuntimeError, match="LayerEnsembleTrainer"):
        recursive_find_trainer_class_by_name("LayerEnsembleTrainer")


def test_the_folder_holds_one_module_and_nothing_else() -> None:
    modules = [file.name for file in trainers_folder().glob("*.py") if file.name != "__init__.py"]
    assert modules == ["nnunetv2_le_trainers.py"]


@pytest.mark.parametrize("before", [None, "", "/one", f"/one{os.pathsep}/two"])
def test_register_trainers_keeps_what_was_named_and_adds_the_folder_once(
    before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if before is not None:
        monkeypatch.setenv(VARIABLE, before)
    register_trainers()
    register_trainers()
    named = [Path(path) for path in (before or "").split(os.pathsep) if path]
    assert [Path(path) for path in os.environ[VARIABLE].split(os.pathsep)] == [
        *named,
        trainers_folder(),
    ]
