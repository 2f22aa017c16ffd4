"""Label maps and voxel maps of files, through each of nnU-Net's readers."""

import json

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from evaluation.made_up_predictions import make
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunetv2_le.errors import InputError
from nnunetv2_le.evaluation.cases import find_cases
from nnunetv2_le.evaluation.dataset import read_dataset
from nnunetv2_le.evaluation.rater_metrics import rater_figures
from nnunetv2_le.evaluation.raters import rater_disagreement
from nnunetv2_le.evaluation.volumes import read_map, read_segmentation
from nnunetv2_le.inference.map_files import write_map
from nnunetv2_le.inference.native_grid import NativeVolume
from nnunetv2_le.report.case_figures import _maps

READERS = ("NibabelIO", "NibabelIOWithReorient", "SimpleITKIO", "SimpleITKIOWithReorient")
AFFINES = {
    "RAS": np.diag([1.0, 1.5, 2.0, 1.0]),
    "LPS": np.diag([-1.0, -1.5, 2.0, 1.0]),
    "PIR": np.array([[0, 0, 2.0, 5], [-1, 0, 0, 6], [0, -1.5, 0, 7], [0, 0, 0, 1]]),
}


def described(folder, reader):
    """A data set that is read by one of nnU-Net's readers."""
    content = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "front": 1},
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": reader,
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return read_dataset(folder / "dataset.json")


@pytest.mark.parametrize("orientation", AFFINES)
@pytest.mark.parametrize("reader", READERS)
def test_maps_lie_on_labels_whatever_the_orientation_of_the_files(tmp_path, reader, orientation):
    out, references = tmp_path / "out", tmp_path / "labels"
    for folder in (out / "uncertainty", out / "cases", references):
        folder.mkdir(parents=True)
    dataset = described(out, reader)

    def save(array, path):
        nibabel.save(nibabel.Nifti1Image(array, AFFINES[orientation]), path)

    rng = np.random.default_rng(0)
    raters = (rng.random((3, 7, 6, 5)) < 0.4).astype(np.uint8)
    for number, rater in enumerate(raters):
        save(rater, references / f"case_r{number}.nii.gz")
    save(raters[0], out / "case.nii.gz")
    disagreement = rater_disagreement([rater.astype(np.int32) for rater in raters])
    save(disagreement.astype(np.float32), tmp_path / "image.nii.gz")
    image, properties = dataset.reader.read_images([str(tmp_path / "image.nii.gz")])
    entropy = out / "uncertainty" / "case_entropy.nii.gz"
    write_map(entropy, NativeVolume.of(image[0]), properties, output=out)

    files, _ = find_cases(out, [references], file_ending=".nii.gz")
    read = [read_segmentation(file, dataset.reader).labels for file in files[0].references]
    figures, problems = rater_figures(files[0], read, read[0], dataset)
    assert problems == []
    assert figures["entropy_disagreement_pearson"] == pytest.approx(1, abs=1e-6)
    maps = _maps(files[0], dataset, read[0].shape)
    np.testing.assert_allclose(maps["entropy"], rater_disagreement(read), atol=1e-6)


def test_the_map_of_a_png_is_a_nifti_of_one_slice(tmp_path):
    made = make(tmp_path, num_cases=1, shape=(1, 30, 20), ending=".png")
    dataset = read_dataset(made.out / "dataset.json", example_files=[made.out / "case_00.png"])
    values = np.random.default_rng(0).random((1, 30, 20)).astype(np.float32)
    _, properties = dataset.reader.read_seg(str(made.out / "case_00.png"))
    write_map(tmp_path / "map.nii.gz", NativeVolume.of(values), properties, output=made.out)
    found = read_map(tmp_path / "map.nii.gz", dataset.reader, shape=(1, 30, 20))
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("reader", READERS)
def test_a_map_with_the_same_number_of_voxels_but_another_shape_is_refused(tmp_path, reader):
    image = sitk.GetImageFromArray(np.zeros((2, 3, 4), np.float32))
    sitk.WriteImage(image, str(tmp_path / "map.nii.gz"))
    dataset = described(tmp_path, reader)
    with pytest.raises(InputError, match=r"has shape \(2, 3, 4\), the segmentation has \(4, 3, 2"):
        read_map(tmp_path / "map.nii.gz", dataset.reader, shape=(4, 3, 2))


@pytest.mark.parametrize("reader", READERS)
def test_a_map_that_is_no_image_is_refused(tmp_path, reader):
    (tmp_path / "map.nii.gz").write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"map\.nii\.gz cannot be read"):
        read_map(tmp_path / "map.nii.gz", described(tmp_path, reader).reader, shape=(4, 3, 2))


def test_a_reference_whose_axes_are_at_odd_angles_is_named_with_what_to_do(tmp_path):
    reader = described(tmp_path, "SimpleITKIO").reader
    image = nibabel.Nifti1Image(np.ones((4, 3, 2), dtype=np.uint8), None)
    image.set_sform(np.diag([1.0, 1.0, 1.0, 1.0]) + 0.01 * np.eye(4, k=1), code=1)
    nibabel.save(image, tmp_path / "sheared.nii.gz")
    with pytest.raises(InputError, match=r"sheared.* right angles\. Resample .* image\.set_qform"):
        read_segmentation(tmp_path / "sheared.nii.gz", reader)
    image.set_qform(image.affine, code=1)
    nibabel.save(image, tmp_path / "straight.nii.gz")
    assert read_segmentation(tmp_path / "straight.nii.gz", reader).labels.shape == (2, 3, 4)


@pytest.mark.parametrize("kept_bytes", [100, -100])
def test_a_map_that_was_cut_off_is_refused(tmp_path, kept_bytes):
    file = tmp_path / "map.nii.gz"
    values = np.random.default_rng(0).random((8, 9, 10)).astype(np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(values), file)
    file.write_bytes(file.read_bytes()[:kept_bytes])
    with pytest.raises(InputError, match=r"map.nii.gz cannot be read: it ends before the length"):
        read_map(file, SimpleITKIO(), shape=(8, 9, 10))
