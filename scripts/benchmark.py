"""Time and memory of a prediction, against nnUNetv2_predict on the same weights and images.

Commands run in turn (A B A B), each in its own process. Memory is the highest sum of proportional
set sizes over all processes of a command (Linux). Models and volumes of all rows but the first are
generated.

    python scripts/benchmark.py --rows 3_classes 20_classes --repeats 3
    python scripts/benchmark.py --rows hippocampus --model MODEL_FOLDER --images FOLDER
    python scripts/benchmark.py --rows hippocampus ... --folds 0 1 2 3 4 --num_images 4

Rows: see ``ROWS``. ``--quick`` takes small volumes, to see that it works.
"""

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from inference.model_folders import TinyModel  # noqa: E402

COMMANDS = {
    "nnUNetv2_predict": "from nnunetv2.inference.predict_from_raw_data import "
    "predict_entry_point_modelfolder as main",
    "nnUNetv2_le_predict": "from nnunetv2_le.cli.predict_from_modelfolder import main",
}
POLL_S = 0.25
MB = 1e6


@dataclass(frozen=True)
class Row:
    """One generated benchmark.

    Attributes:
        num_labels: classes, the background included.
        slices: of a volume of 384 x 384 voxels.
        has_rival: whether nnU-Net's own command runs too.
    """

    num_labels: int
    slices: int = 300
    has_rival: bool = True


ROWS = {
    "3_classes": Row(3),
    "20_classes": Row(20),
    "3_classes_2x_slices": Row(3, 600, has_rival=False),
    "3_classes_4x_slices": Row(3, 1200, has_rival=False),
    "118_classes": Row(118, has_rival=False),
}


@dataclass(frozen=True)
class Measurement:
    """One run of a command."""

    wall_s: float
    cpu_s: float
    peak_bytes: float


def main() -> None:
    """Measure the rows that were asked for."""
    arguments = parse()
    machine = f"{len(os.sched_getaffinity(0))} CPU cores, {platform.machine()}"
    print(
        f"{machine}, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}", flush=True
    )
    print(
        "| row | command | wall s | CPU s | memory MB | runs |\n|---|---|---|---|---|---|",
        flush=True,
    )
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        for name in arguments.rows:
            measure_row(name, Path(work), arguments)


def parse() -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", default=["3_classes"], choices=["hippocampus", *ROWS])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="volumes of 1/60 of the size")
    parser.add_argument("--work", type=Path, default=None, help="where models and results go")
    parser.add_argument("--only", choices=list(COMMANDS), help="run one of the commands alone")
    parser.add_argument("--model", type=Path, help="hippocampus: folder of the trained model")
    parser.add_argument("--images", type=Path, help="hippocampus: folder of images")
    parser.add_argument("--num_images", type=int, default=20)
    parser.add_argument("--folds", nargs="+", default=["0"], help="hippocampus: predict together")
    parser.add_argument("--step_size", type=float, default=0.5, help="of the sliding window")
    return parser.parse_args()


def measure_row(name: str, work: Path, arguments: argparse.Namespace) -> None:
    """Run the commands of a row in turn and print their medians."""
    if name == "hippocampus":
        options, has_rival = real_data(work / name, arguments), True
    else:
        options, has_rival = synthetic(work / name, ROWS[name], quick=arguments.quick)
    options += ["-step_size", str(arguments.step_size)]
    commands = [c for c in COMMANDS if has_rival or c == "nnUNetv2_le_predict"]
    if arguments.only:
        commands = [arguments.only]
    results: dict[str, list[Measurement]] = {command: [] for command in commands}
    for _ in range(arguments.repeats):
        for command in commands:
            output = work / name / "out"
            results[command].append(run(command, [*options, "-o", str(output)]))
            shutil.rmtree(output)
    for command, runs in results.items():
        print(f"| {name} | {command} | {medians(runs)} | {len(runs)} |", flush=True)
    if len(commands) == 2:
        print(f"| {name} | ratio of medians | {ratios(*results.values())} | |", flush=True)


def medians(runs: list[Measurement]) -> str:
    """Cells of a row of the table."""
    wall, cpu, peak = (median(runs, key) for key in ("wall_s", "cpu_s", "peak_bytes"))
    return f"{wall:.1f} | {cpu:.1f} | {peak / MB:.0f}"


