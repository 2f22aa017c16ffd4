"""Time and memory of every family of members, against one stock prediction of the same images.

    python scripts/benchmark_families.py --results RESULTS ... --images FOLDER

Every RESULTS is a ``nnUNet_results`` folder of one seed of ``study_members.py``. Commands run one
after another, as often as asked for, the stock prediction of nnU-Net before each round. A method
whose models are missing is left out. Memory as in ``benchmark.py``.
"""

import argparse
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmark import Measurement, median, medians, run

STOCK = "nnUNetTrainer"
LAYERS = "LayerEnsembleTrainer"
PREDICT, OURS = "nnUNetv2_predict", "nnUNetv2_le_predict"


@dataclass(frozen=True)
class Method:
    """One way to predict.

    Attributes:
        trainer: whose models.
        flags: of the command, beside images and models.
        num_models: how many seeds are predicted together.
        command: nnU-Net's or ours.
    """

    trainer: str
    flags: str = ""
    num_models: int = 1
    command: str = OURS


METHODS = {
    "nnUNetv2_predict": Method(STOCK, command=PREDICT),
    "nnUNetv2_predict, one pass": Method(STOCK, "--disable_tta", command=PREDICT),
    "stock, mirrored": Method(STOCK, "-members mirrors"),
    "stock, one pass": Method(STOCK, "-members heads --disable_tta"),
    "layer ensemble, one pass": Method(LAYERS, "-members heads --disable_tta"),
    "layer ensemble, mirrored": Method(LAYERS, "-members heads mirrors"),
    "retrofit, one pass": Method(f"{LAYERS}Frozen", "-members heads --disable_tta"),
    "multi-head, one pass": Method("MultiHeadTrainer", "-members multi_head --disable_tta"),
    "cyclic checkpoints, one pass each": Method(
        "CyclicLearningRateTrainer", "-members checkpoints --disable_tta -chk checkpoint_cycle*.pth"
    ),
    "dropout, ten samples": Method("DropoutTrainer", "-members dropout --disable_tta"),
    "deep ensemble of five, one pass each": Method(STOCK, "-members models --disable_tta", 5),
    "deep ensemble of five, mirrored": Method(STOCK, "-members models mirrors", 5),
    "heads, mirrors and three models": Method(LAYERS, "-members heads mirrors models", 3),
}


def main() -> None:
    """Measure every method and print a table."""
    arguments = parse()
    results: dict[str, list[Measurement]] = {}
    with tempfile.TemporaryDirectory() as work:
        images = Path(work) / "in"
        images.mkdir()
        for path in sorted(arguments.images.iterdir())[: arguments.num_images]:
            (images / path.name).symlink_to(path.resolve())
        for _ in range(arguments.repeats):
            for name, method in METHODS.items():
                models = model_folders(method, arguments)
                if len(models) == method.num_models:
                    results.setdefault(name, []).append(
                        measure(method, models, images=images, output=Path(work) / "out")
                    )
    report(results)


def parse() -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", nargs="+", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--dataset", default="Dataset004_Hippocampus")
    parser.add_argument("--configuration", default="smallPlans__3d_fullres")
    parser.add_argument("--num_images", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=1)
    return parser.parse_args()


def model_folders(method: Method, arguments: argparse.Namespace) -> list[Path]:
    """The models of the first seeds that have them."""
    folders = [
        folder / arguments.dataset / f"{method.trainer}__{arguments.configuration}"
        for folder in arguments.results
    ]
    return [folder for folder in folders if (folder / "fold_0").is_dir()][: method.num_models]


def measure(method: Method, models: list[Path], *, images: Path, output: Path) -> Measurement:
    """One run of a method."""
    options = ["-i", str(images), "-o", str(output), "-f", "0", "-device", "cpu"]
    measurement = run(method.command, [*options, "-m", *map(str, models), *method.flags.split()])
    shutil.rmtree(output)
    return measurement


def report(results: dict[str, list[Measurement]]) -> None:
    """Medians, and their ratios to nnU-Net's own default prediction with one fold."""
    print("| method | wall s | CPU s | memory MB | runs | CPU, memory over nnUNetv2_predict |")
    print("|---|---|---|---|---|---|")
    stock = results[PREDICT]
    for name, runs in results.items():
        cpu, peak = (median(runs, key) / median(stock, key) for key in ("cpu_s", "peak_bytes"))
        print(f"| {name} | {medians(runs)} | {len(runs)} | {cpu:.2f}, {peak:.2f} |")


if __name__ == "__main__":
    main()
