"""A run is told from one with other weights, whatever wrote the checkpoints."""

from pathlib import Path
from unittest import mock

import pytest
import torch
from inference.model_folders import TinyModel

from nnunetv2_le.inference import model_checksums
from nnunetv2_le.inference.model import Model, load_model
from nnunetv2_le.inference.model_checksums import checksums, fingerprint


def model(folder: Path, seed: int = 0) -> Model:
    return load_model(TinyModel(stages=3, num_folds=2, seed=seed).write(folder), folds=[0, 1])


def test_the_same_files_have_one_fingerprint(tmp_path: Path):
    first, second = model(tmp_path / "first"), model(tmp_path / "second")
    assert fingerprint([first]) == fingerprint([second])
    assert fingerprint([first, second]) != fingerprint([first])


@pytest.mark.parametrize("legacy", [False, True])
def test_one_changed_weight_changes_it(tmp_path: Path, legacy: bool):
    ours = model(tmp_path / "model")
    file = ours.folder / "fold_1" / "checkpoint_final.pth"
    content = torch.load(file, weights_only=False)
    found = set()
    for change in (0.0, 1e-3):
        next(iter(content["network_weights"].values())).view(-1)[0] += change
        torch.save(content, file, _use_new_zipfile_serialization=not legacy)
        found.add((fingerprint([ours]), *checksums(ours).values()))
    assert len({values[0] for values in found}) == len(found) == 2


def test_weights_are_not_read_for_it(tmp_path: Path):
    ours = model(tmp_path / "model")
    with mock.patch.object(model_checksums, "_sha256", return_value="") as whole:
        fingerprint([ours])
    assert [call.args[0].name for call in whole.call_args_list] == ["plans.json"]


@pytest.mark.skipif(
    not hasattr(torch.serialization, "set_crc32_options"), reason="this torch always writes them"
)
def test_archives_without_checksums_are_read(tmp_path: Path):
    ours = model(tmp_path / "model")
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        file = ours.folder / "fold_0" / "checkpoint_final.pth"
        torch.save(torch.load(file, weights_only=False), file)
    finally:
        torch.serialization.set_crc32_options(before)
    found = fingerprint([ours])
    content = torch.load(file, weights_only=False)
    next(iter(content["network_weights"].values())).view(-1)[0] += 1
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(content, file)
    finally:
        torch.serialization.set_crc32_options(before)
    assert fingerprint([ours]) != found
