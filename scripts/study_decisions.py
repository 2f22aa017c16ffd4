#!/usr/bin/env python3
"""Calibrated decisions by command, on real data: "Calibration by the commands" in results.md.

    export nnUNet_raw=... nnUNet_preprocessed=...
    python scripts/study_decisions.py -o FOLDER
    python scripts/study_decisions.py -o FOLDER -parts folds

Takes the hippocampus layer ensemble of scripts/study_members.py in FOLDER (trains what is missing),
copies it into FOLDER/decisions, calibrates the copy with nnUNetv2_le_calibrate, and predicts with
it what the calibration has not seen.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk
from sklearn.metrics import roc_auc_score
from study import STUDIES, _read, mean_dice, train_folds, write_small_plans
from study_compare import call, write_input

from nnunetv2_le.cli import calibrate, predict_from_modelfolder

STUDY = STUDIES["hippocampus"]
TRAINER = "LayerEnsembleTrainer"
LABELS = (1, 2)
FOLDS = (0, 1, 2, 3, 4)
CALIBRATED_KINDS = ("clean", "noise", "blur", "ghosting")
CONTOUR_SHARES = (0.0, 0.01, 0.05)
TOLERANCE = 0.7
NUM_CHANGED = 30  # images that are made unlike the known ones
CHANGES: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "as it is": lambda image, rng: image,
    "inverted contrast": lambda image, rng: image.max() + image.min() - image,
    "turned by 90 degrees": lambda image, rng: np.rot90(image, axes=(1, 2)),
    "noise": lambda image, rng: rng.normal(image.mean(), image.std(), image.shape),
}


def copied_model(work: Path, part: str, folder: Path, *, seed: int, folds: tuple[int, ...]) -> Path:
    """The trained model in a folder of its own, because calibration writes beside the model."""
    model = train_folds(STUDY, TRAINER, folds, seed=seed, folder=folder)
    return copied(model, work / part / model.name, folds)


def copied(model: Path, copy: Path, folds: tuple[int, ...]) -> Path:
    """What a prediction needs of a model folder."""
    for name in ("plans.json", "dataset.json", *(f"fold_{f}/checkpoint_final.pth" for f in folds)):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(model / name, copy / name)
    return copy


def chosen_cases(cases: Path, chosen: pd.DataFrame, work: Path) -> Path:
    """Links to the images and references of some cases, and their table."""
    for sub, ending in (("images", "_0000.nii.gz"), ("labels", ".nii.gz")):
        (work / sub).mkdir(parents=True, exist_ok=True)
        for case in chosen["case"]:
            link = work / sub / f"{case}{ending}"
            if not link.exists():
                link.symlink_to((cases / sub / link.name).resolve())
    chosen.to_csv(work / "cases.csv", index=False)
    return work


def fit(model: Path, *options: object) -> None:
    """Calibrate; the report goes to the screen."""
    call(calibrate.main, "-m", model, "-device", "cpu", "-npp", 1, "-nps", 1, *options)


def predicted(model: Path, cases: Path, *options: object) -> pd.DataFrame:
    """The table of a prediction by command, with Dice where there are references."""
    out = model.parent / f"out_{cases.name}"
    common = ["-device", "cpu", "-npp", 1, "-nps", 1, "--continue_prediction", *options]
    arguments = ["-m", model, "-i", cases / "images", "-o", out, *common]
    call(predict_from_modelfolder.main, *arguments)
    table = pd.read_csv(out / "uncertainty.csv", dtype={"case": str})
    if (cases / "labels").is_dir():
        table["dice"] = [
            mean_dice(
                _read(out / f"{case}.nii.gz"), _read(cases / "labels" / f"{case}.nii.gz"), LABELS
            )
            for case in table["case"]
        ]
    return table


def judged(table: pd.DataFrame) -> dict[str, float]:
    """How the decisions on new cases turned out; every case counts once."""
    poor, flagged = table["dice"] < TOLERANCE, table["flag"] != "ok"
    return {
        "cases": len(table),
        "poor": poor.mean(),
        "poor and not flagged": (poor & ~flagged).mean(),
        "flagged": flagged.mean(),
        "as out of distribution": (table["flag"] == "out_of_distribution").mean(),
        "reaches its lower bound": (table["dice"] >= table["predicted_dice_lower"]).mean(),
        "error of predicted Dice": (table["dice"] - table["predicted_dice"]).abs().mean(),
        "error of their mean": (table["dice"] - table["dice"].mean()).abs().mean(),
    }


def show(rows: dict[str, dict[str, float]]) -> None:
    """Print a row a group of cases."""
    sys.stdout.write(f"{pd.DataFrame(rows).T.round(4).to_string()}\n")


def held_out(work: Path, cases: Path, folder: Path, seed: int) -> None:
    """All 60 patients calibrate, clean and shifted; the command's own held-out figures."""
    model = copied_model(work, "held_out", folder, seed=seed, folds=(0,))
    where = ("-i", cases / "images", "-ref", cases / "labels", "-cases", cases / "cases.csv")
    for share in CONTOUR_SHARES:
        sys.stdout.write(f"\ncontours may leave out {share:g} of the voxels\n")
        options = ("-contour_share", share, "-tolerance", TOLERANCE, "--disable_tta")
        fit(model, "-f", 0, *where, *options)


