"""Tiny models of several kinds, and a folder with one image."""

from pathlib import Path

import pytest
from inference.model_folders import TinyImage, TinyModel

from nnunetv2_le.inference.model import Model, load_model

RGB = TinyModel(
    patch=(16, 16),
    spacing=(1.0, 1.0),
    stages=3,
    reader="NaturalImage2DIO",
    ending=".png",
    num_channels=3,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("model")
    return load_model(TinyModel(mirror_axes=(2,)).write(folder / "model"), folds=[0])


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("in")
    TinyImage(shape=(14, 18, 16)).write(folder)
    return folder


@pytest.fixture(scope="module")
def rgb(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model of pictures in colour."""
    return load_model(RGB.write(tmp_path_factory.mktemp("rgb") / "model"))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model of two channels."""
    folder = tmp_path_factory.mktemp("two") / "model"
    return load_model(TinyModel(stages=3, num_channels=2).write(folder))


@pytest.fixture(scope="module")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The second stage of a cascade."""
    folder = tmp_path_factory.mktemp("cascade") / "model"
    return load_model(TinyModel(stages=3, previous_stage="3d_lowres").write(folder))


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model whose normalization clips intensities."""
    tiny = TinyModel(stages=3, normalization="CTNormalization", ending=".mha")
    return load_model(tiny.write(tmp_path_factory.mktemp("ct") / "model"))
