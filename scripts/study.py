#!/usr/bin/env python3
"""The studies behind documentation/results.md: train, predict and score on real data.

One command a data set:

    export nnUNet_raw=... nnUNet_preprocessed=... OMP_WAIT_POLICY=PASSIVE
    python scripts/study.py hippocampus -o FOLDER
    python scripts/study.py lidc -o FOLDER

Trains each trainer with each seed (what FOLDER holds already is kept), predicts the test cases
(hippocampus: also with simulated shifts; LIDC: the other vendor), and prints the tables. All is
computed by the package's own functions.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk
from nnunetv2.experiment_planning import plan_and_preprocess_api as api
from nnunetv2.utilities.dataset_name_id_conversion import convert_dataset_name_to_id
from scipy.stats import spearmanr
from tqdm import tqdm

from nnunetv2_le.cli import train
from nnunetv2_le.demo.shifts import SHIFTS
from nnunetv2_le.evaluation.failure_detection import aurc, excess_aurc
from nnunetv2_le.inference.prediction import CasePrediction
from nnunetv2_le.inference.predictor import LayerEnsemblePredictor
from nnunetv2_le.inference.settings import PredictionSettings

logger = logging.getLogger("study")

STOCK = "nnUNetTrainer"
TRAINERS = (STOCK, "LayerEnsembleTrainer")


@dataclass(frozen=True)
class Study:
    """A data set and the budget of its trainings."""

    dataset: str
    configuration: str
    features: tuple[int, ...]
    batch_size: int
    num_epochs: int = 20
    num_iterations_per_epoch: int = 50
    fold: str = "0"


STUDIES = {
    "hippocampus": Study("Dataset004_Hippocampus", "3d_fullres", (16, 32, 64, 128), 2),
    "lidc": Study("Dataset101_LIDC", "2d", (16, 32, 64, 128, 256, 256), 16),
}
PLANS = "smallPlans"
SHIFTS_PER_CASE = 3


def write_small_plans(study: Study) -> None:
    """nnU-Net's own plans with fewer features and a smaller batch, made where they are missing."""
    folder = Path(os.environ["nnUNet_preprocessed"]) / study.dataset
    if not (folder / "nnUNetPlans.json").is_file():
        number = convert_dataset_name_to_id(study.dataset)
        api.extract_fingerprints([number], num_processes=2)
        api.plan_experiments([number])
        api.preprocess([number], configurations=[study.configuration], num_processes=[2])
    splits = Path(os.environ["nnUNet_raw"]) / study.dataset / "splits_final.json"
    if splits.is_file():
        (folder / splits.name).write_bytes(splits.read_bytes())
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    configuration = plans["configurations"][study.configuration]
    configuration["batch_size"] = study.batch_size
    configuration["architecture"]["arch_kwargs"]["features_per_stage"] = list(study.features)
    plans |= {"plans_name": PLANS, "configurations": {study.configuration: configuration}}
    (folder / f"{PLANS}.json").write_text(json.dumps(plans, indent=1))


def train_model(study: Study, trainer: str, *, seed: int, folder: Path) -> Path:
    """Train one model, or find it trained; returns its folder."""
    os.environ["nnUNet_results"] = str(folder / f"seed{seed}")
    model = folder / f"seed{seed}" / study.dataset / f"{trainer}__{PLANS}__{study.configuration}"
    if not (model / f"fold_{study.fold}" / "checkpoint_final.pth").is_file():
        arguments = f"{study.dataset} {study.configuration} {study.fold} -tr {trainer} -p {PLANS}"
        arguments += f" -device cpu -seed {seed} -num_epochs {study.num_epochs}"
        arguments += f" -num_iterations_per_epoch {study.num_iterations_per_epoch}"
        arguments += " -num_val_iterations_per_epoch 2"
        if train.main(arguments.split()) != 0:
            raise SystemExit(f"Training {trainer} with seed {seed} failed.")
    return model


def train_folds(
    study: Study, trainer: str, folds: Sequence[int], *, seed: int, folder: Path
) -> Path:
    """Train folds of one model, or find them trained; returns the folder of all."""
    for fold in folds:
        model = train_model(replace(study, fold=str(fold)), trainer, seed=seed, folder=folder)
    return model


