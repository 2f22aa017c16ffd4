import json
from pathlib import Path
from typing import Any

from nnunetv2_le.cli.review_list import review_lines


def write(folder: Path, case: str, flag: str, dice: float | None) -> None:
    judgement: Any = {"numbers": {"predicted_dice": dice}, "texts": {"flag": flag}}
    judgement["texts"]["flag_reason"] = "" if flag == "ok" else f"why {case}"
    (folder / "cases").mkdir(parents=True, exist_ok=True)
    record = {"case": case, "judgement": judgement}
    (folder / "cases" / f"{case}.json").write_text(json.dumps(record))


def test_the_most_needy_case_comes_first(tmp_path: Path) -> None:
    write(tmp_path, "good", "ok", 0.9)
    write(tmp_path, "poor", "review", 0.5)
    write(tmp_path, "worse", "review", 0.2)
    write(tmp_path, "unknown", "review", None)
    write(tmp_path, "strange", "out_of_distribution", 0.95)
    write(tmp_path, "nothing", "empty", None)
    cases = ["good", "poor", "worse", "unknown", "strange", "nothing", "failed"]
    first, *others = review_lines(tmp_path, cases)
    assert first == "5 of 6 cases to review."
    order = ["nothing", "strange", "unknown", "worse", "poor"]
    assert [line.split(":")[0].strip() for line in others] == order
    assert others[0] == "  nothing: empty (why nothing)"


def test_a_long_list_is_cut_and_says_so(tmp_path: Path) -> None:
    cases = [f"case_{number}" for number in range(30)]
    for case in cases:
        write(tmp_path, case, "review", 0.5)
    lines = review_lines(tmp_path, cases)
    assert len(lines) == 22
    assert lines[-1] == "  and 10 more: column flag of uncertainty.csv"
