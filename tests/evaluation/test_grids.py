"""Grids of images: what differs is named, rounding and formats without geometry are not."""

import numpy as np
import pytest
import SimpleITK as sitk
from evaluation.made_up_predictions import make, write

from nnunetv2_le.evaluation.dataset import read_dataset
from nnunetv2_le.evaluation.evaluate import evaluate_prediction
from nnunetv2_le.evaluation.grids import Grid, difference, grid_of
from nnunetv2_le.evaluation.method import MethodSettings

IDENTITY = tuple(np.eye(3).ravel())
FLIPPED = tuple(np.diag([-1.0, -1.0, 1.0]).ravel())
HERE = Grid((1.5, 1.0, 0.8), (10.0, -20.0, 30.0), IDENTITY)


@pytest.mark.parametrize(
    ("there", "what"),
    [
        (Grid((1.5, 1.0, 0.9), HERE.origin_mm, IDENTITY), "spacing"),
        (Grid(HERE.spacing_mm, (10.0, -20.0, 530.0), IDENTITY), "origin"),
        (Grid(HERE.spacing_mm, HERE.origin_mm, FLIPPED), "direction"),
    ],
)
def test_what_differs_is_named(there, what):
    found = difference(HERE, there)
    assert found is not None
    assert found.what == what
    assert found.here != found.there


def test_rounding_in_a_header_is_no_difference():
    origin = tuple(np.float32(np.array(HERE.origin_mm) + 0.01).astype(float))
    tilted = tuple(np.array(IDENTITY) + 5e-4)
    assert difference(HERE, Grid((1.5005, 1.0, 0.8), origin, tilted)) is None


def test_formats_without_geometry_have_a_spacing_alone():
    plain = grid_of({"spacing": (999.0, 1.0, 1.0)})
    assert (plain.origin_mm, plain.directions) == (None, None)
    assert difference(plain, plain) is None
    assert difference(Grid(HERE.spacing_mm), HERE) is None


@pytest.mark.parametrize("reader", ["NibabelIO", "SimpleITKIO"])
@pytest.mark.parametrize(
    ("changed", "what"), [("origin", "origin (-500"), ("direction", "direction (-1")]
)
def test_a_reference_elsewhere_is_named_with_both_values(tmp_path, reader, changed, what):
    made = make(tmp_path, num_cases=3)
    content = (made.out / "dataset.json").read_text()
    named = content.replace("{", f'{{"overwrite_image_reader_writer": "{reader}", ', 1)
    (made.out / "dataset.json").write_text(named)
    file = str(made.references / "case_01.nii.gz")
    image = sitk.ReadImage(file)
    if changed == "origin":
        image.SetOrigin((-500.0 if reader == "SimpleITKIO" else 500.0, 0, 0))
    else:
        image = sitk.Flip(image, (reader == "SimpleITKIO", False, True))
        image.SetOrigin((0, 0, 0))
    sitk.WriteImage(image, file)
    evaluation = evaluate_prediction(
        made.out, [made.references], method=MethodSettings(num_draws=0)
    )
    assert list(evaluation.cases.index) == ["case_00", "case_01", "case_02"]
    (problem,) = [p.problem for p in evaluation.problems if p.case == "case_01"]
    assert problem.startswith(f"its reference has {what}")
    assert "its prediction (" in problem
    assert "compared voxel by voxel" in problem
    assert file in problem


@pytest.mark.parametrize("reader", ["NibabelIOWithReorient", "SimpleITKIOWithReorient"])
def test_readers_that_turn_images_compare_what_they_turned(tmp_path, reader):
    made = make(tmp_path, num_cases=1)
    content = (made.out / "dataset.json").read_text()
    named = content.replace("{", f'{{"overwrite_image_reader_writer": "{reader}", ', 1)
    (made.out / "dataset.json").write_text(named)
    dataset = read_dataset(made.out / "dataset.json")
    file = made.references / "case_00.nii.gz"
    turned = sitk.DICOMOrient(sitk.ReadImage(str(file)), "PIR")
    sitk.WriteImage(turned, str(tmp_path / "turned.nii.gz"))
    grids = [
        grid_of(dataset.reader.read_seg(str(one))[1]) for one in (file, tmp_path / "turned.nii.gz")
    ]
    assert difference(*grids) is None


def test_png_slices_are_on_one_grid(tmp_path):
    made = make(tmp_path, num_cases=3, shape=(1, 30, 30), ending=".png")
    settings = MethodSettings(num_draws=0)
    evaluation = evaluate_prediction(made.out, [made.references], method=settings)
    assert [p for p in evaluation.problems if p.case] == []


def test_one_rater_elsewhere_is_named(tmp_path):
    made = make(tmp_path, num_cases=2)
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(made.references / "case_00.nii.gz")))
    other = tmp_path / "other"
    other.mkdir()
    for case in made.cases:
        write(array, other / f"{case}.nii.gz")
    image = sitk.ReadImage(str(other / "case_00.nii.gz"))
    image.SetOrigin((0, 0, 50))
    sitk.WriteImage(image, str(other / "case_00.nii.gz"))
    settings = MethodSettings(num_draws=0)
    evaluation = evaluate_prediction(made.out, [made.references, other], method=settings)
    assert list(evaluation.cases.index) == ["case_00", "case_01"]
    (problem,) = [p.problem for p in evaluation.problems if p.case]
    assert str(other / "case_00.nii.gz") in problem
