"""Saved probabilities: pieces equal the whole, in little memory, and broken files are named."""

import zipfile

import numpy as np
import pytest

from nnunetv2_le.errors import InputError
from nnunetv2_le.evaluation import saved_probabilities
from nnunetv2_le.evaluation.saved_probabilities import decided, iterate_slabs, segmentation_of
from nnunetv2_le.types import Labels

CLASSES = Labels(("a", "b"), (1, 2))


@pytest.mark.parametrize("whole_bytes", [0, 2**28])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_slabs_joined_equal_the_array(tmp_path, monkeypatch, whole_bytes, dtype, save):
    monkeypatch.setattr("nnunetv2_le.evaluation.saved_probabilities._SLAB_VOXELS", 60)
    array = np.random.default_rng(0).random((3, 7, 5, 6)).astype(dtype)
    save(tmp_path / "case.npz", probabilities=array)
    slabs = list(iterate_slabs(tmp_path / "case.npz", shape=(7, 5, 6), whole_bytes=whole_bytes))
    assert [slab.start for slab, _ in slabs] == [0, 2, 4, 6]
    assert (np.concatenate([part for _, part in slabs], axis=1) == array).all()


def test_each_byte_is_unpacked_twice_however_many_channels_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(saved_probabilities, "_PACKED_BYTES", 7)
    array = np.random.default_rng(0).random((40, 4, 5, 6))
    np.savez_compressed(tmp_path / "case.npz", probabilities=array)
    unpacked, following = [], saved_probabilities._Unpacked._next

    def counted(stream, most):
        unpacked.append(following(stream, most))
        return unpacked[-1]

    monkeypatch.setattr(saved_probabilities._Unpacked, "_next", counted)
    parts = [p for _, p in iterate_slabs(tmp_path / "case.npz", shape=(4, 5, 6), whole_bytes=0)]
    assert (np.concatenate(parts, axis=1) == array).all()
    assert sum(map(len, unpacked)) < 2.1 * array.nbytes


def test_slabs_of_many_channels_are_thinner(tmp_path, monkeypatch):
    monkeypatch.setattr(saved_probabilities, "_SLAB_VALUES", 40 * 60)
    np.savez(tmp_path / "case.npz", probabilities=np.zeros((40, 4, 5, 6)))
    parts = [p for _, p in iterate_slabs(tmp_path / "case.npz", shape=(4, 5, 6))]
    assert [part.shape[1] for part in parts] == [2, 2]


@pytest.mark.parametrize("whole_bytes", [0, 2**28])
def test_a_damaged_byte_is_noticed(tmp_path, whole_bytes):
    np.savez(tmp_path / "case.npz", probabilities=np.zeros((3, 20, 30, 4)))
    with zipfile.ZipFile(tmp_path / "case.npz") as archive:
        (entry,) = archive.infolist()
    with (tmp_path / "case.npz").open("r+b") as file:
        file.seek(entry.header_offset + entry.file_size // 2)
        file.write(b"x")
    with pytest.raises(InputError, match=r"case\.npz holds no array"):
        list(iterate_slabs(tmp_path / "case.npz", shape=(20, 30, 4), whole_bytes=whole_bytes))


@pytest.mark.parametrize("place", ["compression", "array's header"])
def test_a_damaged_header_is_noticed(tmp_path, place):
    file = tmp_path / "case.npz"
    np.savez(file, probabilities=np.zeros((3, 8, 9, 10)))
    content = bytearray(file.read_bytes())
    compression = content.index(b"PK\x01\x02") + 10
    content[compression if place == "compression" else content.index(b"}")] = ord("(")
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"case\.npz holds no array"):
        list(iterate_slabs(file, shape=(8, 9, 10)))


def test_segmentation_is_the_most_probable_class(tmp_path):
    array = np.random.default_rng(0).random((3, 2, 3, 4))
    np.savez(tmp_path / "case.npz", probabilities=array)
    segmentation = segmentation_of(tmp_path / "case.npz", CLASSES, shape=(2, 3, 4))
    assert (segmentation == array.argmax(axis=0)).all()


def test_regions_are_painted_as_nnunet_paints_them():
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    manager = LabelManager({"background": 0, "whole": [1, 2], "core": 2}, [1, 2])
    array = np.random.default_rng(0).random((2, 2, 3, 4)).astype(np.float32)
    labels = Labels(("whole", "core"), ((1, 2), 2), has_regions=True, region_values=(1, 2))
    assert (decided(array, labels) == manager.convert_probabilities_to_segmentation(array)).all()


def test_other_shape_is_refused(tmp_path):
    np.savez(tmp_path / "case.npz", probabilities=np.zeros((3, 2, 3, 4)))
    with pytest.raises(InputError, match=r"has shape \(2, 3, 4\), the segmentation \(9, 3, 4\)"):
        list(iterate_slabs(tmp_path / "case.npz", shape=(9, 3, 4)))


def test_file_without_probabilities_is_refused(tmp_path):
    np.savez(tmp_path / "case.npz", logits=np.zeros((3, 2, 3, 4)))
    with pytest.raises(InputError, match="no array 'probabilities'"):
        list(iterate_slabs(tmp_path / "case.npz", shape=(2, 3, 4)))


@pytest.mark.parametrize("array", [np.zeros((3, 2, 3, 4), dtype=np.int32), np.zeros(5)])
def test_array_that_holds_no_probabilities_is_refused(tmp_path, array):
    np.savez(tmp_path / "case.npz", probabilities=array)
    with pytest.raises(InputError, match="expected floating-point probabilities, got"):
        list(iterate_slabs(tmp_path / "case.npz", shape=(2, 3, 4)))


def test_file_that_is_no_archive_is_refused(tmp_path):
    (tmp_path / "case.npz").write_bytes(b"not a zip")
    with pytest.raises(InputError, match="no array 'probabilities' that can be read"):
        list(iterate_slabs(tmp_path / "case.npz", shape=(2, 3, 4)))


@pytest.mark.parametrize("whole_bytes", [0, 2**28])
def test_truncated_file_is_refused(tmp_path, whole_bytes):
    np.savez(tmp_path / "good.npz", probabilities=np.zeros((3, 20, 30, 4)))
    data = (tmp_path / "good.npz").read_bytes()
    (tmp_path / "case.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"case\.npz holds no array"):
        list(iterate_slabs(tmp_path / "case.npz", shape=(20, 30, 4), whole_bytes=whole_bytes))