def test_cases(study: Study, folder: Path) -> Iterator[tuple[str, str, Path, Path]]:
    """Name, part, image and reference of every test case; shifted images are written once."""
    raw = Path(os.environ["nnUNet_raw"]) / study.dataset
    if study.dataset == STUDIES["lidc"].dataset:
        table = pd.read_csv(raw / "cases.csv").query("split != 'train'")
        for row in table.itertuples():
            yield (
                row.case,
                row.split,
                raw / f"imagesTs/{row.case}_0000.png",
                raw / f"labelsTs/{row.case}.png",
            )
        return
    kinds = list(SHIFTS)
    shifted = folder / "shifted"
    shifted.mkdir(parents=True, exist_ok=True)
    for number, label in enumerate(sorted((raw / "labelsTs").glob("*.nii.gz"))):
        name = label.name.removesuffix(".nii.gz")
        image = raw / "imagesTs" / f"{name}_0000.nii.gz"
        yield name, "clean", image, label
        for place in range(SHIFTS_PER_CASE):
            kind = kinds[(number * SHIFTS_PER_CASE + place) % len(kinds)]
            severity = 1 + (number // 2 + place) % 3
            path = shifted / f"{name}_{kind}{severity}_0000.nii.gz"
            if not path.is_file():
                _write_shifted(image, path, kind=kind, severity=severity, seed=number)
            yield f"{name}_{kind}{severity}", kind, path, label


def _write_shifted(image: Path, path: Path, *, kind: str, severity: int, seed: int) -> None:
    original = sitk.ReadImage(str(image), sitk.sitkFloat32)
    values = SHIFTS[kind](sitk.GetArrayFromImage(original), severity, np.random.default_rng(seed))
    result = sitk.GetImageFromArray(values.astype(np.float32))
    result.CopyInformation(original)
    sitk.WriteImage(result, str(path))


def predict_cases(
    study: Study, model: Path, *, mirroring: bool, folder: Path, cases: Any
) -> list[dict[str, Any]]:
    """A record a case: Dice (fused, every head, the last k heads fused) and all scores."""
    seed = model.parents[1].name
    trainer = model.name.split("__")[0]
    file = (
        folder
        / "records"
        / f"{study.dataset}_{trainer}_{seed}_{'mirrors' if mirroring else 'single'}.json"
    )
    if file.is_file():
        return json.loads(file.read_text())
    settings = PredictionSettings(save_heads=True, use_mirroring=mirroring, maps=())
    predictor = LayerEnsemblePredictor.from_model_folder(
        model, settings, folds=[int(study.fold)], show_progress=False
    )
    records = []
    for name, part, image, label in tqdm(cases, desc=file.stem):
        figures = case_figures(predictor.predict_files([image]), _read(label))
        records.append({"case": name, "part": part, **figures})
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(records))
    return records


def case_figures(prediction: CasePrediction, reference: np.ndarray) -> dict[str, Any]:
    """What a record says of a case."""
    labels, counts = prediction.labels.values, prediction.accumulated.counts
    probabilities = [prediction.probabilities(logits) for logits in _head_logits(prediction)]
    names = _heads(prediction).members
    return {
        "dice": mean_dice(prediction.segmentation(), reference, labels),
        "dice_heads": {
            head: mean_dice(p.argmax(0), reference, labels)
            for head, p in zip(names, probabilities, strict=True)
        },
        "dice_last": [
            mean_dice(sum(probabilities[-k:]).argmax(0), reference, labels)
            for k in range(1, len(names) + 1)
        ],
        "scores": {
            key: None if np.isnan(value) else value
            for key, value in prediction.scores.scores.items()
        },
        "empty": prediction.scores.empty_prediction,
        "pairs": counts.pairs.tolist(),
        "with_fused": counts.with_fused.tolist(),
        "fused": counts.fused.tolist(),
        "families": {family.name: len(family.members) for family in prediction.plan.families},
    }


def _heads(prediction: Any) -> Any:
    return next(family for family in prediction.plan.families if family.name == "heads")


def _head_logits(prediction: Any) -> Any:
    numbers = prediction.plan.numbers(_heads(prediction))
    return [prediction.accumulated.member_logits[number] for number in numbers]


