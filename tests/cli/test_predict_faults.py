"""When something breaks: one clear line, the other cases done, and nothing lost."""

import multiprocessing.process
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk
import torch
from inference import faulty_runs as runs
from inference.model_folders import TinyImage, TinyModel

from nnunetv2_le.cli.predict_from_modelfolder import main
from nnunetv2_le.inference import predictor as predictor_module
from nnunetv2_le.inference.writing import CaseWriter

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.write_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def sound(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Images, and what an uninterrupted run makes of them."""
    folder = tmp_path_factory.mktemp("sound")
    source = runs.write_cases(folder / "in")
    assert runs.predict(model, source, folder / "out") == 0
    return source, folder / "out"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return runs.write_cases(tmp_path / "in")


FAULTS = {
    "truncated": (runs.truncate, "cannot be read"),
    "empty": (lambda file: file.write_bytes(b""), "cannot be read"),
    "not a number": (lambda file: runs.set_voxel(file, float("nan")), "missing (NaN)"),
    "infinite": (lambda file: runs.set_voxel(file, float("inf")), "infinite"),
    "one channel too many": (
        lambda file: file.with_name("second_0001.nii.gz").write_bytes(file.read_bytes()),
        "Expected 1 image file(s)",
    ),
}


@pytest.mark.parametrize(("spoil", "reason"), FAULTS.values(), ids=FAULTS.keys())
def test_a_bad_image_fails_alone_and_is_made_up_for_later(
    model: Path, sound: Any, source: Path, tmp_path: Path, capsys: Any, spoil: Any, reason: str
):
    output = tmp_path / "out"
    spoil(source / "second_0000.nii.gz")
    assert runs.predict(model, source, output) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("second: ")
    assert "1 of 3 cases failed (second)" in lines[1]
    assert reason in runs.failures(output)["second"]
    assert runs.done(output) == {"first", "third"}
    assert not (output / "second.nii.gz").exists()
    (source / "second_0001.nii.gz").unlink(missing_ok=True)
    runs.mend(source / "second_0000.nii.gz", sound[0])
    assert runs.predict(model, source, output, "--continue_prediction") == 0
    runs.require_same_results(output, sound[1])


def test_a_missing_image_of_a_list_fails_alone(model: Path, source: Path, tmp_path: Path):
    predictor = predictor_module.LayerEnsemblePredictor.from_model_folder(
        model, folds=[0], show_progress=False
    )
    files = [[source / f"{case}_0000.nii.gz"] for case in ("first", "absent", "third")]
    summary = predictor.predict_folder(files, tmp_path / "out")
    assert summary.done == ("first", "third")
    assert "does not exist" in summary.failed["absent"]


@pytest.mark.parametrize("fill", [0.0, 7.0])
def test_a_constant_image_is_predicted(model: Path, source: Path, tmp_path: Path, fill: float):
    file = source / "second_0000.nii.gz"
    image = sitk.ReadImage(str(file))
    sitk.WriteImage(image * 0 + fill, str(file))
    assert runs.predict(model, source, tmp_path / "out") == 0
    assert runs.done(tmp_path / "out") == set(runs.CASES)


def test_an_image_of_one_slice_is_predicted(model: Path, tmp_path: Path):
    TinyImage(shape=(1, 20, 20)).write(tmp_path / "in")
    assert runs.predict(model, tmp_path / "in", tmp_path / "out") == 0
    assert sitk.ReadImage(str(tmp_path / "out" / "case.nii.gz")).GetSize() == (20, 20, 1)


def test_a_folder_without_images_is_one_line(model: Path, tmp_path: Path, capsys: Any):
    (tmp_path / "in").mkdir()
    assert runs.predict(model, tmp_path / "in", tmp_path / "out") == 1
    runs.require_one_clear_line(capsys, "No image", ".nii.gz", "no file at all")
    assert runs.predict(model, tmp_path / "absent", tmp_path / "out") == 1
    runs.require_one_clear_line(capsys, "is not a folder", "-i")


def test_a_wrong_file_ending_is_one_line(model: Path, tmp_path: Path, capsys: Any):
    TinyImage().write(tmp_path / "in", ending=".mha")
    assert runs.predict(model, tmp_path / "in", tmp_path / "out") == 1
    runs.require_one_clear_line(capsys, ".nii.gz", "found .mha")


def test_a_file_without_channel_number_is_one_line(model: Path, source: Path, capsys: Any):
    (source / "first_0000.nii.gz").rename(source / "first.nii.gz")
    assert runs.predict(model, source, source.parent / "out") == 1
    runs.require_one_clear_line(capsys, "CASE_0000.nii.gz", "first.nii.gz", "Rename")


def test_two_inputs_of_one_name_are_refused(model: Path, source: Path, tmp_path: Path):
    predictor = predictor_module.LayerEnsemblePredictor.from_model_folder(
        model, folds=[0], show_progress=False
    )
    files = [[source / "first_0000.nii.gz"], [tmp_path / "other" / "first_0000.nii.gz"]]
    with pytest.raises(ValueError, match=r"share one case name.*first"):
        predictor.predict_folder(files, tmp_path / "out")


def spoiled_models(folder: Path) -> Iterator[tuple[Path, list[str], tuple[str, ...]]]:
    whole = runs.write_model(folder / "whole")
    checkpoint = Path("fold_0") / "checkpoint_final.pth"
    yield whole, ["-f", "3"], ("fold_3", "fold_0", "-f")
    yield whole, ["-chk", "checkpoint_best.pth"], ("checkpoint_best.pth", "-chk")
    yield whole, ["-maps", "variance"], ("variance", "entropy")
    yield folder / "absent", [], ("plans.json", "absent")
    cut = runs.write_model(folder / "cut")
    runs.truncate(cut / checkpoint)
    yield cut, [], ("cannot be read as a checkpoint", "copy it again")
    stranger = TinyModel(stages=3, mirror_axes=(2,)).write(folder / "stranger")
    content = torch.load(stranger / checkpoint, weights_only=False)
    torch.save(content | {"trainer_name": "TrainerOfSomebody"}, stranger / checkpoint)
    yield stranger, [], ("TrainerOfSomebody", "nnUNet_extTrainer")
    torch.save({"state_dict": {}}, stranger / checkpoint)
    yield stranger, [], ("is not a checkpoint of nnU-Net",)
    unfit = TinyModel(stages=4, mirror_axes=(2,)).write(folder / "unfit")
    (unfit / "plans.json").write_bytes((whole / "plans.json").read_bytes())
    yield unfit, [], ("does not fit the network", "plans.json")


def test_a_model_that_cannot_be_used_is_one_line(source: Path, tmp_path: Path, capsys: Any):
    for model, options, parts in spoiled_models(tmp_path / "models"):
        capsys.readouterr()
        assert runs.predict(model, source, tmp_path / "out", *options) == 1
        runs.require_one_clear_line(capsys, *parts)
        assert not (tmp_path / "out").exists()


def test_the_traceback_is_for_verbose_alone(model: Path, source: Path, capsys: Any):
    runs.truncate(source / "second_0000.nii.gz")
    assert runs.predict(model, source, source.parent / "out", "--verbose") == 1
    assert "Traceback" in "".join(capsys.readouterr())


def test_an_output_that_is_no_folder_is_one_line(model: Path, source: Path, capsys: Any):
    (source.parent / "out").write_text("a file")
    assert runs.predict(model, source, source.parent / "out") == 1
    runs.require_one_clear_line(capsys, "cannot be written to", "-o")


def test_results_among_the_parts_of_a_model_are_one_line(source: Path, tmp_path: Path, capsys: Any):
    model = runs.write_model(tmp_path / "model")
    before = (model / "plans.json").read_bytes()
    assert runs.predict(model, source, model) == 1
    runs.require_one_clear_line(capsys, "-o has to be another folder", "the model's")
    assert (model / "plans.json").read_bytes() == before


def test_results_among_images_are_one_line(model: Path, source: Path, capsys: Any):
    before = sorted(source.iterdir())
    for output in (source, source / ".." / source.name):
        assert runs.predict(model, source, output) == 1
        runs.require_one_clear_line(capsys, "-o has to be another folder than -i", str(source))
    assert sorted(source.iterdir()) == before


@pytest.mark.parametrize("flag", ["-i", "-o", "-m", "-prev_stage_predictions"])
def test_a_folder_of_another_encoding_is_one_line(
    model: Path, source: Path, tmp_path: Path, capsys: Any, flag: str
):
    strange = tmp_path / os.fsdecode(b"M\xfcller")
    folders = {"-m": model, "-i": source, "-o": tmp_path / "out", flag: strange}
    given = [str(word) for item in folders.items() for word in item]
    assert main([*given, "-f", "0", "-device", "cpu", "--disable_progress_bar"]) == 1
    runs.require_one_clear_line(capsys, f"Expected {flag} to be a path in UTF-8", "M\\udcfcller")


def test_an_image_of_another_encoding_in_a_list_fails_alone(
    model: Path, source: Path, tmp_path: Path
):
    predictor = predictor_module.LayerEnsemblePredictor.from_model_folder(
        model, folds=[0], show_progress=False
    )
    strange = shutil.copytree(source, tmp_path / os.fsdecode(b"M\xfcller"))
    files = [[strange / "first_0000.nii.gz"], [source / "second_0000.nii.gz"]]
    summary = predictor.predict_folder(files, tmp_path / "out")
    assert summary.done == ("second",)
    assert "Expected a path in UTF-8" in summary.failed["first"]


def test_results_among_the_previous_stage_are_one_line(source: Path, tmp_path: Path, capsys: Any):
    cascade = TinyModel(stages=3, mirror_axes=(2,), previous_stage="3d_lowres")
    model, before = cascade.write(tmp_path / "cascade"), tmp_path / "before"
    before.mkdir()
    (before / "first.nii.gz").touch()
    assert runs.predict(model, source, before, "-prev_stage_predictions", str(before)) == 1
    runs.require_one_clear_line(capsys, "-o", "than -prev_stage_predictions", str(before))
    assert [path.name for path in before.iterdir()] == ["first.nii.gz"]


def test_a_limit_on_file_size_fails_the_case_and_leaves_no_half_file(
    model: Path, sound: Any, source: Path, tmp_path: Path
):
    output = tmp_path / "out"
    TinyImage(shape=(40, 60, 60)).write(source, "second")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        assert runs.predict(model, source, output) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(runs.failures(output)) == ["second"]
    assert "Free space" in runs.failures(output)["second"]
    assert not list(output.rglob("*second_entropy*"))
    assert not list(output.rglob(".*"))
    runs.mend(source / "second_0000.nii.gz", sound[0])
    assert runs.predict(model, source, output, "--continue_prediction") == 0
    runs.require_same_results(output, sound[1])


def test_a_full_disk_fails_the_case_and_leaves_no_half_file(
    model: Path, source: Path, tmp_path: Path
):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        TinyImage(shape=(40, 60, 60)).write(source, "second")
        # one writer: beside a large file that is being written, a small one may find no room either
        assert runs.predict(model, source, disk / "out", "-nps", "1") == 1
        assert list(runs.failures(disk / "out")) == ["second"]
        assert runs.done(disk / "out") == {"first", "third"}
        assert not list(disk.rglob(".*"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("error", [MemoryError("too large"), RuntimeError("gone")])
@pytest.mark.parametrize("step", ["preprocessing", "writing"])
def test_a_failing_thread_fails_its_case_alone(
    model: Path, sound: Any, tmp_path: Path, monkeypatch: Any, step: str, error: Exception
):
    output = tmp_path / "out"
    with monkeypatch.context() as patch:
        if step == "preprocessing":
            prepare = predictor_module.prepare_case
            patch.setattr(predictor_module, "prepare_case", failing(prepare, error))
        else:
            patch.setattr(CaseWriter, "write", failing(CaseWriter.write, error))
        assert runs.predict(model, sound[0], output) == 1
    assert str(error) in runs.failures(output)["second"]
    assert runs.predict(model, sound[0], output, "--continue_prediction") == 0
    runs.require_same_results(output, sound[1])


def failing(function: Any, error: BaseException) -> Any:
    """The function, but it raises for the second case."""

    def call(*values: Any, **named: Any) -> Any:
        if any(getattr(v, "name", getattr(v, "case", None)) == "second" for v in values):
            raise error
        return function(*values, **named)

    return call


def test_there_is_no_worker_process_that_could_be_killed(
    model: Path, sound: Any, tmp_path: Path, monkeypatch: Any
):
    def start(self: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", start)
    assert runs.predict(model, sound[0], tmp_path / "out") == 0


@pytest.mark.parametrize("workers", [("-npp", "0", "-nps", "0"), ("-npp", "1", "-nps", "1")])
def test_the_number_of_workers_changes_nothing(
    model: Path, sound: Any, tmp_path: Path, workers: tuple[str, ...]
):
    assert runs.predict(model, sound[0], tmp_path / "out", *workers) == 0
    runs.require_same_results(tmp_path / "out", sound[1])


def test_a_rerun_gives_the_same_results(model: Path, sound: Any, tmp_path: Path):
    for more in ((), (), ("--continue_prediction",)):
        assert runs.predict(model, sound[0], tmp_path / "out", *more) == 0
        runs.require_same_results(tmp_path / "out", sound[1])


def test_an_interrupted_run_keeps_what_is_done_and_goes_on(
    model: Path, sound: Any, tmp_path: Path, monkeypatch: Any, capsys: Any
):
    output = tmp_path / "out"
    with monkeypatch.context() as patch:
        predict = predictor_module.LayerEnsemblePredictor.predict_prepared
        patch.setattr(
            predictor_module.LayerEnsemblePredictor,
            "predict_prepared",
            failing(predict, KeyboardInterrupt()),
        )
        assert runs.predict(model, sound[0], output) == 130
    runs.require_one_clear_line(capsys, "interrupted")
    assert runs.done(output) == {"first"}
    assert "first" in (output / "uncertainty.csv").read_text()
    assert runs.predict(model, sound[0], output, "--continue_prediction") == 0
    runs.require_same_results(output, sound[1])


def test_signals_end_a_run_promptly_and_parts_run_side_by_side(model: Path, tmp_path: Path):
    """One test for all, because each process takes seconds to start."""
    cases = [f"case_{number:02d}" for number in range(12)]
    source = runs.write_cases(tmp_path / "in", cases)
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
    stopped = {number: runs.start(model, source, tmp_path / number.name) for number in signals}
    parts = [
        runs.start(model, source, tmp_path / "parts", "-num_parts", "2", "-part_id", str(part))
        for part in range(2)
    ]
    send_after_first_case(stopped, tmp_path)
    for number, process in stopped.items():
        _, errors = process.communicate(timeout=60)
        if number is signal.SIGKILL:
            assert process.returncode == -signal.SIGKILL
        else:
            assert process.returncode == 130, errors
            assert "predict_from_modelfolder: interrupted." in errors
            assert "Traceback" not in errors
    assert runs.predict(model, source, tmp_path / "whole") == 0
    for number in signals:
        assert len(runs.done(tmp_path / number.name)) < len(cases)
        again = ("--continue_prediction",)
        assert runs.predict(model, source, tmp_path / number.name, *again) == 0
        runs.require_same_results(tmp_path / number.name, tmp_path / "whole")
    for process in parts:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    runs.require_same_results(tmp_path / "parts", tmp_path / "whole")


def send_after_first_case(
    running: dict[signal.Signals, "subprocess.Popen[str]"], folder: Path
) -> None:
    """Send each process its signal as soon as it has finished a case."""
    waiting = dict(running)
    while waiting:
        for number, process in list(waiting.items()):
            assert process.poll() is None, process.communicate()
            if runs.done(folder / number.name):
                process.send_signal(number)
                del waiting[number]
        time.sleep(0.02)
