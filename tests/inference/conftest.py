"""A tiny model and a folder with one image, for tests of what a run writes."""

from pathlib import Path

import pytest
from inference.model_folders import TinyImage, TinyModel

from nnunetv2_le.inference.model import Model, load_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("model")
    return load_model(TinyModel(mirror_axes=(2,)).write(folder / "model"), folds=[0])


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("in")
    TinyImage(shape=(14, 18, 16)).write(folder)
    return folder
