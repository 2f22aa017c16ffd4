"""What an earlier run wrote of a case is lost only to a new result."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nnunetv2_le.inference.model import Model
from nnunetv2_le.inference.predictor import LayerEnsemblePredictor
from nnunetv2_le.inference.queue import RunSummary
from nnunetv2_le.inference.settings import PredictionSettings
from nnunetv2_le.inference.writing import CaseWriter

SETTINGS = PredictionSettings(families=("heads",), maps=("entropy",))


def run(model: Model, source: Path, output: Path, **settings: Any) -> RunSummary:
    """Predict anew."""
    predictor = LayerEnsemblePredictor(model, replace(SETTINGS, **settings), show_progress=False)
    return predictor.predict_folder(source, output)


@pytest.fixture
def images(source: Path, tmp_path: Path) -> Path:
    return shutil.copytree(source, tmp_path / "images")


def spoil(images: Path) -> None:
    image = images / "case_0000.nii.gz"
    image.write_bytes(image.read_bytes()[:200])


def contents(folder: Path, but: str = "set_aside") -> dict[str, bytes]:
    """Files of the case below a folder by their path."""
    found = [path.relative_to(folder) for path in folder.rglob("case*") if path.is_file()]
    return {str(path): (folder / path).read_bytes() for path in found if path.parts[0] != but}


def test_what_an_earlier_run_wrote_of_a_case_that_fails_is_set_aside_whole(
    model: Model, images: Path, tmp_path: Path, caplog: Any
):
    output = tmp_path / "out"
    assert run(model, images, output, save_heads=True, save_probabilities=True).done
    before = contents(output)
    (output / "case_notes.txt").write_text("mine")
    spoil(images)
    for _ in range(2):  # failing again changes nothing
        assert run(model, images, output).failed
        assert set(contents(output)) == {"case_notes.txt", "cases/case.failed"}
        assert contents(output / "set_aside" / "case") == before
        kept = output / "set_aside" / "case"
        assert f"case: what an earlier run wrote of it was moved to {kept}." in caplog.text


def test_a_case_with_a_new_result_keeps_nothing_aside(
    model: Model, source: Path, images: Path, tmp_path: Path
):
    output = tmp_path / "out"
    run(model, images, output)
    spoil(images)
    run(model, images, output)
    assert run(model, source, output).done
    assert not (output / "set_aside").exists()
    assert "case.nii.gz" in contents(output)


def test_an_interrupted_run_loses_nothing_of_an_earlier_one(
    model: Model, source: Path, tmp_path: Path, monkeypatch: Any
):
    output = tmp_path / "out"
    run(model, source, output)
    record = (output / "cases" / "case.json").read_bytes()

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(LayerEnsemblePredictor, "predict_prepared", stop)
    with pytest.raises(KeyboardInterrupt):
        run(model, source, output)
    assert not (output / "cases" / "case.json").exists()
    assert (output / "set_aside" / "case" / "cases" / "case.json").read_bytes() == record
    assert (output / "case.nii.gz").is_file()
    monkeypatch.undo()
    predictor = LayerEnsemblePredictor(model, SETTINGS, show_progress=False)
    assert predictor.predict_folder(source, output, overwrite=False).done
    assert not (output / "set_aside").exists()


def test_a_case_that_cannot_be_written_keeps_its_earlier_result_aside_and_nothing_half(
    model: Model, source: Path, tmp_path: Path, monkeypatch: Any
):
    output = tmp_path / "out"
    run(model, source, output, save_probabilities=True)
    before = contents(output)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CaseWriter, "_write_map", refuse)
    assert "No space left" in run(model, source, output).failed["case"]
    assert set(contents(output)) == {"cases/case.failed"}
    assert contents(output / "set_aside" / "case") == before


def test_files_that_no_run_recorded_are_left_where_the_case_fails(
    model: Model, images: Path, tmp_path: Path, caplog: Any
):
    output = tmp_path / "labels"
    output.mkdir()
    for name in ("case.nii.gz", "case.npz"):
        (output / name).write_text("drawn by hand")
    spoil(images)
    assert run(model, images, output, save_probabilities=True).failed
    assert set(contents(output)) == {"case.nii.gz", "case.npz", "cases/case.failed"}
    assert f"{output / 'case.nii.gz'} is left as it was, but is no result" in caplog.text


def test_files_that_no_run_recorded_and_this_run_does_not_write_stay(
    model: Model, source: Path, tmp_path: Path
):
    (tmp_path / "case.npz").write_text("of somebody else")
    assert run(model, source, tmp_path).done
    assert (tmp_path / "case.npz").read_text() == "of somebody else"
