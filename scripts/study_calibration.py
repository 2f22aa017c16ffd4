#!/usr/bin/env python3
"""Do calibrated decisions hold on cases that were not calibrated on? 200 random splits.

    python scripts/study_calibration.py RECORDS... -o FOLDER

RECORDS: the JSON files of ``scripts/study.py`` (scores, Dice and the kind of shift of each case),
or ``cases.csv`` of ``nnUNetv2_le_evaluate`` with a column that says which cases are clean
(``-part``, ``-clean``). In each split one half of the patients calibrates and the other half is
judged, once calibrated on their clean cases alone, as a clinic would, and once on clean and shifted
ones. Judged are clean and shifted cases separately: coverage of the lower bound, mean absolute
error of predicted Dice beside that of predicting the mean, share of cases that are poor and not
flagged, workload.
"""

import argparse
import json
import logging
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from nnunetv2_le.calibration.cases import CalibrationCases, LabelCases
from nnunetv2_le.calibration.fit import PREDICTED_DICE, FittedDecisions, fit_decisions
from nnunetv2_le.calibration.groups import group_weights

logger = logging.getLogger("study_calibration")

CLEAN = ("clean", "id_test")
PATIENT = r"[A-Za-z]+_?\d+"


@dataclass(frozen=True)
class Records:
    """The cases of one model.

    Attributes:
        cases: with scores, Dice and patients.
        is_clean: which of them are not shifted.
    """

    cases: CalibrationCases
    is_clean: np.ndarray


@dataclass(frozen=True)
class Settings:
    """What is asked of the calibration."""

    level: float
    alpha: float
    tolerance: float
    flag_score: str
    num_splits: int


def read_records(path: Path, *, part_column: str, clean: tuple[str, ...], patient: str) -> Records:
    """Read one model's cases.

    Args:
        path: JSON of ``scripts/study.py`` or CSV of ``nnUNetv2_le_evaluate``.
        part_column: says where a case comes from.
        clean: its values for cases that are not shifted.
        patient: regular expression for the patient at the start of a case's name.
    """
    if path.suffix == ".json":
        records = json.loads(path.read_text())
        rows = [{**r["scores"], "case": r["case"], "dice": r["dice"], "part": r["part"]}
                for r in records]  # fmt: skip
        table = pd.DataFrame(rows)
        part_column = "part"
    else:
        table = pd.read_csv(path)
        if part_column not in table:
            raise SystemExit(f"{path} has no column {part_column}; name another with -part")
    found = [re.match(patient, name) for name in table["case"]]
    if None in found:
        raise SystemExit(
            f"-patient {patient!r} fits no start of {table['case'][found.index(None)]}"
        )
    numeric = table.select_dtypes("number").astype(float)
    scores = {name: numeric[name].to_numpy() for name in numeric if name != "dice"}
    return Records(
        CalibrationCases(
            cases=tuple(table["case"]),
            case=LabelCases(scores, numeric["dice"].to_numpy()),
            groups=tuple(match.group() for match in found),
        ),
        is_clean=table[part_column].isin(clean).to_numpy(),
    )


