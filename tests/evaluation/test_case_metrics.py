"""The figures of one case: what is ignored or unknown counts nowhere, margins and labels count."""

from dataclasses import replace

import numpy as np
import pytest
from evaluation.made_up_predictions import LABELS, describe, make, save, softened, two_blobs, write
from scipy import ndimage
from sklearn.metrics import log_loss

from nnunetv2_le.evaluation.case_metrics import MetricSettings, evaluate_case
from nnunetv2_le.evaluation.cases import CaseFiles
from nnunetv2_le.evaluation.dataset import read_dataset

SHAPE = (6, 14, 10)
IGNORED, UNKNOWN = 3, 9


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    made = make(tmp_path_factory.mktemp("data"), num_cases=1, shape=SHAPE)
    describe(replace(made, labels={**LABELS, "ignore": IGNORED}), ".nii.gz")
    return read_dataset(made.out / "dataset.json", example_files=[made.out / "case_00.nii.gz"])


def volumes():
    """Reference and probabilities; the prediction has foreground where the tests ignore."""
    rng = np.random.default_rng(0)
    reference = two_blobs(SHAPE, rng)
    return reference, softened(np.roll(reference, 1, axis=2), rng, noise=0.5)


def figures(folder, dataset, *references, probabilities, **settings):
    folder.mkdir()
    labels = [folder / f"label_r{number}.nii.gz" for number in range(len(references))]
    for reference, file in zip(references, labels, strict=True):
        write(reference, file)
    write(probabilities.argmax(axis=0), folder / "case.nii.gz")
    save(probabilities, folder / "case.npz")
    files = CaseFiles(
        "case",
        folder / "case.nii.gz",
        tuple(labels),
        probabilities=folder / "case.npz",
    )
    return evaluate_case(files, dataset, MetricSettings(**settings))


def near(reference, probabilities, margin):
    found = (reference > 0) & (reference != IGNORED) & (reference != UNKNOWN)
    found |= probabilities.argmax(axis=0) > 0
    return ndimage.binary_dilation(found, iterations=margin) if margin else found


def test_ignored_voxels_count_as_little_as_if_they_were_cut_off(tmp_path, dataset):
    reference, probabilities = volumes()
    ignoring = reference.copy()
    ignoring[:, :4] = IGNORED
    assert (probabilities.argmax(axis=0)[:, :4] > 0).any()
    found = figures(tmp_path / "whole", dataset, ignoring, probabilities=probabilities)
    expected = figures(
        tmp_path / "cut", dataset, reference[:, 4:], probabilities=probabilities[:, :, 4:]
    )
    assert found.failure is None
    assert found.problems == ()
    assert found.per_label == {
        name: pytest.approx(row, nan_ok=True) for name, row in expected.per_label.items()
    }
    for name, value in expected.values.items():
        if not name.startswith("roi_"):  # the region reaches from what is predicted there
            assert found.values[name] == pytest.approx(value, nan_ok=True), name


@pytest.mark.parametrize("margin", [0, 1, 2])
@pytest.mark.parametrize("value", [IGNORED, UNKNOWN])
def test_the_likelihood_is_that_of_known_voxels_alone(tmp_path, dataset, value, margin):
    reference, probabilities = volumes()
    reference[:, :4] = value
    found = figures(
        tmp_path / "case", dataset, reference, probabilities=probabilities, roi_margin_voxels=margin
    )
    counted = reference != value
    for prefix, kept in (
        ("", counted),
        ("roi_", counted & near(reference, probabilities, margin)),
    ):
        expected = log_loss(reference[kept], probabilities[:, kept].T, labels=[0, 1, 2])
        assert found.values[f"{prefix}voxels"] == kept.sum()
        assert found.values[f"{prefix}nll"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("margin", [2**31, 10**20])
def test_a_margin_beyond_the_image_takes_all_of_it(tmp_path, dataset, margin):
    reference, probabilities = volumes()
    found = figures(
        tmp_path / "case", dataset, reference, probabilities=probabilities, roi_margin_voxels=margin
    )
    assert found.values["roi_voxels"] == reference.size


def test_labels_are_counted_as_missed_invented_and_absent(tmp_path, dataset):
    reference, probabilities = volumes()
    both = figures(tmp_path / "both", dataset, reference, probabilities=probabilities).values
    assert [both[f"{kind}_labels"] for kind in ("missed", "invented", "absent")] == [0, 0, 0]
    reference[reference == 1] = 0
    one = figures(tmp_path / "one", dataset, reference, probabilities=probabilities).values
    assert [one[f"{kind}_labels"] for kind in ("missed", "invented", "absent")] == [0, 1, 0]
    probabilities[1] = 0
    none = figures(tmp_path / "none", dataset, reference, probabilities=probabilities).values
    assert [none[f"{kind}_labels"] for kind in ("missed", "invented", "absent")] == [0, 0, 1]
    reference[reference == 2] = 1
    other = figures(tmp_path / "other", dataset, reference, probabilities=probabilities).values
    assert [other[f"{kind}_labels"] for kind in ("missed", "invented", "absent")] == [1, 1, 0]


def test_volumes_are_in_millilitres_and_relative_to_the_reference(tmp_path, dataset):
    reference, probabilities = volumes()
    row = figures(tmp_path / "case", dataset, reference, probabilities=probabilities).per_label[
        "back"
    ]
    true, found = (reference == 2).sum(), (probabilities.argmax(axis=0) == 2).sum()
    assert true != found
    assert row["volume_error_ml"] == pytest.approx((found - true) * 1.5 * 0.8 / 1000, rel=1e-5)
    assert row["relative_volume_error"] == pytest.approx(found / true - 1)


def test_two_raters_are_several(tmp_path, dataset):
    reference, probabilities = volumes()
    other = np.roll(reference, 1, axis=1)
    one = figures(tmp_path / "one", dataset, reference, probabilities=probabilities)
    two = figures(tmp_path / "two", dataset, reference, other, probabilities=probabilities)
    assert "num_raters" not in one.values
    assert two.values["num_raters"] == 2


def test_the_tolerance_of_surface_dice_is_the_one_asked_for(tmp_path, dataset):
    reference, probabilities = volumes()
    found = [
        figures(
            tmp_path / f"{tolerance}",
            dataset,
            reference,
            probabilities=probabilities,
            tolerance_mm=tolerance,
        ).values["surface_dice"]
        for tolerance in (0.1, 100.0)
    ]
    assert found[0] < found[1] == 1
