"""Channels that do not fit, and voxel sizes that are none, are named."""

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from inference.model_folders import TinyImage, TinyModel

from nnunetv2_le.errors import CaseError
from nnunetv2_le.inference.case_geometry import what_failed
from nnunetv2_le.inference.cases import (
    Case,
    find_cases,
    prepare_case,
)
from nnunetv2_le.inference.model import Model, load_model


@pytest.mark.parametrize(
    "content", ["", "[1, 1, 1]", '{"spacing": [-1, 1, 1]}', '{"spacing": ["1", "1", "1"]}']
)
def test_a_spacing_file_of_a_tiff_without_a_spacing_is_named(tmp_path: Path, content: str):
    model = load_model(
        TinyModel(stages=3, reader="Tiff3DIO", ending=".tif").write(tmp_path / "model")
    )
    file = tmp_path / "case_0000.tif"
    tifffile.imwrite(file, np.ones((8, 9, 10), dtype=np.uint8))
    (tmp_path / "case.json").write_text(content)
    with pytest.raises(CaseError, match=r"case\.json has to hold the voxel size .* Mend it"):
        prepare_case(Case("case", (file,)), model)


def test_a_voxel_size_of_a_tiff_that_is_no_millimetres_is_named(tmp_path: Path):
    model = load_model(
        TinyModel(stages=3, reader="Tiff3DIO", ending=".tif").write(tmp_path / "model")
    )
    file = tmp_path / "case_0000.tif"
    tifffile.imwrite(file, np.random.default_rng(0).random((8, 9, 10), dtype=np.float32))
    (tmp_path / "case.json").write_text('{"spacing": [2e-3, 1e-3, 1e-3]}')
    with pytest.raises(CaseError, match="Check the voxel size, which has to be in mill") as error:
        prepare_case(Case("case", (file,)), model)
    assert "8 x 9 x 10 voxels of 0.002 x 0.001 x 0.001 mm (z, y, x) make 0 x 0" in str(error.value)


@pytest.mark.parametrize(
    ("image", "got"),
    [
        (TinyImage(shape=(14, 18, 15)), "14 x 18 x 15 voxels of 1 x 1 x 1 mm"),
        (
            TinyImage(shape=(14, 18, 16), spacing=(1.0, 1.0, 1.5)),
            "14 x 18 x 16 voxels of 1 x 1 x 1.5 mm",
        ),
    ],
)
def test_channels_of_other_shape_or_spacing_are_named(
    two: Model, tmp_path: Path, image: TinyImage, got: str
):
    TinyImage(shape=(14, 18, 16), num_channels=2).write(tmp_path)
    image.write(tmp_path, "other")[0].rename(tmp_path / "case_0001.nii.gz")
    (case,) = find_cases(tmp_path, two)
    with pytest.raises(CaseError, match=r"^Expected channels of one shape and voxel size") as error:
        prepare_case(case, two)
    assert "case_0000.nii.gz: 14 x 18 x 16 voxels of 1 x 1 x 1 mm, case_0001" in str(error.value)
    assert got in str(error.value)


def test_a_voxel_size_that_is_no_millimetres_is_named(two: Model, tmp_path: Path):
    TinyImage(shape=(14, 18, 16), spacing=(0.001,) * 3, num_channels=2).write(tmp_path)
    (case,) = find_cases(tmp_path, two)
    with pytest.raises(CaseError, match="Check the voxel size, which has to be in mill") as error:
        prepare_case(case, two)
    assert "of 0.001 x 0.001 x 0.001 mm (z, y, x) make 0 x 0 x 0 at" in str(error.value)


def test_a_voxel_size_that_no_memory_is_enough_for_is_named(two: Model, tmp_path: Path):
    image = TinyImage(shape=(14, 18, 16), spacing=(10.0, 1e4, 1e4), num_channels=2)
    said = what_failed(image.write(tmp_path), two, MemoryError("3 PiB"))
    assert "of 10 x 10000 x 10000 mm (z, y, x) make 140 x 180000 x 160000 at" in said


def test_a_header_of_negative_length_is_named(two: Model, tmp_path: Path):
    written = TinyImage(shape=(14, 18, 16), num_channels=2).write(tmp_path)
    content = bytearray(gzip.decompress(written[0].read_bytes()))
    content[42:44] = (-16).to_bytes(2, "little", signed=True)  # dim[1]
    written[0].write_bytes(gzip.compress(bytes(content)))
    (case,) = find_cases(tmp_path, two)
    with pytest.raises(CaseError, match=r"its header states the shape \(-16, 18, 14\)"):
        prepare_case(case, two)


def test_axes_at_odd_angles_are_named_and_the_advice_helps(two: Model, tmp_path: Path):
    written = TinyImage(shape=(14, 18, 16), num_channels=2).write(tmp_path)
    sheared = nibabel.load(written[1])
    affine = sheared.affine.copy()
    affine[0, 1] += 0.0005
    sheared.set_qform(None, code=0)
    sheared.set_sform(affine, code=1)
    values = np.asarray(sheared.dataobj)
    nibabel.save(nibabel.Nifti1Image(values, None, sheared.header), written[1])
    (case,) = find_cases(tmp_path, two)
    with pytest.raises(CaseError, match=r"case_0001\.nii\.gz cannot be read: .* right angles"):
        prepare_case(case, two)
    image = nibabel.Nifti1Image(values, affine, sheared.header)
    image.set_qform(image.affine, code=1)
    nibabel.save(image, written[1])
    assert prepare_case(case, two).image.shape[0] == 2


def test_nifti_2_is_named(two: Model, tmp_path: Path):
    written = TinyImage(shape=(14, 18, 16), num_channels=2).write(tmp_path)
    for path in written:
        old = nibabel.load(path)
        nibabel.save(nibabel.Nifti2Image(np.asarray(old.dataobj), old.affine), path)
    (case,) = find_cases(tmp_path, two)
    with pytest.raises(CaseError, match=r"case_0000.* it is NIfTI-2, .* Save it as NIfTI-1"):
        prepare_case(case, two)