def other_shifts(work: Path, cases: Path, folder: Path, seed: int) -> None:
    """Patients with three kinds of shift calibrate; the others have three other kinds."""
    table = pd.read_csv(cases / "cases.csv", dtype=str)
    has_known_kind = table["domain"].isin(CALIBRATED_KINDS)
    calibrates = has_known_kind.groupby(table["patient"]).transform("all")
    known = chosen_cases(cases, table[calibrates], work / "known_shifts")
    new = chosen_cases(cases, table[~calibrates], work / "other_shifts")
    model = copied_model(work, "other_shifts_model", folder, seed=seed, folds=(0,))
    where = ("-i", known / "images", "-ref", known / "labels", "-cases", known / "cases.csv")
    fit(model, "-f", 0, *where, "-tolerance", TOLERANCE, "--disable_tta")
    result = predicted(model, new, "-f", 0, "--disable_tta")
    is_clean = result["case"].map(table.set_index("case")["domain"]) == "clean"
    show({"clean": judged(result[is_clean]), "other shifts": judged(result[~is_clean])})


def out_of_distribution(work: Path, cases: Path, folder: Path, seed: int) -> None:
    """The validation cases of the fold calibrate; test images against the same, changed."""
    model = copied_model(work, "out_of_distribution", folder, seed=seed, folds=(0,))
    fit(model, "-f", 0, "-tolerance", TOLERANCE)
    table = pd.read_csv(cases / "cases.csv", dtype=str).query("domain == 'clean'")
    tables = {}
    for name, change in CHANGES.items():
        changed = work / name.replace(" ", "_")
        (changed / "images").mkdir(parents=True, exist_ok=True)
        for number, case in enumerate(table["case"].head(NUM_CHANGED)):
            image = sitk.ReadImage(str(cases / "images" / f"{case}_0000.nii.gz"), sitk.sitkFloat32)
            array = change(sitk.GetArrayFromImage(image), np.random.default_rng(number))
            result = sitk.GetImageFromArray(array.astype(np.float32))
            result.SetSpacing(image.GetSpacing())
            sitk.WriteImage(result, str(changed / "images" / f"{case}_0000.nii.gz"))
        tables[name] = predicted(model, changed, "-f", 0)
    usual = tables["as it is"]
    rows = {}
    for name, found in tables.items():
        is_changed = np.repeat([False, True], [len(usual), len(found)])
        areas = {
            f"AUROC of {column}": roc_auc_score(is_changed, pd.concat([usual, found])[column])
            for column in ("out_of_distribution", "out_of_distribution_nearest")
        }
        rows[name] = areas | {"flagged": (found["flag"] == "out_of_distribution").mean()}
    show(rows)


def folds(work: Path, cases: Path, folder: Path, seed: int) -> None:
    """Five folds calibrate, each on its own validation cases, and predict together."""
    model = copied_model(work, "folds", folder, seed=seed, folds=FOLDS)
    fit(model, "-f", *FOLDS, "-tolerance", TOLERANCE, "--disable_tta")
    table = pd.read_csv(cases / "cases.csv", dtype=str).query("domain == 'clean'")
    clean = chosen_cases(cases, table, work / "clean")
    show({"clean": judged(predicted(model, clean, "-f", *FOLDS, "--disable_tta"))})


PARTS = {part.__name__: part for part in (held_out, other_shifts, out_of_distribution, folds)}


def main() -> int:
    """Run the parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", type=Path, required=True, help="working folder of the other studies")
    parser.add_argument("-seed", type=int, default=1)
    parser.add_argument("-parts", nargs="+", choices=PARTS, default=list(PARTS))
    arguments = parser.parse_args()
    folder = arguments.o.resolve()
    cases, work = folder / "compare" / STUDY.dataset, folder / "decisions"
    write_small_plans(STUDY)
    write_input(STUDY, folder, cases)
    for name in arguments.parts:
        sys.stdout.write(f"\n== {name}: {PARTS[name].__doc__}\n")
        PARTS[name](work, cases, folder, arguments.seed)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("nnUNet_compile", "f")
    sys.exit(main())
