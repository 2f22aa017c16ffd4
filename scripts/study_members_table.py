"""The table of scripts/study_members.py: figures of each score, means over seeds, intervals."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from study import CLEAN, Study

from nnunetv2_le.evaluation.bootstrap import draw_counts, percentile_interval
from nnunetv2_le.evaluation.failure_detection import aurc, excess_aurc

PATIENT = re.compile(r"hippocampus_\d+|LIDC\d+")


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
