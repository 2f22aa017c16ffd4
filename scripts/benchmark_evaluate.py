#!/usr/bin/env python
# Spawned workers import this file, which has to be cheap: heavy imports stand in functions.
"""Time of evaluating many small cases, beside nnUNetv2_evaluate_folder, in turn, medians.

    python scripts/benchmark_evaluate.py [--cases 1000] [--processes 2] [--repeats 5]

Writes generated pairs of hippocampus size (36 x 50 x 35 voxels, two labels) with a table of scores
to a temporary folder. A is nnU-Net's own function; B everything that nnUNetv2_le_evaluate computes,
without distances; C with distances.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

SHAPE = (36, 50, 35)  # depth, height, width of a median hippocampus case
NUM_SCORES = 20  # about as many as predict writes
DRAWS = 1000


def main() -> int:
    """Generate, time, report."""
    parser = argparse.ArgumentParser(description="Time of evaluating many small cases.")
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--probabilities", action="store_true", help="Saved probabilities too.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _generate(folder, arguments.cases, probabilities=arguments.probabilities)
        runs: dict[str, Callable[[], None]] = {
            "nnUNetv2_evaluate_folder": lambda: _nnunet(folder, arguments.processes),
            "ours, no distances": lambda: _ours(folder, arguments.processes, distances=False),
            "ours, with distances": lambda: _ours(folder, arguments.processes, distances=True),
        }
        seconds: dict[str, list[float]] = {label: [] for label in runs}
        for _ in range(arguments.repeats):
            for label, run in runs.items():
                start = time.perf_counter()
                run()
                seconds[label].append(time.perf_counter() - start)
    _report(seconds, arguments)
    return 0


def _report(seconds: dict[str, list[float]], arguments: argparse.Namespace) -> None:
    baseline, *_ = seconds.values()
    sys.stdout.write(f"{arguments.cases} cases, {arguments.processes} processes, medians of ")
    sys.stdout.write(f"{arguments.repeats} runs in turn\n")
    for label, values in seconds.items():
        ratios = [mine / its for mine, its in zip(values, baseline, strict=True)]
        sys.stdout.write(
            f"{label:28s} {statistics.median(values):7.2f} s  {statistics.median(ratios):5.2f} x  "
            f"({', '.join(f'{value:.2f}' for value in values)})\n"
        )


def _generate(folder: Path, num_cases: int, *, probabilities: bool) -> None:
    import numpy as np
    import pandas as pd
    import SimpleITK as sitk

    rng = np.random.default_rng(0)
    references, out = folder / "labels", folder / "out"
    for path in (references, out):
        path.mkdir()
    grid = np.stack(np.meshgrid(*[np.arange(size) for size in SHAPE], indexing="ij"))
    for number in range(num_cases):
        pair = [_labels(grid, rng) for _ in range(2)]
        for labels, path in zip(pair, (references, out), strict=True):
            image = sitk.GetImageFromArray(labels)
            sitk.WriteImage(image, str(path / f"case_{number:04d}.nii.gz"), True)
        if probabilities:
            soft = np.stack([(pair[1] == c) * 4.0 for c in range(3)]) + rng.normal(size=(3, *SHAPE))
            soft = np.exp(soft) / np.exp(soft).sum(axis=0)
            saved = out / f"case_{number:04d}.npz"
            np.savez_compressed(saved, probabilities=soft.astype(np.float32))
    names = [f"score_{number:02d}" for number in range(NUM_SCORES)]
    table = pd.DataFrame(rng.random((num_cases, NUM_SCORES)), columns=names)
    table.insert(0, "case", [f"case_{number:04d}" for number in range(num_cases)])
    table.to_csv(out / "uncertainty.csv", index=False)
    per_label = [table.assign(label_name=name) for name in ("Anterior", "Posterior")]
    pd.concat(per_label).to_csv(out / "uncertainty_per_label.csv", index=False)
    columns = {name: {"direction": "higher_is_better"} for name in names}
    (out / "uncertainty.json").write_text(json.dumps({"columns": columns}))
    description = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "Anterior": 1, "Posterior": 2},
        "file_ending": ".nii.gz",
    }
    (out / "dataset.json").write_text(json.dumps(description))


def _labels(grid, rng):  # type: ignore[no-untyped-def]
    """Two touching ellipsoids at slightly different places each time."""
    import numpy as np

    labels = np.zeros(SHAPE, dtype=np.uint8)
    for label, place in ((1, 0.35), (2, 0.65)):
        centre = np.array([0.5, place, 0.5]) * SHAPE + rng.normal(size=3)
        radii = np.array([0.2, 0.2, 0.22]) * SHAPE
        inside = (((grid - centre.reshape(3, 1, 1, 1)) / radii.reshape(3, 1, 1, 1)) ** 2).sum(0) < 1
        labels[inside & (labels == 0)] = label
    return labels


def _nnunet(folder: Path, processes: int) -> None:
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    compute_metrics_on_folder(
        str(folder / "labels"),
        str(folder / "out"),
        str(folder / "nnunet_summary.json"),
        SimpleITKIO(),
        ".nii.gz",
        [1, 2],
        num_processes=processes,
    )


def _ours(folder: Path, processes: int, *, distances: bool) -> None:
    from nnunetv2_le.evaluation.case_metrics import MetricSettings
    from nnunetv2_le.evaluation.evaluate import evaluate_prediction
    from nnunetv2_le.evaluation.method import MethodSettings
    from nnunetv2_le.evaluation.result_files import write_evaluation

    metrics, method = MetricSettings(distances=distances), MethodSettings(num_draws=DRAWS)
    evaluation = evaluate_prediction(
        folder / "out",
        [folder / "labels"],
        metrics=metrics,
        method=method,
        num_processes=processes,
    )
    write_evaluation(evaluation, folder / "results", metrics=metrics, method=method)


if __name__ == "__main__":
    sys.exit(main())
