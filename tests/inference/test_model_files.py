"""A model folder whose files lack something is refused by the name of the file and the thing."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from inference.model_folders import TinyModel

from nnunetv2_le.errors import CheckpointError, ModelFolderError
from nnunetv2_le.inference.model import load_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return TinyModel(stages=3).write(tmp_path / "model")


def write_json(file: Path, change: Any) -> None:
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


def without(key: str) -> Any:
    return lambda content: {name: value for name, value in content.items() if name != key}


def in_configuration(change: Any) -> Any:
    def changed(plans: dict[str, Any]) -> dict[str, Any]:
        own = plans["configurations"]["3d_fullres"]
        return plans | {"configurations": {"3d_fullres": change(own)}}

    return changed


@pytest.mark.parametrize("key", ["file_ending", "labels", "channel_names"])
def test_a_data_set_without_something_is_refused_by_its_name(folder: Path, key: str) -> None:
    write_json(folder / "dataset.json", without(key))
    with pytest.raises(ModelFolderError, match=rf"dataset\.json lacks {key}\. Restore"):
        load_model(folder)


def test_modality_is_an_old_name_of_the_channels(folder: Path) -> None:
    named = load_model(folder).dataset_json["channel_names"]
    write_json(
        folder / "dataset.json", lambda old: without("channel_names")(old) | {"modality": named}
    )
    assert load_model(folder).dataset_json["channel_names"] == named


@pytest.mark.parametrize(
    "key", ["configurations", "transpose_forward", "plans_name", "image_reader_writer"]
)
def test_plans_without_something_are_refused_by_its_name(folder: Path, key: str) -> None:
    write_json(folder / "plans.json", without(key))
    with pytest.raises(ModelFolderError, match=rf"plans\.json lacks {key}\. Restore"):
        load_model(folder)


@pytest.mark.parametrize("key", ["spacing", "patch_size", "resampling_fn_data"])
def test_a_configuration_without_something_is_refused_by_its_name(folder: Path, key: str) -> None:
    write_json(folder / "plans.json", in_configuration(without(key)))
    with pytest.raises(ModelFolderError, match=rf"plans\.json lacks {key}\. Restore"):
        load_model(folder)


def test_a_configuration_without_a_network_is_refused(folder: Path) -> None:
    write_json(folder / "plans.json", in_configuration(without("architecture")))
    with (
        pytest.warns(UserWarning, match="old nnU-Net plans"),
        pytest.raises(ModelFolderError, match=r"configuration '3d_fullres' in .*cannot be used"),
    ):
        load_model(folder)


def test_a_network_that_cannot_be_built_is_refused(folder: Path) -> None:
    bad = {"architecture": {"network_class_name": "no.such.Network", "arch_kwargs": {}}}
    write_json(folder / "plans.json", in_configuration(lambda own: own | bad))
    with pytest.raises(ModelFolderError, match=r"The network in .*plans\.json cannot be used"):
        load_model(folder)


@pytest.mark.parametrize("labels", ["x", {"tumour": 1}, ["background", "tumour"]])
def test_labels_that_make_no_sense_are_refused(folder: Path, labels: Any) -> None:
    write_json(folder / "dataset.json", lambda content: content | {"labels": labels})
    with pytest.raises(ModelFolderError, match=r"The labels in .*dataset\.json cannot be used"):
        load_model(folder)


@pytest.mark.parametrize("name", ["dataset.json", "plans.json"])
def test_a_list_is_no_object(folder: Path, name: str) -> None:
    (folder / name).write_text("[1]")
    with pytest.raises(ModelFolderError, match=rf"{name} has to hold an object .* a list"):
        load_model(folder)


@pytest.mark.parametrize(
    "part",
    [
        {"network_weights": None},
        {"trainer_name": None},
        {"init_args": None},
        {"init_args": {"fold": 0}},
    ],
)
def test_a_checkpoint_without_something_is_refused(folder: Path, part: dict[str, Any]) -> None:
    file = folder / "fold_0" / "checkpoint_final.pth"
    torch.save(torch.load(file, weights_only=False) | part, file)
    with pytest.raises(CheckpointError, match="is not a checkpoint of nnU-Net v2"):
        load_model(folder)
