"""Data sets: nnU-Net's own label manager and reader, and clear errors."""

import json

import numpy as np
import pytest
import tifffile
from evaluation.made_up_predictions import write
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from nnunetv2_le.errors import InputError
from nnunetv2_le.evaluation.dataset import read_dataset

CLASSES = {"background": 0, "front": 1, "back": 2}


def described(folder, **changes):
    content = {"channel_names": {"0": "MRI"}, "labels": CLASSES, "file_ending": ".nii.gz"}
    path = folder / "dataset.json"
    path.write_text(json.dumps(content | changes))
    return path


def test_classes_keep_their_names_in_the_order_of_their_values(tmp_path):
    labels = {"back": 2, "background": 0, "front": 1}
    dataset = read_dataset(described(tmp_path, labels=labels))
    assert dataset.labels.names == ("front", "back")
    assert dataset.labels.values == (1, 2)
    assert dataset.known_values == (0, 1, 2)
    assert isinstance(dataset.reader, SimpleITKIO)


def test_regions_and_ignore_label(tmp_path):
    labels = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    dataset = read_dataset(described(tmp_path, labels=labels, regions_class_order=[1, 2]))
    assert dataset.labels.has_regions
    assert dataset.labels.names == ("whole", "core")
    assert dataset.labels.values == ((1, 2), (2,))
    assert dataset.labels.region_values == (1, 2)
    assert dataset.ignore_label == 3
    assert dataset.known_values == (0, 1, 2, 3)


def test_png_is_read_by_the_natural_image_reader(tmp_path):
    dataset = read_dataset(described(tmp_path, file_ending=".png"))
    assert isinstance(dataset.reader, NaturalImage2DIO)


def test_the_first_example_that_can_be_read_decides_in_silence(tmp_path, capfd):
    broken, good = tmp_path / "broken.nii.gz", tmp_path / "good.nii.gz"
    broken.write_bytes(b"nonsense")
    write(np.zeros((3, 4, 5)), good)
    for examples in ([broken, good], [broken], [tmp_path / "missing.nii.gz"], []):
        dataset = read_dataset(described(tmp_path), example_files=examples)
        assert isinstance(dataset.reader, SimpleITKIO)
    assert "Traceback" not in "".join(capfd.readouterr())


def test_the_plans_decide_before_an_example(tmp_path):
    """A volume of four columns looks like a picture of four colours."""
    volume, plans = tmp_path / "case.tif", tmp_path / "plans.json"
    tifffile.imwrite(volume, np.zeros((6, 5, 4), dtype=np.uint8))
    dataset_file = described(tmp_path, file_ending=".tif")
    plans.write_text(json.dumps({"image_reader_writer": "Tiff3DIO"}))
    dataset = read_dataset(dataset_file, plans_file=plans, example_files=[volume])
    assert isinstance(dataset.reader, Tiff3DIO)
    plans.write_text("{}")
    dataset = read_dataset(dataset_file, plans_file=plans, example_files=[volume])
    assert isinstance(dataset.reader, NaturalImage2DIO)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"dataset\.json is needed and cannot be read.* -djfile"):
        read_dataset(tmp_path / "dataset.json")


def test_broken_json_is_named(tmp_path):
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(InputError, match=r"dataset\.json is not valid JSON"):
        read_dataset(tmp_path / "dataset.json")


def test_labels_without_background_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"no dataset\.json that nnU-Net accepts"):
        read_dataset(described(tmp_path, labels={"front": 1}))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1], "must be nnU-Net's dataset.json, got a list"),
        (None, "must be nnU-Net's dataset.json, got nothing"),
        ({"file_ending": ".png"}, "must give the labels as an object of names and numbers, got no"),
        ({"labels": "x", "file_ending": ".png"}, "names and numbers, got a str"),
        ({"labels": CLASSES}, "must give the file_ending of segmentations.*, got None"),
        ({"labels": CLASSES, "file_ending": ""}, "must give the file_ending.*, got ''"),
        ({"labels": CLASSES, "file_ending": ".x"}, r"no dataset\.json that nnU-Net accepts"),
        ({"labels": {"a": "x"}, "file_ending": ".png"}, r"no dataset\.json that nnU-Net accepts"),
        ({"labels": {"a": None}, "file_ending": ".png"}, r"no dataset\.json that nnU-Net accep"),
        ({"labels": {"a": {}}, "file_ending": ".png"}, r"no dataset\.json that nnU-Net accepts"),
    ],
)
def test_a_description_that_says_something_else_is_named(tmp_path, content, said):
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"dataset\.json .*{said}"):
        read_dataset(tmp_path / "dataset.json")


def test_plans_that_are_none_are_named(tmp_path):
    (tmp_path / "plans.json").write_text("[]")
    with pytest.raises(InputError, match=r"plans\.json must be nnU-Net's plans.json, got a list"):
        read_dataset(described(tmp_path), plans_file=tmp_path / "plans.json")
