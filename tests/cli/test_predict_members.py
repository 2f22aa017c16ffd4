"""``-members`` and the flags that make members: what they need, in one line each."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from inference import faulty_runs as runs
from inference.model_folders import TinyModel

from nnunetv2_le.cli.predict import main as predict_by_name

CYCLES = ("checkpoint_cycle_0.pth", "checkpoint_cycle_1.pth")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models: ``a`` with two folds of two cycles, ``one`` with one head, and others."""
    root = tmp_path_factory.mktemp("models")
    TinyModel(mirror_axes=(2,), num_folds=2, checkpoints=CYCLES).write(root / "a")
    TinyModel(mirror_axes=(2,), num_folds=2, checkpoints=CYCLES, seed=1).write(root / "b")
    runs.write_model(root / "one")
    heads = TinyModel(trainer="LayerEnsembleTrainer", mirror_axes=(2,), checkpoints=CYCLES)
    heads.write(root / "heads")
    labels = {"background": 0, "front": 1, "left": 2}
    other = TinyModel(mirror_axes=(2,), checkpoints=CYCLES, labels=labels)
    other.write(root / "labels")
    slices = TinyModel(patch=(16, 16), spacing=(1.0, 1.0), mirror_axes=(1,), checkpoints=CYCLES)
    slices.write(root / "slices")
    return root


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.write_cases(tmp_path_factory.mktemp("in"), ["first"])


def predict(folders: list[Path], source: Path, output: Path, *more: str) -> int:
    first, *others = folders
    return runs.main(
        [
            *("-m", *map(str, [first, *others]), "-i", str(source), "-o", str(output)),
            *("-device", "cpu", "--disable_progress_bar", *more),
        ]
    )


ERRORS = {
    "heads of one head": ("one", "-f 0 -members heads", ("heads", "has one head")),
    "heads of one head beside mirrors": ("one", "-f 0 -members mirrors heads", ("has one head",)),
    "dropout of none": ("one", "-f 0 -members dropout", ("dropout", "no layer with active")),
    "multi-head of none": ("heads", "-f 0 -chk *_0.pth -members multi_head", ("family heads",)),
    "no member": ("one", "-f 0 -members folds", ("at least two members", "-f names one")),
    "unknown": ("one", "-f 0 -members head", ("-members takes heads", "got head.")),
    "no match": ("a", "-f 0 -chk best_*.pth", ("'best_*.pth'", "checkpoint_cycle_0.pth, ")),
    "no surest": ("a", "-f 0 -chk *_0.pth -fusion lowest_uncertainty", ("Add one to -members",)),
    "samples of nothing": (
        "one",
        "-f 0 -members heads -num_samples 5",
        ("-num_samples 5", "dropout is not among -members"),
    ),
    "one sample": ("one", "-f 0 -members dropout -num_samples 1", ("-num_samples", "2 or more")),
    "skipped heads of one head": ("one", "-f 0 -skip_heads 9", ("-skip_heads 9", "Add heads")),
    "skipped heads of mirrors": (
        "heads",
        "-f 0 -chk *_0.pth -members mirrors -skip_heads 1",
        ("-skip_heads 1", "layer agreement", "Add heads"),
    ),
    "no part": ("one", "-f 0 -num_parts 0", ("-num_parts", "1 or more; got 0")),
    "no such part": ("one", "-f 0 -num_parts 2 -part_id 2", ("-part_id", "= 1; got 2")),
    "labels": ("a labels", "-f 0 -chk *_0.pth -members models", ("same labels", "left")),
    "head count": ("a heads", "-f 0 -chk *_0.pth -members heads", ("a: 2, heads: 7",)),
    "other grid": ("a slices", "-f 0 -chk *_0.pth -members folds", ("-members models, without",)),
    "twice": ("a a", "-f 0 -chk *_0.pth -members models", ("is named twice",)),
    "absent fold": ("a heads", "-f 1 -chk *_0.pth", ("heads", "matches '*_0.pth'")),
}


@pytest.mark.parametrize(("folders", "options", "parts"), ERRORS.values(), ids=ERRORS)
def test_what_makes_no_sense_is_one_line(
    models: Path,
    source: Path,
    tmp_path: Path,
    capsys: Any,
    folders: str,
    options: str,
    parts: tuple[str, ...],
):
    chosen = [models / name for name in folders.split()]
    assert predict(chosen, source, tmp_path / "out", *options.split()) == 1
    runs.require_one_clear_line(capsys, *parts)
    assert not (tmp_path / "out").exists()


