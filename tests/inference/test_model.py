"""Nothing but weights is unpickled where that is enough, and errors say what is wrong."""

import shutil
import zipfile
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from inference.model_folders import TinyModel

from nnunetv2_le.errors import CheckpointError, ModelFolderError
from nnunetv2_le.inference.model import load_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return TinyModel(stages=3, num_folds=2).write(tmp_path / "model")


def checkpoint(folder: Path, fold: int = 0) -> Path:
    return folder / f"fold_{fold}" / "checkpoint_final.pth"


def change(path: Path, **content: Any) -> None:
    kept = torch.load(path, weights_only=False)
    torch.save(kept | content, path)


class Custom:
    """A type that nnU-Net does not put into checkpoints."""


def test_weights_are_those_of_the_file(folder: Path):
    saved = torch.load(checkpoint(folder, 1), weights_only=False)["network_weights"]
    loaded = load_model(folder, folds=[1]).sources[0].network.state_dict()
    assert saved.keys() == loaded.keys()
    for name, values in saved.items():
        torch.testing.assert_close(loaded[name], values, rtol=0, atol=0)


def test_weights_of_half_precision_become_those_of_the_network(folder: Path):
    kept = torch.load(checkpoint(folder), weights_only=False)["network_weights"]
    half = {name: values.half() for name, values in kept.items()}
    change(checkpoint(folder), network_weights=half)
    source = load_model(folder, folds=[0]).sources[0]
    for name, values in source.network.state_dict().items():
        torch.testing.assert_close(values, half[name].float(), rtol=0, atol=0)
    with torch.inference_mode():
        assert source(torch.zeros(1, 1, 16, 16, 16)).heads[0].dtype == torch.float32


def test_all_numbered_folds_are_found(folder: Path):
    assert load_model(folder).folds == (0, 1)


def test_the_order_in_which_folds_are_named_says_nothing(folder: Path):
    shutil.copytree(folder / "fold_1", folder / "fold_all")
    shutil.copytree(folder / "fold_1", folder / "fold_10")
    loaded = load_model(folder, folds=["all", 10, 1, 0, 1])
    assert loaded.folds == (0, 1, 10, "all")
    saved = torch.load(checkpoint(folder, 0), weights_only=False)["network_weights"]
    first = loaded.sources[0].network.state_dict()
    for name, values in saved.items():
        torch.testing.assert_close(first[name], values, rtol=0, atol=0)


def test_nothing_but_weights_is_unpickled_from_a_checkpoint_of_nnunet(folder: Path):
    with mock.patch.object(torch, "load", wraps=torch.load) as load:
        load_model(folder)
    assert [call.kwargs["weights_only"] for call in load.call_args_list] == [True, True]


def test_a_checkpoint_with_more_than_weights_is_read_as_nnunet_reads_it(folder: Path):
    change(checkpoint(folder), extra=Custom())
    with mock.patch.object(torch, "load", wraps=torch.load) as load:
        load_model(folder, folds=[0])
    assert [call.kwargs["weights_only"] for call in load.call_args_list] == [True, False]


def test_a_checkpoint_of_the_old_format_is_read(folder: Path):
    path = checkpoint(folder)
    content = torch.load(path, weights_only=False)
    torch.save(content, path, _use_new_zipfile_serialization=False)
    assert load_model(folder, folds=[0]).trainer_name == "nnUNetTrainer"


def test_the_file_may_change_once_it_is_loaded(folder: Path):
    before = load_model(folder, folds=[0]).sources[0].network.state_dict()
    copies = {name: values.clone() for name, values in before.items()}
    size = checkpoint(folder).stat().st_size
    with checkpoint(folder).open("r+b") as file:
        file.write(bytes(size))
    for name, values in before.items():
        torch.testing.assert_close(values, copies[name], rtol=0, atol=0)


def test_a_file_that_is_cut_off_is_named(folder: Path):
    path = checkpoint(folder)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"fold_0.checkpoint_final.pth cannot be read"):
        load_model(folder)


def test_weights_that_are_not_those_that_were_saved_are_refused(folder: Path):
    path = checkpoint(folder)
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.filelist, key=lambda entry: entry.file_size)
        at = content.index(archive.read(largest)) + largest.file_size // 2
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with pytest.raises(CheckpointError, match=r"checkpoint_final.pth cannot be .*CRC.*damaged"):
        load_model(folder)


@pytest.mark.skipif(not hasattr(torch.serialization, "set_crc32_options"), reason="torch < 2.6")
def test_a_checkpoint_without_checksums_is_read(folder: Path):
    torch.serialization.set_crc32_options(False)
    try:
        change(checkpoint(folder))
    finally:
        torch.serialization.set_crc32_options(True)
    assert load_model(folder, folds=[0]).folds == (0,)


def test_a_file_of_something_else_is_named(folder: Path):
    torch.save({"state_dict": {}}, checkpoint(folder))
    with pytest.raises(CheckpointError, match="is not a checkpoint of nnU-Net v2"):
        load_model(folder)


def test_weights_of_another_network_are_refused(folder: Path, tmp_path: Path):
    other = TinyModel(stages=4).write(tmp_path / "other")
    checkpoint(folder).write_bytes(checkpoint(other).read_bytes())
    with pytest.raises(CheckpointError, match=r"fold_0.* does not fit the network"):
        load_model(folder, folds=[0])
    with pytest.raises(CheckpointError, match=r"fold_1.* of shape \(.*where fold_0.*has \("):
        load_model(folder)


def test_a_fold_that_is_not_there_is_named_with_those_that_are(folder: Path):
    with pytest.raises(ModelFolderError, match=r"fold_4.*here: fold_0, fold_1"):
        load_model(folder, folds=[0, 4])


def test_a_folder_that_is_no_model_says_what_it_lacks(tmp_path: Path):
    with pytest.raises(ModelFolderError, match=r"it has no dataset\.json"):
        load_model(tmp_path)


def test_plans_that_are_no_json_are_named(folder: Path):
    (folder / "plans.json").write_text("{")
    with pytest.raises(ModelFolderError, match=r"plans\.json is not valid JSON"):
        load_model(folder)


def test_an_unknown_trainer_is_named(folder: Path):
    change(checkpoint(folder), trainer_name="SomebodysTrainer")
    with pytest.raises(ModelFolderError, match="'SomebodysTrainer'"):
        load_model(folder, folds=[0])


@pytest.mark.parametrize(
    ("learned", "names"),
    [
        ((2,), ("output",)),
        ((1, 2), ("decoder_1", "decoder_2")),
        ((), ("decoder_1", "decoder_2")),
    ],
    ids=["without deep supervision", "with it", "not at all"],
)
def test_heads_that_never_learned_are_no_members(
    tmp_path: Path, learned: tuple[int, ...], names: tuple[str, ...]
):
    folder = TinyModel(stages=4).write(tmp_path / "model")
    weights = torch.load(checkpoint(folder), weights_only=False)["network_weights"]
    biases = {f"decoder.seg_layers.{number}.bias": torch.ones(3) for number in learned}
    change(checkpoint(folder), network_weights=weights | biases)
    assert load_model(folder).sources[0].head_names == names
