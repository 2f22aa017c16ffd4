"""What the tests of faults share: a model, cases, a run of the command, and how runs compare."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from inference.model_folders import TinyImage, TinyModel

from nnunetv2_le.cli.predict_from_modelfolder import main

CASES = ("first", "second", "third")
ROOT = Path(__file__).parents[2]
TABLES = (
    "uncertainty.csv",
    "uncertainty_per_label.csv",
    "uncertainty_per_component.csv",
    "uncertainty.json",
)


def write_model(folder: Path) -> Path:
    return TinyModel(stages=3, mirror_axes=(2,)).write(folder)


def write_cases(folder: Path, cases: Sequence[str] = CASES) -> Path:
    for number, case in enumerate(cases):
        TinyImage(shape=(14, 18 + number, 16)).write(folder, case)
    return folder


def arguments(model: Path, source: Path, output: Path, *more: str) -> list[str]:
    common = ["-f", "0", "-device", "cpu", "--disable_progress_bar"]
    return ["-m", str(model), "-i", str(source), "-o", str(output), *common, *more]


def predict(model: Path, source: Path, output: Path, *more: str) -> int:
    return main(arguments(model, source, output, *more))


def start(model: Path, source: Path, output: Path, *more: str) -> "subprocess.Popen[str]":
    """The command in a process of its own."""
    # a shell that runs the tests in the background lets its children ignore Ctrl-C
    code = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from nnunetv2_le.cli.predict_from_modelfolder import main
sys.exit(main())
"""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments(model, source, output, *more)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def failures(output: Path) -> dict[str, str]:
    """Rows of failed.csv."""
    file = output / "failed.csv"
    if not file.is_file():
        return {}
    rows = file.read_text().splitlines()[1:]
    return dict(row.split(",", 1) for row in rows)


def done(output: Path) -> set[str]:
    """Cases with a record."""
    return {path.stem for path in (output / "cases").glob("[!.]*.json")}


def require_one_clear_line(capsys: Any, *parts: str) -> str:
    """Standard error is one line with these words and no traceback; gives it."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    for part in parts:
        assert part in lines[0]
    return str(lines[0])


def require_same_results(output: Path, expected: Path) -> None:
    """Same files; tables and records byte by byte, images voxel by voxel."""
    files = {path.relative_to(output) for path in output.rglob("*") if path.is_file()}
    assert files == {path.relative_to(expected) for path in expected.rglob("*") if path.is_file()}
    for file in files:
        ours, theirs = output / file, expected / file
        if file.name.endswith(".nii.gz"):
            a, b = (sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in (ours, theirs))
            np.testing.assert_array_equal(a, b)
        elif file.suffix in (".csv", ".json"):
            assert ours.read_bytes() == theirs.read_bytes(), file


def truncate(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def set_voxel(file: Path, value: float) -> None:
    image = sitk.ReadImage(str(file))
    image[3, 3, 3] = value
    sitk.WriteImage(image, str(file))


def mend(file: Path, source: Path) -> None:
    shutil.copy(source / file.name, file)
