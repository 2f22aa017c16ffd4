"""The phantom data set: layout, truth and reproducibility."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

from nnunetv2_le.demo.phantoms import DATASET_NAME, make_phantom, write_phantom_dataset
from nnunetv2_le.demo.shifts import SHIFTS


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_phantom_dataset(tmp_path_factory.mktemp("raw"), num_training=2, num_test=7, seed=3)


def _read(path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


@pytest.mark.parametrize("seed", range(20))
def test_both_structures_are_there_touch_and_lie_inside_the_image(seed):
    labels = make_phantom(np.random.default_rng(seed)).labels
    assert set(np.unique(labels)) == {0, 1, 2}
    assert min((labels == 1).sum(), (labels == 2).sum()) > 100
    assert labels[:, :-1][(labels[:, :-1] == 1) & (labels[:, 1:] == 2)].size > 0
    border = np.ones(labels.shape, bool)
    border[1:-1, 1:-1, 1:-1] = False
    assert not labels[border].any()


def test_structures_are_brighter_than_what_is_around_them_but_overlap_in_intensity():
    phantom = make_phantom(np.random.default_rng(0))
    tissue = phantom.image[(phantom.labels == 0) & (phantom.image > 200)]
    body = phantom.image[phantom.labels == 1]
    assert np.median(body) > np.median(tissue)
    assert np.percentile(body, 1) < np.percentile(tissue, 99)


def test_the_same_seed_gives_the_same_phantom():
    first, second = (make_phantom(np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.labels, second.labels)
    assert not np.array_equal(first.image, make_phantom(np.random.default_rng(5)).image)


def test_nnunet_accepts_the_data_set(dataset):
    verify_dataset_integrity(str(dataset.folder), num_processes=1)
    description = json.loads((dataset.folder / "dataset.json").read_text())
    assert dataset.folder.name == DATASET_NAME
    assert description["numTraining"] == 2
    assert description["labels"] == {"background": 0, "body": 1, "tail": 2}


def test_every_case_has_an_image_and_a_truth(dataset):
    for part, cases in (("Tr", dataset.training), ("Ts", dataset.clean + dataset.shifted)):
        images = {path.name for path in (dataset.folder / f"images{part}").iterdir()}
        labels = {path.name for path in (dataset.folder / f"labels{part}").iterdir()}
        assert images == {f"{case}_0000.nii.gz" for case in cases}
        assert labels == {f"{case}.nii.gz" for case in cases}


def test_a_shifted_case_is_a_clean_one_with_another_image_and_the_same_truth(dataset):
    folder = dataset.folder
    for clean, shifted in zip(dataset.clean, dataset.shifted, strict=True):
        np.testing.assert_array_equal(
            _read(folder / "labelsTs" / f"{clean}.nii.gz"),
            _read(folder / "labelsTs" / f"{shifted}.nii.gz"),
        )
        assert not np.array_equal(
            _read(folder / "imagesTs" / f"{clean}_0000.nii.gz"),
            _read(folder / "imagesTs" / f"{shifted}_0000.nii.gz"),
        )


def test_kinds_of_shift_take_turns(dataset):
    kinds = [case.split("_", 2)[2] for case in dataset.shifted]
    assert kinds == [*SHIFTS, next(iter(SHIFTS))]


def test_kinds_can_be_chosen(tmp_path):
    chosen = write_phantom_dataset(
        tmp_path, num_training=1, num_test=3, seed=0, kinds=("blur", "noise")
    )
    assert chosen.shifted == ("shifted_000_blur", "shifted_001_noise", "shifted_002_blur")


def test_no_phantom_is_in_training_and_test_or_twice(dataset):
    files = sorted(dataset.folder.glob("images*/[pc]*.nii.gz"))
    images = [_read(file) for file in files]
    assert len(images) == 2 + 7
    for number, image in enumerate(images):
        assert image.dtype == np.float32
        assert not any(np.array_equal(image, other) for other in images[:number])


def test_another_seed_writes_another_data_set_and_the_same_seed_the_same(dataset, tmp_path):
    for seed, is_same in ((3, True), (4, False)):
        other = write_phantom_dataset(
            tmp_path / str(seed), num_training=1, num_test=1, seed=seed, kinds=("noise",)
        )
        for part, case in (("Tr", "phantom_000"), ("Ts", "clean_000"), ("Ts", other.shifted[0])):
            file = f"images{part}/{case}_0000.nii.gz"
            found = np.array_equal(_read(other.folder / file), _read(dataset.folder / file))
            assert found == is_same


def test_shifts_have_the_severity_that_was_asked_for_and_the_highest_by_default(tmp_path):
    apart = {}
    for severity in (1, 3, None):
        asked = {} if severity is None else {"severity": severity}
        made = write_phantom_dataset(
            tmp_path / str(severity), num_training=0, num_test=1, seed=0, kinds=("blur",), **asked
        )
        clean, shifted = (
            _read(made.folder / "imagesTs" / f"{case}_0000.nii.gz")
            for case in (*made.clean, *made.shifted)
        )
        apart[severity] = np.abs(clean - shifted).mean()
    assert apart[1] < apart[3] == apart[None]


def test_the_body_is_brighter_than_the_tail_and_bounds_it():
    for seed in range(3):
        phantom = make_phantom(np.random.default_rng(seed))
        body, tail = (phantom.image[phantom.labels == value] for value in (1, 2))
        assert np.median(body) > np.median(tail)
        behind = [np.argwhere(phantom.labels == value)[:, 1].mean() for value in (1, 2)]
        assert behind[0] < behind[1]
