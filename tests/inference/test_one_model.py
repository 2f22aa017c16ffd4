"""Checkpoints of one folder that are not of one model are refused in one line."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from inference.model_folders import TinyModel

from nnunetv2_le.errors import CheckpointError
from nnunetv2_le.inference.model import load_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return TinyModel(stages=3, num_folds=2).write(tmp_path / "model")


def change(folder: Path, of: str, **values: Any) -> None:
    """Change the plans, the configuration or the data set's description of fold 1."""
    path = folder / "fold_1" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    arguments = copy.deepcopy(content["init_args"])
    kept = arguments["plans"]["configurations"]["3d_fullres"] if of == "configuration" else None
    (arguments[of] if kept is None else kept).update(values)
    torch.save(content | {"init_args": arguments}, path)


DIFFERENT: dict[str, tuple[str, dict[str, Any]]] = {
    "spacing": ("configuration", {"spacing": [2.0, 2.0, 2.0]}),
    "patch_size": ("configuration", {"patch_size": [24, 24, 24]}),
    "normalization_schemes": ("configuration", {"normalization_schemes": ["CTNormalization"]}),
    "transpose_forward": ("plans", {"transpose_forward": [2, 0, 1]}),
    "labels": ("dataset_json", {"labels": {"background": 0, "back": 1, "front": 2}}),
    "channel_names": ("dataset_json", {"channel_names": {"0": "CT"}}),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_folds_that_differ_are_refused(folder: Path, what: str):
    of, values = DIFFERENT[what]
    change(folder, of, **values)
    said = rf"^The checkpoints of one model .*fold_1.* has {what} .*where fold_0.* has .*with -f"
    with pytest.raises(CheckpointError, match=said):
        load_model(folder)
    load_model(folder, folds=[0])


SAME: dict[str, tuple[str, dict[str, Any]]] = {
    "batch size": ("configuration", {"batch_size": 7}),
    "name of the plans": ("plans", {"plans_name": "others"}),
    "intensities that z-scores ignore": (
        "plans",
        {"foreground_intensity_properties_per_channel": {"0": {"mean": 3.0}}},
    ),
    "number of cases": ("dataset_json", {"numTraining": 12}),
}


@pytest.mark.parametrize("what", SAME)
def test_what_no_prediction_depends_on_may_differ(folder: Path, what: str):
    of, values = SAME[what]
    change(folder, of, **values)
    assert load_model(folder).folds == (0, 1)


def test_intensities_count_where_they_normalise(folder: Path):
    path = folder / "fold_0" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    plans = content["init_args"]["plans"]
    plans["configurations"]["3d_fullres"]["normalization_schemes"] = ["CTNormalization"]
    torch.save(content, path)
    change(folder, "configuration", normalization_schemes=["CTNormalization"])
    assert load_model(folder).folds == (0, 1)
    change(folder, "plans", foreground_intensity_properties_per_channel={"0": {"mean": 3.0}})
    with pytest.raises(CheckpointError, match="has foreground_intensity_properties_per_channel"):
        load_model(folder)


def test_checkpoints_without_plans_are_not_compared(folder: Path):
    path = folder / "fold_1" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    torch.save(content | {"init_args": {"configuration": "3d_fullres"}}, path)
    assert load_model(folder).folds == (0, 1)


def test_a_retrofit_among_layer_ensembles_is_refused(tmp_path: Path):
    folder = TinyModel(trainer="LayerEnsembleTrainer", num_folds=2).write(tmp_path / "model")
    path = folder / "fold_1" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    torch.save(content | {"trainer_name": "LayerEnsembleTrainerFrozen"}, path)
    said = r"fold_1.* was trained by 'LayerEnsembleTrainerFrozen' \(last heads fused: 1\)"
    with pytest.raises(CheckpointError, match=said):
        load_model(folder)