def test_folds_with_other_checkpoints_are_named(tmp_path: Path, source: Path, capsys: Any):
    folder = TinyModel(stages=3, num_folds=2, checkpoints=CYCLES).write(tmp_path / "model")
    (folder / "fold_1" / CYCLES[1]).unlink()
    options = ("-f", "0", "1", "-chk", "checkpoint_cycle_*")
    assert predict([folder], source, tmp_path / "out", *options) == 1
    runs.require_one_clear_line(capsys, "Fold 1", "fold 0", CYCLES[1], "is in one alone")


def test_folds_of_another_network_are_named(
    models: Path, tmp_path: Path, source: Path, capsys: Any
):
    folder = TinyModel(mirror_axes=(2,), num_folds=2, checkpoints=CYCLES).write(tmp_path / "model")
    stranger = models / "heads" / "fold_0" / CYCLES[0]
    (folder / "fold_1" / CYCLES[0]).write_bytes(stranger.read_bytes())
    assert predict([folder], source, tmp_path / "out", "-f", "0", "1", "-chk", CYCLES[0]) == 1
    runs.require_one_clear_line(capsys, "fold_1", "trainer_name 'LayerEnsembleTrainer'", "fold_0")


def test_folds_that_are_mirrored_otherwise_are_named(tmp_path: Path, source: Path, capsys: Any):
    folder = TinyModel(stages=3, num_folds=2).write(tmp_path / "model")
    path = folder / "fold_1" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    torch.save(content | {"inference_allowed_mirroring_axes": (0,)}, path)
    assert predict([folder], source, tmp_path / "out", "-f", "0", "1") == 1
    runs.require_one_clear_line(capsys, "fold_1", "mirror_axes (0,)", "(0, 1, 2)")


@pytest.mark.slow
def test_every_family_has_its_columns_maps_and_description(
    models: Path, source: Path, tmp_path: Path
):
    families = ("heads", "mirrors", "folds", "checkpoints", "models")
    options = ("-f", "0", "1", "-chk", "checkpoint_cycle_*.pth", "-members", *families)
    more = ("-maps", "folds_variance", "models_agreement", "-fusion", "lowest_uncertainty")
    out = tmp_path / "out"
    assert predict([models / "a", models / "b"], source, out, *options, *more) == 0
    header = (out / "uncertainty.csv").read_text().splitlines()[0].split(",")
    said = json.loads((out / "uncertainty.json").read_text())
    assert list(said["families"]) == list(families)
    assert said["families"]["models"] == ["a", "b"]
    assert set(said["models"]) == {"a", "b"}
    assert set(said["columns"]) <= set(header)
    components = (out / "uncertainty_per_component.csv").read_text().splitlines()[0]
    assert components.split(",")[3:] == list(said["component_columns"])
    for family in families:
        for column in ("pairwise_dice", "consensus_dice", "mutual_information_foreground_mean"):
            assert f"{family}_{column}" in header
    assert (out / "uncertainty" / "first_folds_variance.nii.gz").is_file()
    assert (out / "uncertainty" / "first_models_agreement.nii.gz").is_file()
    record = json.loads((out / "cases" / "first.json").read_text())
    assert record["chosen"]["family"] == "folds"
    assert record["chosen"]["member"] in ("fold_0", "fold_1")
    assert record["num_members"] == 2 + 2 + 2 + 2 + 2


@pytest.mark.slow
def test_several_trainers_are_several_models(source: Path, tmp_path: Path, nnunet_folders: Any):
    dataset = nnunet_folders.results / "Dataset999_Tiny"
    trainers = ("nnUNetTrainer", "LayerEnsembleTrainer")
    for trainer in trainers:
        model = TinyModel(trainer=trainer, stages=3, mirror_axes=(2,))
        model.write(dataset / f"{trainer}__nnUNetPlans__3d_fullres")
    options = ["-i", str(source), "-o", str(tmp_path / "out"), "-d", "999", "-c", "3d_fullres"]
    options += ["-f", "0", "-device", "cpu", "--disable_progress_bar"]
    assert predict_by_name([*options, "-tr", *trainers, "-members", "models"]) == 0
    said = json.loads((tmp_path / "out" / "uncertainty.json").read_text())
    assert [model["trainer"] for model in said["models"].values()] == list(trainers)