def _read(path: Path) -> np.ndarray:
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    return array if array.ndim == 3 else array[None]


def mean_dice(prediction: np.ndarray, reference: np.ndarray, labels: tuple[int, ...]) -> float:
    """Mean over labels of Dice; a label that both leave empty counts 1."""
    values = []
    for label in labels:
        a, b = prediction == label, reference == label
        total = int(a.sum()) + int(b.sum())
        values.append(2 * int((a & b).sum()) / total if total else 1.0)
    return float(np.mean(values))


SCORES = (
    "aula_normalized",
    "consensus_dice",
    "heads_pairwise_dice",
    "heads_consensus_dice",
    "mirrors_pairwise_dice",
    "mirrors_consensus_dice",
    "entropy_foreground_mean",
    "heads_mutual_information_foreground_mean",
)
CLEAN = ("clean", "id_test")


def score_table(records: list[dict[str, Any]]) -> pd.DataFrame:
    """A row a score: how well it ranks the cases of one model. Undefined scores rank last."""
    dice = np.array([record["dice"] for record in records])
    clean = np.array([record["part"] in CLEAN for record in records])
    rows = []
    for score in SCORES:
        if score not in records[0]["scores"]:
            continue
        values = np.array([record["scores"][score] for record in records], dtype=float)
        confidences = -values if score.startswith(("entropy", "heads_mutual")) else values
        confidences = np.where(np.isnan(confidences), np.nanmin(confidences), confidences)
        rows.append(
            {
                "score": score,
                "spearman_all": spearmanr(confidences, dice)[0],
                "spearman_clean": spearmanr(confidences[clean], dice[clean])[0],
                "aurc": aurc(1 - dice, confidences),
                "excess_aurc": excess_aurc(1 - dice, confidences),
                "dice_clean": dice[clean].mean(),
                "dice_all": dice.mean(),
            }
        )
    return pd.DataFrame(rows)


def head_table(records: list[dict[str, Any]]) -> pd.DataFrame:
    """Mean Dice of each head, and of the last k heads fused, on clean and on all cases."""
    clean = [record for record in records if record["part"] in CLEAN]
    rows = []
    for name, part in (("clean", clean), ("all", records)):
        heads = pd.DataFrame([record["dice_heads"] for record in part]).mean()
        last = np.mean([record["dice_last"] for record in part], axis=0)
        fused = {f"last_{k}_fused": value for k, value in enumerate(last, 1)}
        rows.append({"cases": name, **heads.to_dict(), **fused})
    return pd.DataFrame(rows)


def run(study: Study, *, folder: Path, trainers: list[str], seeds: list[int]) -> None:
    """Everything: trainings, predictions, tables (CSV, and printed)."""
    write_small_plans(study)
    cases = list(test_cases(study, folder))
    scores, heads = [], []
    for trainer in trainers:
        for seed in seeds:
            model = train_model(study, trainer, seed=seed, folder=folder)
            for mirroring in (False, True):
                where = {"trainer": trainer, "mirroring": mirroring, "seed": seed}
                records = predict_cases(
                    study, model, mirroring=mirroring, folder=folder, cases=cases
                )
                scores.append(score_table(records).assign(**where))
                heads.append(head_table(records).assign(**where))
    for name, tables in (("scores", scores), ("heads", heads)):
        table = pd.concat(tables)
        table.to_csv(folder / f"{study.dataset}_{name}.csv", index=False)
        keys = ["trainer", "mirroring", "score" if name == "scores" else "cases"]
        means = table.drop(columns="seed").groupby(keys, sort=False).mean(numeric_only=True)
        sys.stdout.write(f"\n{means.round(4).to_string()}\n")


def main() -> int:
    """Run a study."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("study", choices=sorted(STUDIES))
    parser.add_argument("-o", type=Path, required=True, help="working folder, several GB")
    parser.add_argument("-trainers", nargs="+", default=list(TRAINERS))
    parser.add_argument("-seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments.o.mkdir(parents=True, exist_ok=True)
    folder = arguments.o.resolve()
    run(STUDIES[arguments.study], folder=folder, trainers=arguments.trainers, seeds=arguments.seeds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
