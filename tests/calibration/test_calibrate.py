"""The command from labelled cases to ``calibration.json``, in this process, on a tiny model."""

import csv
import hashlib
import json
import os
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from calibration import labelled_dataset as tiny
from calibration.labelled_dataset import LabelledDataset
from inference.model_folders import TinyModel

from nnunetv2_le.calibration.calibration_file import read_calibration
from nnunetv2_le.inference.predictor import LayerEnsemblePredictor

# what the fixtures of the module run is checked; tests that run the same once more are not
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shapes_unchecked")]

MODEL = TinyModel(trainer="LayerEnsembleTrainer", stages=3, mirror_axes=(2,), num_folds=2)


@pytest.fixture(scope="module")
def dataset(module_nnunet_folders: Any) -> LabelledDataset:
    return tiny.write(module_nnunet_folders, MODEL)


@pytest.fixture(scope="module")
def calibrated(dataset: LabelledDataset) -> LabelledDataset:
    assert dataset.calibrate() == 0
    return dataset


def work(dataset: LabelledDataset, fold: str) -> Path:
    return dataset.model / "calibration_work" / "default_heads" / f"fold_{fold}"


@pytest.mark.parametrize("fold", ["0", "1"])
def test_no_case_is_predicted_by_a_network_that_was_trained_on_it(
    calibrated: LabelledDataset, fold: str
) -> None:
    split = json.loads(calibrated.split.read_text())[int(fold)]
    folder = work(calibrated, fold)
    records = {path.stem: json.loads(path.read_text()) for path in folder.glob("cases/*.json")}
    assert sorted(records) == split["val"]
    assert not set(records) & set(split["train"])
    checkpoint = calibrated.model / f"fold_{fold}" / "checkpoint_final.pth"
    own = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    for case, record in records.items():
        made_with = record["observed"]["model"]
        assert made_with.pop("plans")
        assert made_with == {fold: own}
        with np.load(folder / "observed" / f"{case}.npz") as arrays:
            assert str(arrays["fold"]) == fold


def test_every_part_is_fitted_and_stored(calibrated: LabelledDataset) -> None:
    stored = read_calibration(calibrated.model)
    assert stored.num_cases == stored.num_groups == 24
    assert stored.identity.folds == ("0", "1")
    assert stored.identity.families == ("heads", "mirrors")
    for part in ("head_skip", "temperature", "predicted_dice", "flag", "prediction_sets"):
        assert getattr(stored, part) is not None, part
    assert stored.temperature is not None
    assert stored.temperature.members == (*stored.identity.heads, "fused")
    assert stored.temperature.nll_after[-1] < stored.temperature.nll_before[-1]
    assert set(stored.features) == {"0", "1"}
    assert [len(known.features) for known in stored.features.values()] == [12, 12]


def test_a_second_run_reuses_every_case_and_gives_the_same(
    dataset: LabelledDataset, tmp_path: Path, capsys: Any
) -> None:
    own = dataset.copied_model(tmp_path)
    assert own.calibrate() == 0
    first = (own.model / "calibration.json").read_bytes()
    with mock.patch.object(LayerEnsemblePredictor, "predict_prepared") as predicted:
        assert own.calibrate() == 0
    predicted.assert_not_called()
    assert (own.model / "calibration.json").read_bytes() == first
    assert "12 of 12 cases were finished before" in capsys.readouterr().out


def test_an_interrupted_run_goes_on_where_it_was(
    dataset: LabelledDataset, tmp_path: Path, capsys: Any
) -> None:
    own = dataset.copied_model(tmp_path)
    real = LayerEnsemblePredictor.predict_prepared
    left = [None] * 5

    def interrupted(self: Any, prepared: Any) -> Any:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return real(self, prepared)

    with mock.patch.object(LayerEnsemblePredictor, "predict_prepared", interrupted):
        assert own.calibrate() == 130
    assert not (own.model / "calibration.json").exists()
    assert own.calibrate() == 0
    assert "of 12 cases were finished before" in capsys.readouterr().out


def test_cases_are_predicted_again_without_mirroring_where_mirrors_are_no_members(
    dataset: LabelledDataset, tmp_path: Path, capsys: Any
) -> None:
    own = dataset.copied_model(tmp_path)
    assert own.calibrate("-members", "heads") == 0
    capsys.readouterr()
    assert own.calibrate("-members", "heads", "--disable_tta") == 0
    assert "finished before" not in capsys.readouterr().out


