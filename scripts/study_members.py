#!/usr/bin/env python3
"""Families of members side by side on real data: the table of documentation/results.md.

    export nnUNet_raw=... nnUNet_preprocessed=... OMP_WAIT_POLICY=PASSIVE
    python scripts/study_members.py hippocampus -o FOLDER -methods stock layer_ensemble -seeds 0 1 2
    python scripts/study_members.py hippocampus -o FOLDER --table

Trains what FOLDER lacks (as scripts/study.py does), predicts the test cases with each method and
each seed, and keeps a record of every case, so that a run goes on where it stopped. ``--table``
reads what is there. A deep ensemble takes the models of all seeds at once.
"""

import argparse
import json
import logging
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.ndimage import binary_dilation
from scipy.stats import spearmanr
from study import (
    CLEAN,
    STOCK,
    STUDIES,
    Study,
    _read,
    mean_dice,
    test_cases,
    train_folds,
    write_small_plans,
)
from study_compare import call
from study_decisions import copied
from tqdm import tqdm

from nnunetv2_le.calibration.applying import calibrated_predictor
from nnunetv2_le.cli import calibrate
from nnunetv2_le.evaluation.bootstrap import draw_counts, percentile_interval
from nnunetv2_le.evaluation.calibration_error import CalibrationHistogram
from nnunetv2_le.evaluation.failure_detection import aurc, excess_aurc
from nnunetv2_le.inference.prediction import CasePrediction
from nnunetv2_le.inference.predictor import LayerEnsemblePredictor
from nnunetv2_le.inference.settings import PredictionSettings
from nnunetv2_le.uncertainty.agreement import aula_normalized, layer_agreement

ROI_MARGIN_VOXELS = 5
PATIENT = re.compile(r"hippocampus_\d+|LIDC\d+")


@dataclass(frozen=True)
class Method:
    """How a prediction gets its members.

    Attributes:
        trainer: of the models.
        families: members; None takes heads and mirrors.
        mirroring: nnU-Net's mirroring, or one pass.
        checkpoints: name or pattern.
        is_ensemble: the models of all seeds together, instead of one after another.
        folds: of one model folder, together.
        is_calibrated: by nnUNetv2_le_calibrate on the validation cases of the folds, a copy of the
            model; its predicted Dice is one more score.
    """

    trainer: str
    families: tuple[str, ...] | None = None
    mirroring: bool = False
    checkpoints: str = "checkpoint_final.pth"
    is_ensemble: bool = False
    folds: tuple[int, ...] = (0,)
    is_calibrated: bool = False


LAYERS = "LayerEnsembleTrainer"
METHODS = {
    "stock_single": Method(STOCK, ("heads",)),
    "stock": Method(STOCK, mirroring=True),
    "layer_ensemble_single": Method(LAYERS, ("heads",)),
    "layer_ensemble": Method(LAYERS, mirroring=True),
    "layer_ensemble_calibrated": Method(LAYERS, mirroring=True, is_calibrated=True),
    "full_gradient_calibrated": Method(
        "LayerEnsembleTrainerFullGradient", mirroring=True, is_calibrated=True
    ),
    "stock_calibrated": Method(STOCK, mirroring=True, is_calibrated=True),
    "full_gradient_single": Method("LayerEnsembleTrainerFullGradient", ("heads",)),
    "probes_single": Method("LayerEnsembleTrainerProbes", ("heads",)),
    "decoder_heads_single": Method("LayerEnsembleTrainerDecoderHeads", ("heads",)),
    "full_gradient": Method("LayerEnsembleTrainerFullGradient", mirroring=True),
    "retrofit_single": Method("LayerEnsembleTrainerFrozen", ("heads",)),
    "retrofit": Method("LayerEnsembleTrainerFrozen", mirroring=True),
    "multi_head_single": Method("MultiHeadTrainer", ("multi_head",)),
    "checkpoints_single": Method(
        "CyclicLearningRateTrainer", ("checkpoints",), checkpoints="checkpoint_cycle*.pth"
    ),
    "dropout_single": Method("DropoutTrainer", ("dropout",)),
    "deep_ensemble_single": Method(STOCK, ("models",), is_ensemble=True),
    "deep_ensemble": Method(STOCK, ("models", "mirrors"), mirroring=True, is_ensemble=True),
    "layer_ensembles_3": Method(
        LAYERS, ("heads", "mirrors", "models"), mirroring=True, is_ensemble=True
    ),
    "layer_ensemble_folds": Method(
        LAYERS, ("heads", "mirrors", "folds"), mirroring=True, folds=(0, 1, 2, 3, 4)
    ),
}


