#!/usr/bin/env python3
"""The figures of documentation/results.md: predict, evaluate and compare by command, on real data.

    export nnUNet_raw=... nnUNet_preprocessed=...
    python scripts/study_compare.py hippocampus -o FOLDER -seed 1 -figures documentation/figures
    python scripts/study_compare.py lidc -o FOLDER -seed 1 -figures documentation/figures

Takes the models of scripts/study.py in FOLDER (trains what is missing), predicts the test cases
(hippocampus: with simulated shifts) in one pass without mirroring, evaluates each method and
compares them. Figures of single cases show images of patients and stay in FOLDER.
"""

import argparse
import logging
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from study import STUDIES, TRAINERS, Study, test_cases, train_model, write_small_plans

from nnunetv2_le.cli import compare, evaluate, predict_from_modelfolder

METHODS = dict(zip(("stock", "layer_ensemble"), TRAINERS, strict=True))
SHOWN = ("consensus_dice", "soft_dice")
ALONE = ("risk_coverage", "quality_control_dice_0.8", "skip_heads")
SCORES = ("aula_normalized", "consensus_dice", "soft_dice", "entropy_foreground_mean")


def write_input(study: Study, folder: Path, work: Path) -> None:
    """Images and references in nnU-Net's naming, and a table of the cases."""
    raw = Path(os.environ["nnUNet_raw"]) / study.dataset
    given = pd.read_csv(raw / "cases.csv", dtype=str).set_index("case") if _is_lidc(study) else None
    rows = []
    for sub in ("images", "labels"):
        (work / sub).mkdir(parents=True, exist_ok=True)
    for name, part, image, label in test_cases(study, folder):
        ending = "".join(label.suffixes)
        _link(image, work / "images" / f"{name}_0000{ending}")
        if _is_lidc(study):
            for rater in sorted((raw / "ratersTs").glob(f"{name}_r*{ending}")):
                _link(rater, work / "labels" / rater.name)
        else:
            _link(label, work / "labels" / f"{name}{ending}")
        patient = given.loc[name, "patient"] if given is not None else label.name
        rows.append({"case": name, "domain": part, "patient": patient})
    pd.DataFrame(rows).to_csv(work / "cases.csv", index=False)


def _is_lidc(study: Study) -> bool:
    return study is STUDIES["lidc"]


def _link(source: Path, target: Path) -> None:
    if not target.exists():
        target.symlink_to(source.resolve())


def call(main: Callable[[Sequence[str]], int], *arguments: object) -> None:
    """Run a command in this process; its own line says what went wrong."""
    if main([str(argument) for argument in arguments]) != 0:
        raise SystemExit(1)


def run(study: Study, folder: Path, *, seed: int, figures: Path | None) -> None:
    """Everything for one data set."""
    work = folder / "compare" / study.dataset
    write_small_plans(study)
    write_input(study, folder, work)
    common = ["-ref", work / "labels", "-cases", work / "cases.csv", "-domain", "domain"]
    common += ["-patient", "patient", "-scores", *SCORES, "-np", 2]
    for name, trainer in METHODS.items():
        model = train_model(study, trainer, seed=seed, folder=folder)
        options = ["-i", work / "images", "-o", work / name, "-m", model, "-f", study.fold]
        options += ["-device", "cpu", "--disable_tta", "--save_probabilities", "-npp", 1, "-nps", 1]
        call(predict_from_modelfolder.main, *options, "--continue_prediction")
        more = ["--skip_heads", "-m", model] if name == "layer_ensemble" else []
        call(evaluate.main, "-pred", work / name, "-i", work / "images", *common, *more)
    predictions = [f"{name}={work / name}" for name in METHODS]
    call(compare.main, "-pred", *predictions, "-o", work / "compared", *common)
    if figures is not None:
        figures.mkdir(parents=True, exist_ok=True)
        compared, alone = work / "compared", work / "layer_ensemble" / "evaluation"
        for file in (
            *(compared / "figures" / score / "risk_coverage.png" for score in SHOWN),
            compared / "figures" / "reliability.png",
            *(alone / "figures" / f"{name}.png" for name in ALONE),
        ):
            parts = (
                study.dataset.split("_")[1].lower(),
                file.relative_to(work).parts[0],
                *file.parts[-2:],
            )
            name = "_".join(part for part in parts if part != "figures")
            shutil.copy(file, figures / name)


def main() -> int:
    """Run it for one data set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=sorted(STUDIES))
    parser.add_argument("-o", type=Path, required=True, help="working folder of scripts/study.py")
    parser.add_argument("-seed", type=int, default=1)
    parser.add_argument("-figures", type=Path, help="where figures without images go")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    study, folder = STUDIES[arguments.study], arguments.o.resolve()
    run(study, folder, seed=arguments.seed, figures=arguments.figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
