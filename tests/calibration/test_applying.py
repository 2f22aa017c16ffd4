"""Predict applies a calibration by itself, and refuses one that belongs to something else."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import SimpleITK as sitk
from calibration import labelled_dataset as tiny
from calibration.labelled_dataset import LabelledDataset
from inference.faulty_runs import require_one_clear_line
from inference.model_folders import TinyModel

from nnunetv2_le.calibration.applying import calibrated_predictor
from nnunetv2_le.calibration.calibration_file import read_calibration
from nnunetv2_le.cli.compare import main as compare
from nnunetv2_le.cli.evaluate import main as evaluate
from nnunetv2_le.errors import InputError
from nnunetv2_le.inference.predictor import LayerEnsemblePredictor
from nnunetv2_le.uncertainty.columns import JUDGED_COLUMNS

# what the fixtures of the module run is checked; tests that run the same once more are not
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shapes_unchecked")]

MAPS = ("prediction_set", "inner_contour", "outer_contour", "entropy")


@pytest.fixture(scope="module")
def dataset(module_nnunet_folders: Any) -> LabelledDataset:
    model = TinyModel(trainer="LayerEnsembleTrainer", stages=3, mirror_axes=(2,), num_folds=2)
    made = tiny.write(module_nnunet_folders, model)
    # of random heads others may segment better; here the segmentation has to stay
    with mock.patch("nnunetv2_le.calibration.calibrate._WORTHWHILE_GAIN", 1.0):
        assert made.calibrate() == 0
    return made


@pytest.fixture(scope="module")
def output(dataset: LabelledDataset, tmp_path_factory: Any) -> Path:
    folder: Path = tmp_path_factory.mktemp("calibrated") / "out"
    more = ("-maps", *MAPS, "--save_probabilities", "--save_heads")
    assert dataset.predict(folder, *more) == 0
    return folder


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def image(file: Path) -> Any:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def test_the_tables_have_the_columns_and_say_what_they_are(output: Path) -> None:
    table = rows(output / "uncertainty.csv")
    assert list(table[0])[-len(JUDGED_COLUMNS) :] == list(JUDGED_COLUMNS)
    for row in table:
        assert row["flag"] in ("ok", "review", "out_of_distribution", "empty")
        assert bool(row["flag_reason"]) == (row["flag"] != "ok")
        assert 0 <= float(row["predicted_dice_lower"]) <= float(row["predicted_dice"]) <= 1
        assert 0 <= float(row["out_of_distribution_quantile"]) < 1
    labels = rows(output / "uncertainty_per_label.csv")
    assert all(0 <= float(row["predicted_dice"]) <= 1 for row in labels)
    said = json.loads((output / "uncertainty.json").read_text())
    assert set(JUDGED_COLUMNS) <= set(said["columns"])
    assert said["calibration"]["num_cases"] == 24
    assert "nothing is guaranteed" in said["calibration"]["guarantee"]


def test_without_calibration_nothing_is_said_and_the_segmentation_is_the_same(
    dataset: LabelledDataset, output: Path, tmp_path: Path, capsys: Any
) -> None:
    assert dataset.predict(tmp_path / "out", "--no_calibration") == 0
    assert "to review" not in capsys.readouterr().out
    assert not set(rows(tmp_path / "out" / "uncertainty.csv")[0]) & set(JUDGED_COLUMNS)
    assert json.loads((tmp_path / "out" / "uncertainty.json").read_text())["calibration"] is None
    for file in tmp_path.glob("out/*.nii.gz"):
        np.testing.assert_array_equal(image(file), image(output / file.name))


def test_the_last_lines_say_how_many_to_review(
    dataset: LabelledDataset, tmp_path: Path, capsys: Any
) -> None:
    assert dataset.predict(tmp_path / "out") == 0
    flagged = [r for r in rows(tmp_path / "out" / "uncertainty.csv") if r["flag"] != "ok"]
    lines = capsys.readouterr().out.strip().splitlines()
    assert f"{len(flagged)} of 2 cases to review." in lines
    assert sorted(line.split(":")[0].strip() for line in lines[-len(flagged) :] if flagged) == [
        row["case"] for row in flagged
    ]


def test_contours_lie_on_both_sides_of_the_segmentation(output: Path) -> None:
    for case in ("first", "second"):
        segmentation = image(output / f"{case}.nii.gz")
        inner, outer = (
            image(output / "uncertainty" / f"{case}_{part}_contour.nii.gz")
            for part in ("inner", "outer")
        )
        for label in (1, 2):
            mask = segmentation == label
            assert not ((inner >> label & 1).astype(bool) & ~mask).any()
            assert (outer >> label & 1).astype(bool)[mask].all()


def test_the_segmented_label_is_always_possible(output: Path) -> None:
    file = output / "uncertainty" / "first_prediction_set.nii.gz"
    possible, segmentation = image(file), image(output / "first.nii.gz")
    assert possible.dtype == np.uint8
    assert (possible >> segmentation & 1).all()
    assert possible[0, 0, 0] == 1  # beyond the crop: background alone
    written = sitk.ReadImage(str(file))
    assert written.GetSpacing() == sitk.ReadImage(str(output / "first.nii.gz")).GetSpacing()


def test_saved_probabilities_are_calibrated_and_decide_the_same(
    dataset: LabelledDataset, output: Path, tmp_path: Path
) -> None:
    more = ("--no_calibration", "--save_probabilities", "--save_heads", "-maps")
    assert dataset.predict(tmp_path / "out", *more) == 0
    files = ["first.npz", *(f"heads/head_{n:02d}/first.npz" for n in range(5))]
    assert len(files) == 1 + len(list((output / "heads").iterdir()))
    for name in files:
        ours, raw = (np.load(f / name)["probabilities"] for f in (output, tmp_path / "out"))
        assert not np.allclose(ours, raw)
        np.testing.assert_allclose(ours.sum(0), 1, atol=1e-5)
        top = np.sort(raw, axis=0)
        clear = top[-1] - top[-2] > 1e-6
        np.testing.assert_array_equal(ours.argmax(0)[clear], raw.argmax(0)[clear])


def test_a_case_of_another_calibration_is_not_finished(
    dataset: LabelledDataset, output: Path, tmp_path: Path, capsys: Any
) -> None:
    assert dataset.predict(tmp_path / "out", "--no_calibration") == 0
    assert dataset.predict(tmp_path / "out", "--continue_prediction") == 0
    assert "finished before" not in capsys.readouterr().out
    assert set(JUDGED_COLUMNS) <= set(rows(tmp_path / "out" / "uncertainty.csv")[0])
    assert dataset.predict(tmp_path / "out", "--continue_prediction") == 0
    assert "2 of 2 cases were finished before" in capsys.readouterr().out


def test_evaluate_and_compare_read_the_new_columns(
    dataset: LabelledDataset, tmp_path: Path
) -> None:
    labelled = LabelledDataset(dataset.model, dataset.raw, dataset.split, dataset.raw / "imagesTr")
    assert labelled.predict(tmp_path / "out", "-maps") == 0
    common = ["-ref", str(dataset.raw / "labelsTr"), "-np", "1", "-num_bootstrap", "20"]
    assert evaluate([*common, "-pred", str(tmp_path / "out")]) == 0
    scores = {row["score"] for row in rows(tmp_path / "out" / "evaluation" / "scores.csv")}
    assert {"predicted_dice", "out_of_distribution_quantile"} <= scores
    assert not {"flag", "flag_reason"} & scores
    cases = rows(tmp_path / "out" / "evaluation" / "cases.csv")
    assert {row["flag"] for row in cases} <= {"ok", "review", "out_of_distribution", "empty"}
    pair = [f"a={tmp_path / 'out'}", f"b={tmp_path / 'out'}"]
    assert compare([*common, "-pred", *pair, "-o", str(tmp_path / "both"), "--no_figures"]) == 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("-members", "heads"), "families heads, mirrors, but the model has heads"),
        (("--disable_tta",), "families heads, mirrors, but the model has heads"),
        (("-step_size", "0.7"), "step size: 0.5, but the model has step size: 0.7"),
        (("-fusion", "last"), "fusion: mean, but the model has fusion: last"),
    ],
)
def test_other_members_and_settings_are_refused_by_name(
    dataset: LabelledDataset, tmp_path: Path, capsys: Any, more: tuple[str, ...], said: str
) -> None:
    assert dataset.predict(tmp_path / "out", *more) == 1
    require_one_clear_line(capsys, said, "nnUNetv2_le_calibrate", "--no_calibration")
    assert not (tmp_path / "out").exists()


def test_other_networks_plans_labels_and_versions_are_refused_by_name(
    dataset: LabelledDataset, tmp_path: Path, capsys: Any
) -> None:
    own = dataset.copied_model(tmp_path, calibrated=True)
    for file, said in (
        (own.model / "plans.json", "checksums are plans: "),
        (own.model / "fold_1" / "checkpoint_final.pth", "checksums are 1: "),
    ):
        content = file.read_bytes()
        other = (own.model / "fold_0" / "checkpoint_final.pth").read_bytes()
        file.write_bytes(content + b" " if file.suffix == ".json" else other)
        assert own.predict(tmp_path / "out") == 1
        require_one_clear_line(capsys, said, "--no_calibration")
        file.write_bytes(content)
    calibration = own.model / "calibration.json"
    stored = json.loads(calibration.read_text())
    for name, value, said in (
        ("heads", ["a"], "heads a, but the model has encoder_0"),
        ("labels", ["a"], "labels a, but the model has front, back"),
        ("version", "0.0.1", "version 0.0.1"),
        ("folds", ["0"], "folds 0, but the model has 0, 1"),
    ):
        changed = stored | {"identity": stored["identity"] | {name: value}}
        calibration.write_text(json.dumps(changed))
        assert own.predict(tmp_path / "out") == 1
        require_one_clear_line(capsys, said, "--no_calibration")
    calibration.write_text("{")
    assert own.predict(tmp_path / "out") == 1
    require_one_clear_line(capsys, "not valid JSON", "calibrate again")


def test_heads_that_contradict_the_calibration_are_refused(
    dataset: LabelledDataset, tmp_path: Path, capsys: Any
) -> None:
    own = dataset.copied_model(tmp_path, calibrated=True)
    file = own.model / "calibration.json"
    stored = json.loads(file.read_text())
    file.write_text(json.dumps(stored | {"head_skip": stored["head_skip"] | {"score_skip": 1}}))
    assert own.predict(tmp_path / "out", "-skip_heads", "2") == 1
    require_one_clear_line(capsys, "-skip_heads 2 contradicts", "leaves out 1")
    assert own.predict(tmp_path / "out") == 0
    said = json.loads((tmp_path / "out" / "uncertainty.json").read_text())
    assert said["settings"]["skip_heads"] == 1


@pytest.mark.parametrize(("known", "said"), [(("1",), "only of fold 1"), ((), "of no fold")])
def test_a_fold_whose_features_are_not_known_is_said(
    dataset: LabelledDataset, caplog: Any, known: tuple[str, ...], said: str
) -> None:
    stored = read_calibration(dataset.model)
    fewer = replace(stored, features={fold: stored.features[fold] for fold in known})
    with mock.patch("nnunetv2_le.calibration.applying.read_calibration", return_value=fewer):
        calibrated_predictor(dataset.model, folds=(1, 0), show_progress=False)
        assert "out of distribution" in caplog.text
        assert said in caplog.text
        caplog.clear()
        calibrated_predictor(dataset.model, folds=(1,), show_progress=False)
        assert ("out of distribution" in caplog.text) == (not known)


def test_an_empty_segmentation_is_flagged_whatever_some_member_found(
    dataset: LabelledDataset,
) -> None:
    predictor = calibrated_predictor(dataset.model, folds=(0, 1), show_progress=False)
    assert predictor.judge is not None
    found = predictor.predict_files([next(dataset.new.glob("first_*"))])
    kept = found.accumulated
    without = replace(kept.counts, fused=np.zeros_like(kept.counts.fused))
    said = predictor.judge.judge(replace(found, accumulated=replace(kept, counts=without)))
    assert said.texts["flag"] == "empty"
    assert "the segmentation is empty" in said.texts["flag_reason"]


def test_a_calibration_that_is_a_link_to_nowhere_is_an_error(
    dataset: LabelledDataset, tmp_path: Path
) -> None:
    for file in dataset.model.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "calibration.json").unlink()
    assert calibrated_predictor(tmp_path, folds=(0,), show_progress=False).judge is None
    (tmp_path / "calibration.json").symlink_to(tmp_path / "moved.json")
    with pytest.raises(InputError, match=r"calibration.json cannot be read: No such file"):
        calibrated_predictor(tmp_path, folds=(0,), show_progress=False)


def test_calibrated_maps_need_a_calibration(
    dataset: LabelledDataset, tmp_path: Path, capsys: Any
) -> None:
    more = ("--no_calibration", "-maps", "entropy", "prediction_set")
    assert dataset.predict(tmp_path / "out", *more) == 1
    require_one_clear_line(capsys, "prediction_set", "nnUNetv2_le_calibrate")


def test_the_heads_that_make_the_segmentation_are_the_calibrated_ones(
    dataset: LabelledDataset, tmp_path: Path
) -> None:
    own = dataset.copied_model(tmp_path, calibrated=True)
    file = own.model / "calibration.json"
    stored = json.loads(file.read_text())
    heads = stored["identity"]["heads"]
    stored["identity"]["fused"] = heads[-1:]
    stored["head_skip"]["fused_skip"] = len(heads) - 1
    file.write_text(json.dumps(stored))
    assert own.predict(tmp_path / "out", "-maps") == 0
    plain = LayerEnsemblePredictor.from_model_folder(own.model, show_progress=False)
    for source in plain.model.sources:
        source.num_fused_heads = 1
    expected = LayerEnsemblePredictor(plain.ensemble, show_progress=False).predict_files(
        [own.new / "first_0000.nii.gz"]
    )
    np.testing.assert_array_equal(image(tmp_path / "out" / "first.nii.gz"), expected.segmentation())