def ratios(rival: list[Measurement], ours: list[Measurement]) -> str:
    """Ours divided by nnU-Net's."""
    keys = ("wall_s", "cpu_s", "peak_bytes")
    return " | ".join(f"{median(ours, key) / median(rival, key):.2f}" for key in keys)


def median(runs: list[Measurement], key: str) -> float:
    """Median of one quantity over runs."""
    return statistics.median(getattr(run, key) for run in runs)


def real_data(work: Path, arguments: argparse.Namespace) -> list[str]:
    """Arguments of both commands for real images and a trained model; nnU-Net's defaults."""
    images = work / "in"
    images.mkdir(parents=True)
    for path in sorted(arguments.images.iterdir())[: arguments.num_images]:
        (images / path.name).symlink_to(path.resolve())
    model = ["-m", str(arguments.model), "-f", *arguments.folds]
    return ["-i", str(images), *model, "-device", "cpu"]


def synthetic(work: Path, row: Row, *, quick: bool) -> tuple[list[str], bool]:
    """Arguments of both commands for a generated model and volume."""
    labels = {"background": 0} | {f"label_{n}": n for n in range(1, row.num_labels)}
    model = TinyModel(
        trainer="LayerEnsembleTrainer",
        patch=(64, 64, 64),
        spacing=(1.5, 1.5, 1.5),
        stages=3,
        features=(4, 8, 16),
        labels=labels,
        mirror_axes=None,
    ).write(work / "model")
    shape = (row.slices // 4, 96, 96) if quick else (row.slices, 384, 384)
    rng = np.random.default_rng(0)
    coarse = sitk.GetImageFromArray(rng.normal(0, 300, [n // 12 for n in shape]).astype(np.float32))
    coarse.SetSpacing([12.0] * 3)
    grid = sitk.Image(shape[2], shape[1], shape[0], sitk.sitkFloat32)
    smooth = sitk.Resample(coarse, grid, sitk.Transform(), sitk.sitkLinear)
    noisy = sitk.GetArrayFromImage(smooth) + rng.normal(0, 20, shape).astype(np.float32)
    images = work / "in"
    images.mkdir(parents=True)
    picture = sitk.GetImageFromArray((noisy + 1000).astype(np.int16))
    sitk.WriteImage(picture, str(images / "case_0000.nii.gz"), True, 1)
    options = ["-i", str(images), "-m", str(model), "-f", "0", "-device", "cpu"]
    return [*options, "--disable_tta", "-npp", "1", "-nps", "1"], row.has_rival


def run(command: str, options: list[str]) -> Measurement:
    """Run a command to its end and watch its memory."""
    trainers = str(ROOT / "nnunetv2_le" / "ext_trainers")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "nnUNet_extTrainer": trainers}
    code = f"import sys; {COMMANDS[command]}; sys.exit(main())"
    # a file and an empty main module: nnU-Net's workers are spawned, and import the main module
    script = Path(tempfile.mkstemp(suffix=".py")[1])
    script.write_text(f"if __name__ == '__main__':\n    {code}\n")
    begin = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, str(script), *options], stdout=log, stderr=log, env=environment
        )
        peak = [0.0]
        watcher = threading.Thread(target=watch, args=(process.pid, peak), daemon=True)
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        watcher.join()
        script.unlink()
        if process.returncode:
            log.seek(0)
            sys.exit(f"{command} failed:\n{log.read().decode()[-3000:]}")
    return Measurement(wall, usage.ru_utime + usage.ru_stime, peak[0])


def watch(pid: int, peak: list[float]) -> None:
    """Highest sum of proportional set sizes of a process and its descendants."""
    while Path(f"/proc/{pid}/smaps_rollup").exists():
        total = sum(proportional_set_bytes(member) for member in family(pid))
        peak[0] = max(peak[0], total)
        if not total:
            return
        time.sleep(POLL_S)


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for member in found:
        for tasks in Path(f"/proc/{member}/task").glob("*/children"):
            try:
                found += [int(child) for child in tasks.read_text().split()]
            except OSError:
                continue
    return found


def proportional_set_bytes(pid: int) -> float:
    """Memory of a process, shared pages divided by the processes that share them."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return 1024.0 * int(line.split()[1])
    return 0.0


if __name__ == "__main__":
    main()
