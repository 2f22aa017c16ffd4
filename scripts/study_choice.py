#!/usr/bin/env python3
"""When should predicted Dice leave its first score? Rules side by side, on random splits.

    python scripts/study_choice.py FOLDER/members/*.json -patients 50

Records are those of ``scripts/study_members.py``. In each split some patients are labelled and the
others are judged. A rule is how many standard errors another score, and all scores together, have
to be better by. Printed: mean absolute error of predicted Dice over that of predicting the mean,
and its Spearman correlation with Dice.
"""

import argparse
import json
import sys
from pathlib import Path
from unittest import mock

import numpy as np
from scipy.stats import spearmanr
from study_members_table import PATIENT

from nnunetv2_le.calibration import dice_models
from nnunetv2_le.calibration.predicted_dice import MAIN_SCORES, is_of_linear_model

RULES = {"1, 1": (1, 1), "2, 1": (2, 1), "2, 2": (2, 2), "never, 1": (np.inf, 1)}
MOSTLY = 0.9  # a score that fewer cases have is left out


def read(file: Path) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Scores, Dice and patients of the cases that have all of them."""
    rows = json.loads(file.read_text())
    names = [name for name in rows[0]["scores"] if name in MAIN_SCORES or is_of_linear_model(name)]
    numbers = np.array([[row["scores"].get(name) for name in names] for row in rows], dtype=float)
    kept = np.isfinite(numbers).mean(axis=0) > MOSTLY
    names, numbers = [n for n, keep in zip(names, kept, strict=True) if keep], numbers[:, kept]
    dice = np.array([row["dice"] for row in rows], dtype=float)
    patients = np.array([PATIENT.match(row["case"])[0] for row in rows])
    usable = np.isfinite(numbers).all(axis=1) & np.isfinite(dice)
    scores = dict(zip(names, numbers[usable].T, strict=True))
    return scores, dice[usable], np.unique(patients[usable], return_inverse=True)[1]


def judge(file: Path, num_patients: int, num_splits: int) -> dict[str, np.ndarray]:
    """Relative error and correlation of each rule, mean over splits."""
    scores, dice, groups = read(file)
    candidates = tuple(name for name in MAIN_SCORES if name in scores)
    columns = tuple(name for name in scores if is_of_linear_model(name))
    generator = np.random.default_rng(0)
    found: dict[str, list[tuple[float, float]]] = {rule: [] for rule in RULES}
    for split in range(num_splits):
        labelled = generator.permutation(np.unique(groups))[:num_patients]
        known = np.flatnonzero(np.isin(groups, labelled))
        asked = np.flatnonzero(~np.isin(groups, labelled))
        for rule, (of_score, of_all) in RULES.items():
            with mock.patch.multiple(dice_models, CLEAR_SCORE=of_score, CLEAR_ALL=of_all):
                model = dice_models.choose_model(
                    dice_models.rows(scores, known),
                    dice[known],
                    groups=groups[known],
                    candidates=candidates,
                    columns=columns,
                    seed=split,
                )
            said = dice_models.dice_of(model.predict(dice_models.rows(scores, asked)))
            baseline = np.abs(dice[asked] - dice[known].mean()).mean()
            error = np.abs(said - dice[asked]).mean() / baseline
            found[rule].append((error, spearmanr(said, dice[asked]).statistic))
    return {rule: np.mean(values, axis=0) for rule, values in found.items()}


def main() -> int:
    """Print a row a record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("records", nargs="+", type=Path)
    parser.add_argument("-patients", type=int, default=50, help="labelled patients")
    parser.add_argument("-splits", type=int, default=60)
    request = parser.parse_args()
    print("| record |" + "".join(f" {rule} |" for rule in RULES))
    print("|---|" + "---|" * len(RULES))
    for file in request.records:
        found = judge(file, request.patients, request.splits)
        cells = (f" {error:.3f}, {correlation:.3f} |" for error, correlation in found.values())
        print(f"| {file.stem} |" + "".join(cells), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
