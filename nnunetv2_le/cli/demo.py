"""``nnUNetv2_le_demo``: the whole way on phantoms, from images to how far to trust each case.

Generates a phantom data set with clean and shifted test cases, plans and preprocesses it with
nnU-Net, trains a small layer ensemble, predicts, and prints for each case what the model says of
itself (AULA, consensus Dice) beside what it does not know (Dice with the truth).
"""

import argparse
import csv
import json
import logging
import math
import os
import shutil
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_le.cli.argument_types import path
from nnunetv2_le.cli.common import require_writable, run_main
from nnunetv2_le.errors import LayerEnsembleError, OutputError

if TYPE_CHECKING:
    from nnunetv2_le.demo.phantoms import PhantomDataset

logger = logging.getLogger("nnunetv2_le.cli.demo")

DATASET_ID = "999"
CONFIGURATION = "3d_fullres"
PLANS = "phantomPlans"
TRAINER = "LayerEnsembleTrainer"
FEATURES = (8, 16, 32, 64, 64, 64)
SCORES = ("aula", "consensus_dice")


@dataclass(frozen=True)
class DemoRequest:
    """What the demo shall do.

    Attributes:
        output: folder for everything it writes.
        device: ``cpu``, ``cuda``, ``mps``; None takes a GPU where there is one.
        num_training: training phantoms.
        num_test: clean test phantoms; as many shifted ones.
        num_epochs: training epochs.
        num_iterations_per_epoch: iterations in each.
        seed: of the phantoms and of the training.
    """

    output: Path
    device: str | None = None
    num_training: int = 20
    num_test: int = 8
    num_epochs: int = 20
    num_iterations_per_epoch: int = 50
    seed: int = 1


@dataclass(frozen=True)
class CaseRow:
    """One line of the demo's table: scores in the order of ``SCORES``, and Dice with the truth."""

    case: str
    scores: tuple[float, ...]
    dice: float


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_le_demo",
        description="Layer ensembles on generated phantoms, end to end, in a few minutes on a CPU.",
    )
    parser.add_argument(
        "-o", type=path, required=True, metavar="FOLDER", help="Where everything is written."
    )
    parser.add_argument(
        "-device",
        choices=("cpu", "cuda", "mps"),
        help="Default: a GPU where there is one, else the CPU.",
    )
    return parser


def build_request(arguments: argparse.Namespace) -> DemoRequest:
    """Arguments to request."""
    return DemoRequest(output=arguments.o, device=arguments.device)


