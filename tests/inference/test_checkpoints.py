"""Which folds and checkpoints of a model folder are taken, and what is read of a checkpoint."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnunetv2_le.errors import CheckpointError, ModelFolderError
from nnunetv2_le.inference.checkpoints import CheckpointReader, available_folds, checkpoint_names

MAPS = Path("/proc/self/maps")
FINAL, BEST = "checkpoint_final.pth", "checkpoint_best.pth"


def folder_of(folder: Path, **folds: list[str]) -> Path:
    """A model folder whose files are empty."""
    for fold, names in folds.items():
        (folder / fold).mkdir(parents=True)
        for name in names:
            (folder / fold / name).touch()
    return folder


def saved(path: Path, **changes: Any) -> Path:
    content = {
        "network_weights": {"weight": torch.zeros(1000)},
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": "2d"},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({key: value for key, value in (content | changes).items() if value != "no"}, path)
    return path


def test_folds_that_have_every_wanted_checkpoint_are_taken_by_their_numbers(tmp_path: Path) -> None:
    folds = {"fold_10": [FINAL, BEST], "fold_2": [FINAL, BEST], "fold_3": [FINAL], "fold_4": []}
    folder = folder_of(tmp_path, **folds, fold_all=[FINAL, BEST], fold_old=[FINAL, BEST])
    assert available_folds(folder, [FINAL]) == (2, 3, 10)
    assert available_folds(folder, [FINAL, BEST]) == (2, 10)
    assert available_folds(folder, ["checkpoint_f*.pth", BEST]) == (2, 10)


def test_fold_all_is_taken_where_no_numbered_fold_has_the_checkpoints(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, fold_0=[BEST], fold_all=[FINAL])
    assert available_folds(folder, [FINAL]) == ("all",)
    for wanted, said in (
        ([FINAL, BEST], f"{FINAL} and a {BEST}"),
        (["*_cycle?.pth"], r"\*_cycle\?"),
    ):
        with pytest.raises(ModelFolderError, match=rf"No fold of .* has a {said}"):
            available_folds(folder, wanted)


def test_checkpoints_come_as_named_each_once_and_those_of_a_pattern_by_their_numbers(
    tmp_path: Path,
) -> None:
    names = [f"cycle_{number}.pth" for number in (10, 9, 1)]
    folder = folder_of(tmp_path, fold_0=names, fold_1=names)
    (folder / "fold_0" / "cycle_5.pth").mkdir()
    ordered = ("cycle_1.pth", "cycle_9.pth", "cycle_10.pth")
    assert checkpoint_names(folder, ["cycle_*"], folds=[0, 1]) == ordered
    assert checkpoint_names(folder, ["cycle_[19].pth"], folds=[0, 1]) == ordered[:2]
    assert checkpoint_names(folder, ["cycle_10.pth", "cycle_?.pth", "cycle_*"], folds=[0]) == (
        *("cycle_10.pth", "cycle_1.pth", "cycle_9.pth"),
    )


def test_a_pattern_has_to_stand_for_the_same_checkpoints_in_every_fold(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, fold_0=["a_1.pth", "a_2.pth"], fold_1=["a_1.pth"], fold_2=[])
    for fold, missing in ((1, r"a_2\.pth"), (2, r"a_1\.pth, a_2\.pth")):
        with pytest.raises(ModelFolderError, match=rf"Fold {fold} .* fold 0 .*: {missing} is in"):
            checkpoint_names(folder, ["a_*"], folds=[0, fold])
    with pytest.raises(ModelFolderError, match=r"folds 2 .* matches 'a_\*'.* a_1\.pth, a_2\.pth"):
        checkpoint_names(folder, ["a_*"], folds=[2])


@pytest.mark.parametrize(
    ("axes", "read"), [((0, 2), (0, 2)), ([1], (1,)), ((), None), ("no", None)]
)
def test_no_axes_to_mirror_and_none_are_the_same(tmp_path: Path, axes: Any, read: Any) -> None:
    saved(tmp_path / "fold_0" / FINAL, inference_allowed_mirroring_axes=axes)
    assert CheckpointReader().read(tmp_path, 0, FINAL).mirror_axes == read


@pytest.mark.parametrize("lacking", ["network_weights", "trainer_name", "init_args"])
def test_a_file_without_what_nnunet_writes_is_no_checkpoint(tmp_path: Path, lacking: str) -> None:
    saved(tmp_path / "fold_0" / FINAL, **{lacking: "no"})
    with pytest.raises(CheckpointError, match=r"is not a checkpoint of nnU-Net v2: it lacks"):
        CheckpointReader().read(tmp_path, 0, FINAL)


def test_a_checkpoint_without_its_configuration_is_none(tmp_path: Path) -> None:
    saved(tmp_path / "fold_0" / FINAL, init_args={"plans": {}})
    with pytest.raises(CheckpointError, match="or the configuration in init_args"):
        CheckpointReader().read(tmp_path, 0, FINAL)


@pytest.mark.skipif(not MAPS.exists(), reason="the system does not say what is mapped")
def test_the_checkpoints_of_a_run_share_the_memory_for_copies(tmp_path: Path) -> None:
    paths = [saved(tmp_path / f"fold_{fold}" / FINAL) for fold in range(2)]
    reader = CheckpointReader(max_bytes=4000)
    kept = [reader.read(tmp_path, fold, FINAL) for fold in range(2)]
    mapped = MAPS.read_text()
    assert [str(path) in mapped for path in paths] == [False, True]
    assert len(kept) == 2


@pytest.mark.parametrize("module", ["numpy._core.multiarray", "numpy.core.multiarray"])
def test_a_log_of_any_numpy_is_read_without_running_code(
    tmp_path: Path, monkeypatch: Any, module: str
):
    """NumPy 1 and 2 write the same numbers under two names."""
    log = {"dice_per_class": [[np.float64(0.5), np.float32(0.25)]], "lrs": [np.float64(0.01)]}
    path = saved(tmp_path / "fold_0" / FINAL, logging=log)
    rename_global(path, np.float64(0).__reduce__()[0].__module__, module)
    load = torch.load
    ways = []

    def watched(*args: Any, **kwargs: Any) -> Any:
        ways.append(kwargs["weights_only"])
        return load(*args, **kwargs)

    monkeypatch.setattr(torch, "load", watched)
    assert CheckpointReader().read(tmp_path, 0, FINAL).trainer_name == "nnUNetTrainer"
    assert ways == [True]


def rename_global(checkpoint: Path, old: str, new: str) -> None:
    """As if another library had written the file: pickles of protocol 2 name what they need."""
    with zipfile.ZipFile(checkpoint) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    (pickled,) = (name for name in files if name.endswith("data.pkl"))
    assert old.encode() in files[pickled]
    files[pickled] = files[pickled].replace(old.encode(), new.encode())
    with zipfile.ZipFile(checkpoint, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