def predict(
    study: Study, method: Method, *, models: list[Path], cases: list[Any], file: Path
) -> list[dict[str, Any]]:
    """A record a case, and one of the calibration over all cases, in a file."""
    settings = PredictionSettings(families=method.families, use_mirroring=method.mirroring, maps=())
    load = LayerEnsemblePredictor.from_model_folder
    if method.is_calibrated:
        load = calibrated_predictor
        models = [calibrated_copy(study, model, method.folds) for model in models]
    predictor = load(
        models,
        settings,
        folds=method.folds,
        checkpoint_name=method.checkpoints,
        show_progress=False,
    )
    records = []
    for name, part, image, label in tqdm(cases, desc=file.stem):
        begin = time.process_time()
        prediction = predictor.predict_files([image])
        seconds = time.process_time() - begin
        reference = _read(label)
        segmentation = prediction.segmentation()
        scores = dict(prediction.scores.scores)
        if predictor.judge is not None:
            scores["predicted_dice"] = predictor.judge.judge(prediction).numbers["predicted_dice"]
        records.append(
            {
                "case": name,
                "part": part,
                "dice": mean_dice(segmentation, reference, prediction.labels.values),
                **dice_of_raters(segmentation, label, prediction.labels.values),
                "seconds": seconds,
                **calibration(prediction.probabilities(), reference, segmentation),
                "scores": {key: None if np.isnan(v) else v for key, v in scores.items()}
                | aula_by_skipped(prediction),
            }
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(records))
    return records


def calibrated_copy(study: Study, model: Path, folds: tuple[int, ...]) -> Path:
    """A copy of a model, calibrated by the command on the cases that its folds left out."""
    copy = copied(model, model.parents[1] / "calibrated" / model.name, folds)
    patients = Path(os.environ["nnUNet_raw"]) / study.dataset / "cases.csv"
    options = ("-cases", patients) if patients.is_file() else ()
    call(calibrate.main, "-m", copy, "-f", *folds, "-device", "cpu", *options)
    return copy


def dice_of_raters(
    segmentation: np.ndarray, label: Path, values: tuple[int, ...]
) -> dict[str, float]:
    """Mean Dice with each rater's outline; one who drew none counts 0 where we draw one."""
    case = label.name.split(".")[0]
    raters = [_read(file) for file in sorted(label.parents[1].glob(f"ratersTs/{case}_r*"))]
    if not raters:
        return {}
    return {"dice_raters": float(np.mean([mean_dice(segmentation, r, values) for r in raters]))}


def aula_by_skipped(prediction: CasePrediction) -> dict[str, float | None]:
    """AULA that leaves out the first heads, 1 to all but two; nothing without heads."""
    heads = next((family for family in prediction.plan.families if family.ordered), None)
    if heads is None:
        return {}
    values = {}
    for skipped in range(1, len(heads.members) - 1):
        curve = layer_agreement(
            prediction.accumulated.counts, prediction.plan.numbers(heads), skipped
        )
        value = float(aula_normalized(curve).mean())
        is_empty = prediction.scores.empty_prediction
        values[f"aula_normalized_skip_heads_{skipped}"] = None if is_empty else value
    return values


def calibration(
    probabilities: np.ndarray, reference: np.ndarray, segmentation: np.ndarray
) -> dict[str, float]:
    """Negative log-likelihood and expected calibration error around the structures."""
    interest = binary_dilation((reference > 0) | (segmentation > 0), iterations=ROI_MARGIN_VOXELS)
    histogram = CalibrationHistogram(len(probabilities), has_regions=False)
    histogram.add(probabilities[:, interest], reference[interest].astype(np.int32))
    figures = histogram.figures()
    return {"roi_nll": float(figures.nll), "roi_ece": float(figures.ece)}


