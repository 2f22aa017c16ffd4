"""The closing lines of a calibrated prediction: how many cases to review, and which first."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_RANKS = ("empty", "out_of_distribution", "review")
_SHOWN = 20


def review_lines(output: Path, cases: Sequence[str]) -> list[str]:
    """The flagged ones among these cases, sorted by need; the whole list is in the table.

    First empty predictions, then images unlike the known ones, then the lowest predicted Dice.

    Args:
        output: OUT.
        cases: finished cases of the run.
    """
    files = [output / "cases" / f"{case}.json" for case in cases]
    records = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
    judged = [record for record in records if record.get("judgement")]
    flagged = sorted((r for r in judged if _texts(r)["flag"] != "ok"), key=_need)
    lines = [f"{len(flagged)} of {len(judged)} cases to review."]
    for record in flagged[:_SHOWN]:
        texts = _texts(record)
        lines.append(f"  {record['case']}: {texts['flag']} ({texts['flag_reason']})")
    if len(flagged) > _SHOWN:
        lines.append(f"  and {len(flagged) - _SHOWN} more: column flag of uncertainty.csv")
    return lines


def _texts(record: dict[str, Any]) -> dict[str, str]:
    texts: dict[str, str] = record["judgement"]["texts"]
    return texts


def _need(record: dict[str, Any]) -> tuple[int, float, str]:
    dice = record["judgement"]["numbers"]["predicted_dice"]
    return _RANKS.index(_texts(record)["flag"]), -1.0 if dice is None else dice, record["case"]
