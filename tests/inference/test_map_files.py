"""Voxel maps on their way to files: in pieces, never whole twice, where they belong."""

from itertools import permutations
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_le.inference.map_files import write_map
from nnunetv2_le.inference.native_grid import NativeGrid, NativeVolume


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """OUT with the folder where files lie until they are whole."""
    (tmp_path / "cases").mkdir()
    return tmp_path


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_volume_in_pieces_is_padded_and_transposed_back(
    order: tuple[int, int, int], rng: np.random.Generator
) -> None:
    image_shape = (5, 6, 7)
    full = tuple(image_shape[axis] for axis in order)
    place = tuple(slice(1, length - 1) for length in full)
    cropped = tuple(span.stop - span.start for span in place)
    grid = NativeGrid(cropped, full, place, order)
    values = rng.random(cropped, dtype=np.float32)

    expected = np.full(full, 0.5, dtype=np.float32)
    expected[place] = values
    volume = grid.native_volume(values, outside=0.5)

    assert volume.shape == image_shape
    np.testing.assert_array_equal(volume.array(), expected.transpose(np.argsort(order)))


def in_pieces(values: np.ndarray, *, outside: float) -> NativeVolume:
    """All rows but the last, in two pieces."""
    spans = [slice(0, 1), slice(1, len(values) - 1)]
    pieces = (((span, slice(None), slice(1, None)), values[span, :, 1:]) for span in spans)
    return NativeVolume(values.shape, np.float32, outside, pieces)


def test_a_file_of_pieces_has_their_values_and_the_images_geometry(
    out: Path, rng: np.random.Generator
) -> None:
    values = rng.random((4, 5, 6), dtype=np.float32)
    geometry = {
        "spacing": (0.5, 0.7, 2.0),
        "origin": (3.0, -4.0, 5.0),
        "direction": (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0),
    }
    file = out / "map.nii.gz"

    write_map(file, in_pieces(values, outside=1.0), {"sitk_stuff": geometry}, output=out)

    image = sitk.ReadImage(str(file))
    written = sitk.GetArrayFromImage(image)
    assert written.dtype == np.float32
    np.testing.assert_array_equal(written[:-1, :, 1:], values[:-1, :, 1:])
    assert (written[-1] == 1).all()
    assert (written[:, :, 0] == 1).all()
    assert image.GetSpacing() == pytest.approx(geometry["spacing"])
    assert image.GetOrigin() == pytest.approx(geometry["origin"])
    assert image.GetDirection() == pytest.approx(geometry["direction"])


def test_a_slice_becomes_an_image_of_two_dimensions(out: Path, rng: np.random.Generator) -> None:
    values = rng.integers(0, 200, (1, 5, 6)).astype(np.uint8)
    geometry = {"spacing": (0.5, 0.7), "origin": (3.0, -4.0), "direction": (1.0, 0.0, 0.0, 1.0)}
    file = out / "map.nii.gz"

    write_map(file, NativeVolume.of(values), {"sitk_stuff": geometry}, output=out)

    image = sitk.ReadImage(str(file))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), values[0])
    assert sitk.GetArrayFromImage(image).dtype == np.uint8
    assert image.GetSpacing() == pytest.approx(geometry["spacing"])


def test_a_file_for_the_nibabel_reader_keeps_its_affine(
    out: Path, rng: np.random.Generator
) -> None:
    values = rng.random((4, 5, 6), dtype=np.float32)
    affine = np.diag([2.0, 0.7, 0.5, 1.0])
    file = out / "map.nii.gz"

    write_map(
        file,
        NativeVolume.of(values),
        {"nibabel_stuff": {"original_affine": affine}},
        output=out,
    )

    image = nibabel.load(file)
    np.testing.assert_array_equal(image.get_fdata(), values.transpose(2, 1, 0))
    np.testing.assert_allclose(image.affine, affine, rtol=1e-6)