def rows(method: str, seed: str, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a score of one model."""
    dice = np.array([record["dice"] for record in records])
    clean = np.array([record["part"] in CLEAN for record in records])
    raters = np.array([record.get("dice_raters", np.nan) for record in records])
    common = {
        "method": method,
        "seed": seed,
        "dice_clean": dice[clean].mean(),
        "dice_all": dice.mean(),
        "roi_nll": np.mean([record["roi_nll"] for record in records]),
        "roi_ece": np.mean([record["roi_ece"] for record in records]),
        "seconds": np.median([record["seconds"] for record in records]),
    }
    result = []
    for score in records[0]["scores"]:
        sign = 1.0 if score.endswith("_dice") or score.startswith("aula") else -1.0
        if sign < 0 and not score.endswith("_foreground_mean"):
            continue
        values = np.array([record["scores"][score] for record in records], dtype=float)
        if np.isnan(values).all():
            continue
        values = np.where(np.isnan(values), np.nanmin(sign * values) * sign, values)
        result.append(
            {
                **common,
                "score": score,
                "spearman_all": sign * spearmanr(values, dice).statistic,
                "spearman_raters": sign * spearmanr(values, raters).statistic,
                "spearman_clean": sign * spearmanr(values[clean], dice[clean]).statistic,
                "aurc": aurc(1 - dice, sign * values),
                "excess_aurc": excess_aurc(1 - dice, sign * values),
            }
        )
    return result


def table(study: Study, folder: Path) -> pd.DataFrame:
    """Means over seeds of all that was predicted; the single seeds go to a file."""
    found = []
    for file in sorted((folder / "members").glob(f"{study.dataset}__*.json")):
        _, method, seed = file.stem.split("__")
        found += rows(method, seed, json.loads(file.read_text()))
    every = pd.DataFrame(found)
    every.to_csv(folder / f"{study.dataset}_members.csv", index=False)
    means = every.drop(columns="seed").groupby(["method", "score"], sort=False).mean()
    means["seeds"] = every.groupby(["method", "score"], sort=False).size()
    return means.reset_index()


def intervals(study: Study, folder: Path, scores: Sequence[str]) -> pd.DataFrame:
    """How far Spearman's correlation, mean over seeds, would move with other patients (95 %)."""
    found: dict[tuple[str, str, str], list[np.ndarray]] = {}
    for file in sorted((folder / "members").glob(f"{study.dataset}__*.json")):
        method = file.stem.split("__")[1]
        records = json.loads(file.read_text())
        for part in ("all", "clean"):
            kept = [r for r in records if part == "all" or r["part"] in CLEAN]
            dice = np.array([record["dice"] for record in kept])
            counts = draw_counts(
                len(kept), patients=[PATIENT.match(record["case"])[0] for record in kept]
            )
            for score in set(scores) & set(records[0]["scores"]):
                values = np.array([record["scores"][score] for record in kept], dtype=float)
                if np.isnan(values).all():
                    continue
                defined = np.where(np.isnan(values), np.nanmin(values), values)
                draws = [
                    spearmanr(np.repeat(defined, draw), np.repeat(dice, draw)).statistic
                    for draw in counts
                ]
                found.setdefault((method, score, part), []).append(np.array(draws))
    rows = []
    for names, draws in found.items():
        interval = percentile_interval(np.mean(draws, axis=0))
        rows.append([*names, len(draws), interval.low, interval.high])
    return pd.DataFrame(rows, columns=["method", "score", "part", "seeds", "low", "high"])


def main() -> None:
    """Train, predict, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("-o", type=Path, required=True)
    parser.add_argument("-methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("-seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "-intervals", nargs="+", default=[], help="agreement scores: bootstrap of patients"
    )
    parser.add_argument("--table", action="store_true", help="only print what was predicted")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    study = STUDIES[arguments.study]
    if not arguments.table:
        write_small_plans(study)
        cases = list(test_cases(study, arguments.o))
        for name in arguments.methods:
            method = METHODS[name]
            groups = [arguments.seeds] if method.is_ensemble else [[s] for s in arguments.seeds]
            for seeds in groups:
                seed = "+".join(map(str, seeds))
                file = arguments.o / "members" / f"{study.dataset}__{name}__seed{seed}.json"
                if not file.is_file():
                    models = [
                        train_folds(study, method.trainer, method.folds, seed=s, folder=arguments.o)
                        for s in seeds
                    ]
                    predict(study, method, models=models, cases=cases, file=file)
    pd.set_option("display.width", 250, "display.max_rows", 500, "display.max_columns", 20)
    sys.stdout.write(table(study, arguments.o).round(4).to_string(index=False) + "\n")
    if arguments.intervals:
        found = intervals(study, arguments.o, arguments.intervals)
        sys.stdout.write(found.round(3).to_string(index=False) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("nnUNet_compile", "f")
    main()