def test_other_labels_and_unchecked_ones_are_looked_at_again(
    calibrated: LabelledDataset, tmp_path: Path
) -> None:
    own = calibrated.copied_model(tmp_path, calibrated=True)
    earlier = work(own, "0") / "cases" / "case_02.json"
    record = json.loads(earlier.read_text())
    assert record["observed"].pop("checked") == ["shape", "grid", "values", "absent labels"]
    earlier.write_text(json.dumps(record))  # of a version that did not look at values
    label = calibrated.raw / "labelsTr" / "case_00.nii.gz"
    before = label.stat()
    try:
        label.touch()
        real = LayerEnsemblePredictor.predict_prepared
        with mock.patch.object(
            LayerEnsemblePredictor, "predict_prepared", autospec=True, side_effect=real
        ) as predicted:
            assert own.calibrate() == 0
    finally:
        os.utime(label, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert {call.args[1].name for call in predicted.call_args_list} == {"case_00", "case_02"}


def test_the_report_sets_held_out_figures_beside_what_was_promised(
    calibrated: LabelledDataset, capsys: Any
) -> None:
    assert calibrated.calibrate() == 0
    said = capsys.readouterr().out
    for part in (
        "24 labelled cases, 24 patients",
        "held out of every fit",
        "NLL",
        "ECE",
        "mean absolute error",
        "(promised 90%)",
        "(promised at most 10%)",
        "cases to review",
        "Contours",
        "Stored in",
    ):
        assert part in said, part


def test_cases_of_one_patient_count_as_one(calibrated: LabelledDataset, tmp_path: Path) -> None:
    own = calibrated.copied_model(tmp_path, calibrated=True)
    table = tmp_path / "patients.csv"
    rows = [f"case_{n:02d},patient_{n // 2}" for n in range(24)]
    table.write_text("case,patient\n" + "\n".join(rows) + "\n")
    assert own.calibrate("-cases", str(table)) == 0
    stored = read_calibration(own.model)
    assert (stored.num_cases, stored.num_groups) == (24, 12)


def test_a_folder_of_labelled_cases_serves_instead(
    dataset: LabelledDataset, tmp_path: Path
) -> None:
    own = dataset.copied_model(tmp_path)
    images, labels = tmp_path / "images", tmp_path / "labels"
    for source, target in ((dataset.raw / "imagesTr", images), (dataset.raw / "labelsTr", labels)):
        target.mkdir()
        for file in source.iterdir():
            (target / f"other_{file.name}").symlink_to(file)
    where = ("-i", str(images), "-ref", str(labels))
    assert own.calibrate(*where, "--vector_scaling", folds=("1", "0")) == 0
    stored = read_calibration(own.model)
    assert stored.num_cases == 24
    assert stored.vector_scaling is not None
    assert set(stored.features) == {"0"}  # in whatever order -f names the folds
    assert own.predict(tmp_path / "out") == 0
    with (tmp_path / "out" / "uncertainty.csv").open(newline="") as lines:
        assert all(float(row["out_of_distribution"]) > 0 for row in csv.DictReader(lines))
    assert own.predict(tmp_path / "alone", folds=("0",)) == 1  # the folds predicted together


@pytest.mark.parametrize(
    "model",
    [
        TinyModel(stages=3, mirror_axes=(1, 2)),
        TinyModel(
            trainer="LayerEnsembleTrainer",
            stages=3,
            mirror_axes=None,
            labels={"background": 0, "whole": [1, 2], "core": 2},
            regions_class_order=(1, 2),
        ),
        TinyModel(trainer="LayerEnsembleTrainer", stages=3, patch=(16, 16), mirror_axes=(0,)),
        TinyModel(
            trainer="LayerEnsembleTrainer", stages=3, spacing=(1.5, 1.0, 1.2), mirror_axes=None
        ),
    ],
    ids=["one head", "regions", "2d", "resampled"],
)
def test_every_kind_of_model_can_be_calibrated(
    nnunet_folders: Any, tmp_path: Path, model: TinyModel
) -> None:
    dataset = tiny.write(nnunet_folders, model, num_cases=30)
    assert dataset.calibrate(folds=("0",)) == 0
    maps = ("prediction_set", "inner_contour", "outer_contour")
    assert dataset.predict(tmp_path / "out", "-maps", *maps, folds=("0",)) == 0
    assert len(list((tmp_path / "out" / "uncertainty").glob("*.nii.gz"))) == 6
