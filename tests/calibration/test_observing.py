"""What was observed of a case is kept on disk, until the case or what observes it is another."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import SimpleITK as sitk
from inference.model_folders import TinyImage, TinyModel

from nnunetv2_le.calibration import observing
from nnunetv2_le.calibration.labelled_cases import LabelledCase
from nnunetv2_le.calibration.observed_case import ObservedCase
from nnunetv2_le.calibration.observing import (
    ObservationWriter,
    StoredArrays,
    WorkSettings,
    observe_cases,
)
from nnunetv2_le.errors import CaseError, InputError, OutputError
from nnunetv2_le.inference.cases import Case
from nnunetv2_le.inference.predictor import LayerEnsemblePredictor
from nnunetv2_le.inference.settings import PredictionSettings

SETTINGS = WorkSettings(num_preprocessing=0, num_writing=0, stamp={"model": "1"})


class Work:
    """A predictor, labelled cases and a work folder."""

    def __init__(self, folder: Path) -> None:
        model = TinyModel(
            trainer="LayerEnsembleTrainer",
            stages=3,
            mirror_axes=None,
            labels={"background": 0, "front": 1, "back": 2, "ignore": 3},
        )
        self.predictor = LayerEnsemblePredictor.from_model_folder(
            model.write(folder / "model"), PredictionSettings(maps=()), show_progress=False
        )
        self.cases = [_labelled(folder, name) for name in ("second", "first")]
        self.folder = folder / "work"

    def observe(self, *, fold: str = "0", **settings: Any) -> list[ObservedCase]:
        return observe_cases(
            self.predictor,
            self.cases,
            folder=self.folder,
            fold=fold,
            settings=replace(SETTINGS, **settings),
        )

    def is_done(self, case: str = "first", *, fold: str = "0", **settings: Any) -> bool:
        writer = ObservationWriter(
            self.predictor,
            self.cases,
            folder=self.folder,
            fold=fold,
            settings=replace(SETTINGS, **settings),
        )
        return writer.is_done(case)


def _labelled(folder: Path, name: str) -> LabelledCase:
    (image,) = TinyImage(shape=(10, 12, 14)).write(folder / "images", name)
    array = np.full((10, 12, 14), 1 + (name == "first"), dtype=np.uint8)
    array[:, :2] = 3  # not known
    labels = sitk.GetImageFromArray(array)
    labels.CopyInformation(sitk.ReadImage(str(image)))
    reference, before = folder / f"{name}.nii.gz", folder / f"{name}_before.nii.gz"
    sitk.WriteImage(labels, str(reference))
    shutil.copy(reference, before)
    return LabelledCase(Case(name, (image,), previous_stage=before), reference)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    made = Work(tmp_path_factory.mktemp("work"))
    made.observe()
    return made


def test_cases_come_in_the_order_of_the_list_each_with_its_own_reference(work: Work) -> None:
    second, first = work.observe(fold="0")
    assert (second.case, first.case) == ("second", "first")
    assert (second.fold, first.fold) == ("0", "0")
    assert not np.isnan(second.label_dice[0])
    assert second.label_dice[1] == 0
    assert first.label_dice[0] == 0
    assert (first.truth == 2).all()
    assert first.truth.shape == (10 * 10 * 14,)  # without what is not known
    ours = work.predictor.predict_files(work.cases[1].case.images).segmentation()[:, 2:] == 2
    assert first.label_dice[1] == pytest.approx(2 * ours.sum() / (ours.sum() + ours.size))


def test_a_case_that_was_observed_is_not_predicted_again(work: Work, caplog: Any) -> None:
    caplog.set_level("INFO", logger="nnunetv2_le")
    with mock.patch.object(LayerEnsemblePredictor, "predict_prepared") as predict:
        work.observe()
    predict.assert_not_called()
    assert "2 of 2 cases were finished before." in caplog.text


@pytest.mark.parametrize(
    "other",
    [
        {"fold": "1"},
        {"contour_share": 0.1},
        {"stamp": {"model": "2"}},
        {"stamp": None},
    ],
)
def test_a_case_observed_in_another_way_is_observed_again(work: Work, other: Any) -> None:
    assert work.is_done()
    assert work.is_done(num_writing=5)
    assert not work.is_done(**other)


@pytest.mark.parametrize("what", ["image", "reference", "previous stage"])
def test_a_case_of_a_file_that_changed_is_observed_again(work: Work, what: str) -> None:
    case = work.cases[1]
    assert case.case.previous_stage is not None
    files = (case.case.images[0], case.reference, case.case.previous_stage)
    file = files[("image", "reference", "previous stage").index(what)]
    before = file.stat()
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert not work.is_done()
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert work.is_done()


def test_the_fold_and_what_contours_may_leave_out_are_those_that_were_asked_for(
    tmp_path: Path,
) -> None:
    for found in Work(tmp_path).observe(fold="3", contour_share=0.25):
        assert (found.fold, found.contour_share) == ("3", 0.25)


def test_a_case_that_fails_is_named_and_the_others_are_kept(tmp_path: Path) -> None:
    work = Work(tmp_path)
    reference = work.cases[0].reference
    content = reference.read_bytes()
    reference.write_bytes(b"")
    leftover = work.folder / "cases" / ".part.killed"
    leftover.parent.mkdir(parents=True)
    leftover.touch()
    said = r"1 of 2 cases failed \(second\), the first because: "
    for _ in range(2):  # in the second run one case is all that is left to do
        with pytest.raises(CaseError, match=said):
            work.observe()
        assert work.is_done()
    assert not leftover.exists()
    reference.write_bytes(content)
    assert [found.case for found in work.observe()] == ["second", "first"]


@pytest.mark.parametrize(("ahead", "behind"), [(0, 2), (4, 0)])
def test_as_many_cases_wait_as_were_asked_for(work: Work, ahead: int, behind: int) -> None:
    with mock.patch.object(observing, "CaseQueue") as queue:
        queue.return_value.failed = {}
        work.observe(num_preprocessing=ahead, num_writing=behind)
    asked = queue.call_args.kwargs
    assert (asked["num_preprocessing"], asked["num_writing"]) == (ahead, behind)


def test_a_work_folder_that_cannot_be_written_is_named(work: Work, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file/work cannot be written to \(.*-o\."):
        observe_cases(
            work.predictor,
            work.cases,
            folder=tmp_path / "file" / "work",
            fold="0",
            settings=SETTINGS,
        )


def test_stored_arrays_are_those_of_the_file(tmp_path):
    written = {"logits": np.ones((2, 3, 4), dtype=np.float16), "members": np.array(["a", "fused"])}
    np.savez(tmp_path / "case.npz", **written)
    stored = StoredArrays(tmp_path / "case.npz")
    assert (list(stored), len(stored)) == (["logits", "members"], 2)
    for name, array in written.items():
        np.testing.assert_array_equal(stored[name], array, strict=True)


def test_stored_arrays_are_not_kept(tmp_path):
    file = tmp_path / "case.npz"
    np.savez(file, logits=np.zeros(3))
    stored = StoredArrays(file)
    assert not stored["logits"].any()
    np.savez(file, logits=np.ones(3))
    assert stored["logits"].all()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_stored_arrays_that_were_damaged_are_named(tmp_path, save):
    file = tmp_path / "case.npz"
    save(file, logits=np.random.default_rng(0).random(4000))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"case\.npz is damaged .* Remove it and run"):
        StoredArrays(file)["logits"]