def study(records: Records, settings: Settings, *, name: str) -> list[dict[str, float | str]]:
    """Figures of every split."""
    patients = records.cases.group_numbers
    number = int(patients.max()) + 1
    rows: list[dict[str, float | str]] = []
    for split in tqdm(range(settings.num_splits), desc=name):
        drawn = np.random.default_rng(split).permutation(number)
        calibrates = np.isin(patients, drawn[: number // 2])
        for source, chosen in (
            ("clean", calibrates & records.is_clean),
            ("clean and shifted", calibrates),
        ):
            known = records.cases.subset(chosen)
            fitted = fit_decisions(
                known,
                tolerance=settings.tolerance,
                alpha=settings.alpha,
                level=settings.level,
                flag_score=settings.flag_score,
                seed=split,
            )
            mean = float(group_weights(known.group_numbers) @ known.case.dice)
            for part, judged in (
                ("clean", ~calibrates & records.is_clean),
                ("shifted", ~calibrates & ~records.is_clean),
                ("clean and shifted", ~calibrates),
            ):
                if judged.any():
                    figures = judge(fitted, records.cases.subset(judged), mean=mean)
                    rows.append(
                        {"records": name, "calibrated on": source, "judged on": part, **figures}
                    )
    return rows


def judge(
    fitted: FittedDecisions, cases: CalibrationCases, *, mean: float
) -> dict[str, float | str]:
    """Figures of one calibration on cases that it has not seen; patients count equally."""
    dice, weights = cases.case.dice, group_weights(cases.group_numbers)
    predicted = fitted.predicted_dice.predict(cases.case.scores)
    defined = np.isfinite(predicted.dice)
    shares = weights * defined / (weights @ defined)
    flag = fitted.flag
    score = predicted.dice if flag.score == PREDICTED_DICE else cases.case.scores[flag.score]
    flagged = flag.flags(np.asarray(score, dtype=float))
    poor = dice < flag.tolerance
    return {
        "coverage": float(shares @ (dice >= np.where(defined, predicted.lower, 0.0))),
        "bound below dice": float(shares @ np.where(defined, dice - predicted.lower, 0.0)),
        "mae": float(shares @ np.where(defined, np.abs(predicted.dice - dice), 0.0)),
        "mae of mean": float(shares @ np.abs(mean - dice)),
        "linear": float(fitted.predicted_dice.model.kind == "linear"),
        "poor": float(weights @ poor),
        "risk": float(weights @ (poor & ~flagged)),
        "workload": float(weights @ flagged),
        "expected workload": flag.workload,
    }


def summary(rows: list[dict[str, float | str]]) -> pd.DataFrame:
    """Means over splits; of coverage and risk also the standard deviation over splits."""
    table = pd.DataFrame(rows)
    keys = ["records", "calibrated on", "judged on"]
    groups = table.groupby(keys, sort=False)
    means = groups.mean()
    means.insert(1, "coverage sd", groups["coverage"].std())
    means.insert(means.columns.get_loc("risk") + 1, "risk sd", groups["risk"].std())
    means.insert(
        means.columns.get_loc("mae of mean") + 1, "ratio", means["mae"] / means["mae of mean"]
    )
    return means


def main() -> int:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("records", type=Path, nargs="+")
    parser.add_argument("-o", type=Path, required=True, help="folder for the tables")
    parser.add_argument("-level", type=float, default=0.9, help="of the lower bound of Dice")
    parser.add_argument("-alpha", type=float, default=0.1, help="poor and not flagged, at most")
    parser.add_argument(
        "-tolerance", type=float, default=0.8, help="Dice below which a case is poor"
    )
    parser.add_argument("-flag_score", default=PREDICTED_DICE, help="predicted_dice or a column")
    parser.add_argument("-splits", type=int, default=200)
    parser.add_argument("-part", default="part", help="column of a CSV: where a case comes from")
    parser.add_argument("-clean", nargs="+", default=CLEAN, help="its values for clean cases")
    parser.add_argument("-patient", default=PATIENT, help="the patient in a case's name (regex)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = Settings(
        arguments.level,
        arguments.alpha,
        arguments.tolerance,
        arguments.flag_score,
        arguments.splits,
    )
    arguments.o.mkdir(parents=True, exist_ok=True)
    for path in arguments.records:
        name = path.stem if path.suffix == ".json" else path.parent.name
        records = read_records(
            path,
            part_column=arguments.part,
            clean=tuple(arguments.clean),
            patient=arguments.patient,
        )
        rows = study(records, settings, name=name)
        pd.DataFrame(rows).to_csv(arguments.o / f"{name}_splits.csv", index=False)
        table = summary(rows)
        table.reset_index().to_csv(arguments.o / f"{name}_summary.csv", index=False)
        sys.stdout.write(f"{table.round(3).T.to_string()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
