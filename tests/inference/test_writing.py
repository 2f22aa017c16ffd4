"""What counts as finished, and what a case that is predicted again leaves of its former self."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import SimpleITK as sitk
from inference.model_folders import TinyModel

from nnunetv2_le.errors import InputError
from nnunetv2_le.inference import case_files
from nnunetv2_le.inference.model import Model, load_model
from nnunetv2_le.inference.predictor import LayerEnsemblePredictor
from nnunetv2_le.inference.settings import PredictionSettings
from nnunetv2_le.inference.writing import CaseWriter

SETTINGS = PredictionSettings(families=("heads",), maps=("entropy",))


def predict(model: Model, source: Path, output: Path, **settings: Any) -> bool:
    """Continue a run; whether its only case had been finished before."""
    predictor = LayerEnsemblePredictor(model, replace(SETTINGS, **settings), show_progress=False)
    summary = predictor.predict_folder(source, output, overwrite=False)
    assert not summary.failed
    return bool(summary.skipped)


def writer(model: Model, output: Path, **settings: Any) -> CaseWriter:
    predictor = LayerEnsemblePredictor(model, replace(SETTINGS, **settings), show_progress=False)
    return CaseWriter(output, predictor.ensemble, predictor.settings, predictor.plan)


OTHERS: dict[str, dict[str, Any]] = {
    "step size": {"step_size": 0.9},
    "mirroring": {"use_mirroring": False},
    "Gaussian weights": {"use_gaussian": False},
    "fusion": {"fusion": "last"},
    "members": {"families": ("heads", "mirrors")},
    "a map with columns": {"maps": ("entropy", "heads_entropy")},
}


def test_a_case_is_finished_for_the_same_settings_alone(model: Model, source: Path, tmp_path: Path):
    assert not predict(model, source, tmp_path)
    assert predict(model, source, tmp_path)
    for what, settings in OTHERS.items():
        assert not predict(model, source, tmp_path, **settings), what
        assert predict(model, source, tmp_path, **settings), what


def test_maps_without_columns_do_not_make_a_case_unfinished(
    model: Model, source: Path, tmp_path: Path
):
    assert not predict(model, source, tmp_path, maps=("entropy", "heads_variance"))
    assert predict(model, source, tmp_path, maps=())


def test_mirroring_says_nothing_of_a_model_without_it(source: Path, tmp_path: Path):
    plain = load_model(TinyModel(mirror_axes=None).write(tmp_path / "model"), folds=[0])
    assert not predict(plain, source, tmp_path / "out", use_mirroring=True)
    assert predict(plain, source, tmp_path / "out", use_mirroring=False)


def test_a_finished_case_stays_untouched(model: Model, source: Path, tmp_path: Path):
    everything: dict[str, Any] = {"save_probabilities": True, "save_heads": True}
    assert not predict(model, source, tmp_path, **everything, save_features=True)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("case[._]*")}
    assert len(files) == 1 + 2 + 1 + 2 * 2 + 1 + 1
    assert predict(model, source, tmp_path)
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("case[._]*")}


@pytest.mark.parametrize("kept", [0, 40])
@pytest.mark.parametrize("name", ["case.nii.gz", "case.npz", "uncertainty/case_entropy.nii.gz"])
def test_a_case_with_a_file_that_lost_its_content_is_not_finished(
    model: Model, source: Path, tmp_path: Path, name: str, kept: int
):
    assert not predict(model, source, tmp_path, save_probabilities=True)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[:kept])
    assert not predict(model, source, tmp_path, save_probabilities=True)
    assert (tmp_path / name).stat().st_size == pytest.approx(len(content), abs=20)
    assert predict(model, source, tmp_path, save_probabilities=True)


def test_a_case_whose_record_makes_no_table_is_not_finished(
    model: Model, source: Path, tmp_path: Path
):
    assert not predict(model, source, tmp_path)
    file = tmp_path / "cases" / "case.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps(record | {"scores": None}))
    assert not predict(model, source, tmp_path)
    assert json.loads(file.read_text())["scores"] == record["scores"]


def test_files_of_other_settings_are_not_taken_for_this_runs(
    model: Model, source: Path, tmp_path: Path
):
    maps = ("entropy", "heads_agreement")
    predict(model, source, tmp_path / "out", save_probabilities=True, save_heads=True, maps=maps)
    predict(model, source, tmp_path / "out", fusion="majority", step_size=0.9)
    wanted: dict[str, Any] = {"fusion": "majority", "step_size": 0.9, "maps": maps}
    wanted |= {"save_probabilities": True, "save_heads": True}
    assert not predict(model, source, tmp_path / "out", **wanted)
    predict(model, source, tmp_path / "fresh", **wanted)
    for name in ("case.npz", "heads/head_00/case.npz"):
        ours, fresh = (np.load(tmp_path / run / name)["probabilities"] for run in ("out", "fresh"))
        np.testing.assert_array_equal(ours, fresh)
    ours, fresh = (
        sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / run / "uncertainty" / name)))
        for run in ("out", "fresh")
        for name in ["case_heads_agreement.nii.gz"]
    )
    np.testing.assert_array_equal(ours, fresh)


def test_a_case_that_is_written_again_keeps_no_file_of_other_settings(
    model: Model, source: Path, tmp_path: Path
):
    maps = ("entropy", "heads_ttest", "mirrors_variance", "prediction_set")
    names = [
        *("{}.nii.gz", "{}.npz", "{}.pkl", "features/{}.npy"),
        *(f"heads/head_0{head}/{{}}{ending}" for head in range(3) for ending in (".npz", ".pkl")),
        *(f"uncertainty/{{}}_{name}.nii.gz" for name in maps),
    ]
    for name in names:
        for case in ("case", "case_b", "b_case", ".case"):
            path = tmp_path / name.format(case)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    shared = ["uncertainty/case_of_somebody.nii.gz", "case.txt"]
    for name in shared:
        (tmp_path / name).touch()

    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / "case.json").write_text("{}")
    assert not predict(model, source, tmp_path, maps=())

    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*case*") if path.is_file()}
    others = {name.format(case) for name in names for case in ("case_b", "b_case", ".case")}
    assert left == others | set(shared) | {"case.nii.gz", "cases/case.json"}


def test_files_of_a_case_stay_until_it_is_written_again(model: Model, source: Path, tmp_path: Path):
    predict(model, source, tmp_path, save_probabilities=True)
    writer(model, tmp_path, maps=()).forget("case")
    assert (tmp_path / "case.nii.gz").is_file()
    assert (tmp_path / "case.npz").is_file()
    assert not predict(model, source, tmp_path)
    assert not (tmp_path / "case.npz").exists()


def written_map(output: Path, case: str, name: str) -> Path:
    path = output / "uncertainty" / f"{case}_{name}.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.mark.parametrize("is_of_this_run", [True, False])
def test_a_case_leaves_the_files_of_one_whose_name_goes_on(
    model: Model, tmp_path: Path, is_of_this_run: bool
):
    ours = writer(model, tmp_path)
    other = "scan_heads"
    ours.open_output(["scan", other] if is_of_this_run else ["scan"], is_alone=True)
    if not is_of_this_run:
        ours.record_file(other).write_text("{}")
    theirs = written_map(tmp_path, other, "entropy")  # or the map heads_entropy of "scan"
    ours.record_file("scan").write_text("{}")
    stale = written_map(tmp_path, "scan", "mirrors_entropy")
    ours._make_room("scan")
    assert theirs.is_file()
    assert not stale.exists()


def test_the_folder_is_searched_once_for_all_files_of_a_case(model: Model, tmp_path: Path):
    ours = writer(model, tmp_path)
    ours.open_output(["scan"], is_alone=True)
    ours.record_file("scan").write_text("{}")
    written_map(tmp_path, "scan", "mirrors_entropy")
    written_map(tmp_path, "scan", "entropy")
    with mock.patch.object(case_files, "record_names", wraps=case_files.record_names) as search:
        ours._make_room("scan")
    assert search.call_count == 1


def test_a_long_name_is_no_reason_to_fail(model: Model, tmp_path: Path):
    ours = writer(model, tmp_path, maps=())
    case = "c" * 230
    ours.open_output([case], is_alone=True)
    ours.record_file(case).write_text("{}")
    stale = written_map(tmp_path, case, "entropy")
    ours._make_room(case)
    assert not stale.exists()


def test_two_cases_that_would_write_one_file_are_refused(model: Model, tmp_path: Path):
    ours = writer(model, tmp_path, maps=("entropy", "heads_entropy"))
    with pytest.raises(InputError, match=r"^Each case needs .*scan and scan_heads .*heads_entropy"):
        ours.open_output(["scan", "scan_heads"], is_alone=True)


def test_cases_of_another_kind_in_the_tables_are_said(
    model: Model, source: Path, tmp_path: Path, caplog: Any
):
    predict(model, source, tmp_path)
    for settings, said in (({}, False), ({"families": ("heads", "mirrors")}, True)):
        caplog.clear()
        writer(model, tmp_path, **settings).open_output(["another"], is_alone=True)
        assert (
            "1 cases of an earlier run with another model, other members" in caplog.text
        ) == said
    caplog.clear()
    ours = writer(model, tmp_path, families=("heads", "mirrors"))
    ours.open_output([path.stem for path in (tmp_path / "cases").iterdir()], is_alone=True)
    assert caplog.text == ""


def test_another_model_of_the_same_kind_is_another_kind_of_run(
    model: Model, source: Path, tmp_path: Path, caplog: Any
):
    other = load_model(TinyModel(mirror_axes=(2,), seed=1).write(tmp_path / "other"), folds=[0])
    output = tmp_path / "out"
    assert not predict(model, source, output)
    writer(other, output).open_output(["another"], is_alone=True)
    assert "1 cases of an earlier run with another model, other members" in caplog.text
    assert not predict(other, source, output)
    assert predict(other, source, output)