def run(request: DemoRequest) -> list[CaseRow]:
    """Generate, plan, train, predict and report.

    Returns:
        The rows of the printed table, clean cases first.

    Raises:
        OutputError: the folder cannot be written, or has predictions that are not the demo's.
        LayerEnsembleError: training or prediction failed; it said why.
    """
    output = request.output.expanduser().absolute()
    require_writable(output)
    _require_own_predictions(output)
    output.mkdir(parents=True, exist_ok=True)
    with _nnunet_environment(output):
        from nnunetv2_le.demo.phantoms import write_phantom_dataset

        _remove_earlier_run(output)
        logger.info("Writing phantoms to %s", output / "nnUNet_raw")
        dataset = write_phantom_dataset(
            output / "nnUNet_raw",
            num_training=request.num_training,
            num_test=request.num_test,
            seed=request.seed,
        )
        _plan_and_preprocess()
        device = request.device or _best_device()
        _train(request, device)
        _predict(dataset, output / "predictions", device)
        rows = _rows(dataset, output / "predictions")
    _report(rows, output)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``nnUNetv2_le_demo``."""
    return run_main(build_parser(), build_request, run=run, argv=argv)


@contextmanager
def _nnunet_environment(output: Path) -> Iterator[None]:
    """nnU-Net's variables, pointing below the output folder; restored afterwards."""
    folders = {
        name: str(output / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
    }
    for folder in folders.values():
        Path(folder).mkdir(exist_ok=True)
    workers = os.environ.get("nnUNet_def_n_proc", "1")
    # A small data set, a short training: starting workers and compiling cost more than they save.
    with _variables(
        {**folders, "nnUNet_def_n_proc": workers, "nnUNet_n_proc_DA": "1", "nnUNet_compile": "f"}
    ):
        yield


@contextmanager
def _variables(wanted: dict[str, str]) -> Iterator[None]:
    """Environment variables of this process and its children; restored afterwards."""
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _require_own_predictions(output: Path) -> None:
    """Refuse a folder whose ``predictions`` no earlier demo wrote: they would be removed."""
    from nnunetv2_le.demo.phantoms import DATASET_NAME

    phantoms = output / "nnUNet_raw" / DATASET_NAME
    if (output / "predictions").exists() and not phantoms.is_dir():
        raise OutputError(
            f"The demo writes to {output / 'predictions'}, which is there and not of an earlier "
            f"demo ({phantoms} is missing). Name another folder with -o."
        )


def _remove_earlier_run(output: Path) -> None:
    """Remove what an earlier demo left in the same folder, and nothing else."""
    from nnunetv2_le.demo.phantoms import DATASET_NAME

    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        shutil.rmtree(output / name / DATASET_NAME, ignore_errors=True)
    shutil.rmtree(output / "predictions", ignore_errors=True)


def _plan_and_preprocess() -> None:
    """nnU-Net's own planning and preprocessing, with a smaller network written into the plans."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprints,
        plan_experiments,
        preprocess,
    )

    from nnunetv2_le.demo.phantoms import DATASET_NAME

    extract_fingerprints([int(DATASET_ID)], num_processes=1, verbose=False)
    plans_name = plan_experiments([int(DATASET_ID)])
    folder = Path(os.environ["nnUNet_preprocessed"]) / DATASET_NAME
    plans = json.loads((folder / f"{plans_name}.json").read_text(encoding="utf-8"))
    configuration = plans["configurations"][CONFIGURATION]
    architecture = configuration["architecture"]["arch_kwargs"]
    architecture["features_per_stage"] = list(FEATURES[: architecture["n_stages"]])
    configuration["batch_size"] = 2
    plans["plans_name"] = PLANS
    plans["configurations"] = {CONFIGURATION: configuration}
    (folder / f"{PLANS}.json").write_text(json.dumps(plans, indent=4), encoding="utf-8")
    preprocess([int(DATASET_ID)], PLANS, (CONFIGURATION,), (1,))


def _best_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _train(request: DemoRequest, device: str) -> None:
    from nnunetv2_le.cli import train

    argv = [DATASET_ID, CONFIGURATION, "0", "-tr", TRAINER, "-p", PLANS, "-device", device]
    argv += ["-num_epochs", str(request.num_epochs)]
    argv += ["-num_iterations_per_epoch", str(request.num_iterations_per_epoch)]
    argv += ["-num_val_iterations_per_epoch", "2", "-seed", str(request.seed)]
    # Augmentation in this process is reproducible, and with it the training.
    with _variables({"nnUNet_n_proc_DA": "0"}):
        if train.main(argv) != 0:
            raise LayerEnsembleError("The demo's training failed; the line above says why.")


def _predict(dataset: "PhantomDataset", folder: Path, device: str) -> None:
    from nnunetv2_le.cli import predict

    argv = ["-i", str(dataset.folder / "imagesTs"), "-o", str(folder), "-d", DATASET_ID]
    argv += ["-c", CONFIGURATION, "-f", "0", "-tr", TRAINER, "-p", PLANS, "-device", device]
    argv += ["-npp", "1", "-nps", "1"]
    if predict.main(argv) != 0:
        raise LayerEnsembleError("The demo's prediction failed; the line above says why.")


def _rows(dataset: "PhantomDataset", folder: Path) -> list[CaseRow]:
    """Scores from ``uncertainty.csv``, and nnU-Net's own Dice with the truth."""
    import numpy as np
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    with (folder / "uncertainty.csv").open(newline="", encoding="utf-8") as file:
        scores = {row["case"]: row for row in csv.DictReader(file)}
    rows = []
    for case in (*dataset.clean, *dataset.shifted):
        name = f"{case}.nii.gz"
        truth = dataset.folder / "labelsTs" / name
        metrics = compute_metrics(str(truth), str(folder / name), SimpleITKIO(), [1, 2])
        dice = float(np.mean([label["Dice"] for label in metrics["metrics"].values()]))
        rows.append(
            CaseRow(case, tuple(float(scores[case][score] or "nan") for score in SCORES), dice)
        )
    return rows


def _report(rows: Sequence[CaseRow], output: Path) -> None:
    """The table, its medians, how well the scores rank the cases, and where the files lie."""
    import numpy as np

    from nnunetv2_le.evaluation.correlation import spearman

    lines = [f"{'case':<24}{'AULA':>8}{'consensus Dice':>16}{'true Dice':>11}"]
    lines += [_line(row.case, (*row.scores, row.dice)) for row in rows]
    lines.append("-" * len(lines[0]))
    for kind in ("clean", "shifted"):
        values = [(*row.scores, row.dice) for row in rows if row.case.startswith(kind)]
        medians = [_median(column) for column in zip(*values, strict=True)]
        lines.append(_line(f"median, {kind} cases", medians))
    logger.info("\n%s\n", "\n".join(lines))
    aula, consensus = np.array([row.scores for row in rows]).T
    truth = np.array([row.dice for row in rows])
    logger.info("AULA and consensus Dice were computed without the truth; higher is better.")
    logger.info(
        "How alike they and the true Dice rank the %d cases (Spearman, 1 is the same order): "
        "AULA %.2f, consensus Dice %.2f",
        len(rows),
        spearman(aula, truth),
        spearman(consensus, truth),
    )
    logger.info("Segmentations, tables and maps: %s", output / "predictions")
    logger.info("The table of all scores: %s", output / "predictions" / "uncertainty.csv")
    logger.info("The trained model: %s", output / "nnUNet_results")


def _median(values: Sequence[float]) -> float:
    """Median of the defined values; NaN where there is none."""
    defined = [value for value in values if not math.isnan(value)]
    return statistics.median(defined) if defined else math.nan


def _line(name: str, values: Sequence[float]) -> str:
    aula, consensus, dice = values
    return f"{name:<24}{aula:>8.3f}{consensus:>16.3f}{dice:>11.3f}"


if __name__ == "__main__":
    sys.exit(main())
