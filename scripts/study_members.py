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
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.ndimage import binary_dilation
from study import (
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
from study_members_table import intervals, table
from tqdm import tqdm

from nnunetv2_le.calibration.applying import calibrated_predictor
from nnunetv2_le.calibration.model_identity import use_fused_heads
from nnunetv2_le.cli import calibrate
from nnunetv2_le.evaluation.calibration_error import CalibrationHistogram
from nnunetv2_le.inference.ensemble import load_ensemble
from nnunetv2_le.inference.prediction import CasePrediction
from nnunetv2_le.inference.predictor import LayerEnsemblePredictor
from nnunetv2_le.inference.settings import PredictionSettings
from nnunetv2_le.uncertainty.agreement import aula_normalized, layer_agreement

ROI_MARGIN_VOXELS = 5


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


def load(
    study: Study, method: Method, models: list[Path], num_fused_heads: int | None
) -> LayerEnsemblePredictor:
    """The models of a method; ``num_fused_heads`` None leaves the choice to the model."""
    settings = PredictionSettings(families=method.families, use_mirroring=method.mirroring, maps=())
    if method.is_calibrated:
        copies = [calibrated_copy(study, model, method.folds) for model in models]
        return calibrated_predictor(copies, settings, folds=method.folds, show_progress=False)
    ensemble = load_ensemble(models, folds=method.folds, checkpoint_name=method.checkpoints)
    if num_fused_heads is not None:
        for model in ensemble.models:
            use_fused_heads(model, num_fused_heads)
    return LayerEnsemblePredictor(ensemble, settings, show_progress=False)


def predict(
    predictor: LayerEnsemblePredictor, *, cases: list[Any], file: Path
) -> list[dict[str, Any]]:
    """A record a case, and one of the calibration over all cases, in a file."""
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


def run(
    study: Study,
    name: str,
    seeds: list[int],
    num_fused_heads: int | None,
    *,
    cases: list[Any],
    folder: Path,
) -> None:
    """Train and predict what there is no record of."""
    method = METHODS[name]
    variant = f"_fused_{num_fused_heads}" if num_fused_heads else ""
    record = f"{study.dataset}__{name}{variant}__seed{'+'.join(map(str, seeds))}.json"
    file = folder / "members" / record
    if file.is_file():
        return
    models = [
        train_folds(study, method.trainer, method.folds, seed=seed, folder=folder) for seed in seeds
    ]
    predict(load(study, method, models, num_fused_heads), cases=cases, file=file)


def main() -> None:
    """Train, predict, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("-o", type=Path, required=True)
    parser.add_argument("-methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("-seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "-fused_heads",
        type=int,
        help="how many of the last heads make the segmentation of models without calibration",
    )
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
            groups = [[s] for s in arguments.seeds]
            if METHODS[name].is_ensemble:
                groups = [arguments.seeds]
            for seeds in groups:
                run(study, name, seeds, arguments.fused_heads, cases=cases, folder=arguments.o)
    pd.set_option("display.width", 250, "display.max_rows", 500, "display.max_columns", 20)
    sys.stdout.write(table(study, arguments.o).round(4).to_string(index=False) + "\n")
    if arguments.intervals:
        found = intervals(study, arguments.o, arguments.intervals)
        sys.stdout.write(found.round(3).to_string(index=False) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("nnUNet_compile", "f")
    main()
