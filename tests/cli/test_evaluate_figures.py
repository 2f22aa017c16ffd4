"""What evaluate draws and studies is what it was told; nothing is drawn or predicted here."""

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from evaluation.made_up_predictions import MadeUp, make, write

from nnunetv2_le.cli import evaluate

DRAW = "nnunetv2_le.report.evaluation_figures.evaluation_figures"
DRAW_CASE = "nnunetv2_le.report.case_figures.case_figures"
STUDY = "nnunetv2_le.evaluation.skip_heads.skip_heads_of_each"
LOAD = "nnunetv2_le.evaluation.predicted_heads.predictor_of_heads"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeUp:
    return make(tmp_path_factory.mktemp("made"), num_cases=5, num_heads=3)


def command(made: MadeUp, output: Path, line: str) -> int:
    where = ["-pred", str(made.out), "-ref", str(made.references), "-o", str(output)]
    return evaluate.main([*where, "-np", "1", "-num_bootstrap", "0", *line.split()])


def test_figures_are_of_the_scores_thresholds_and_domains_that_were_named(
    made: MadeUp, tmp_path: Path
) -> None:
    table = tmp_path / "table.csv"
    pd.DataFrame({"case": made.cases, "site": list("aabbb")}).to_csv(table, index=False)
    line = f"-cases {table} -domain site -scores sometimes -dice_thresholds 0.5 0.6"
    with mock.patch(DRAW) as draw, mock.patch(DRAW_CASE):
        assert command(made, tmp_path / "out", line) == 0
    (evaluation, folder), how = draw.call_args
    assert folder == tmp_path / "out" / "figures"
    assert list(evaluation.cases.index) == list(made.cases)
    assert [score.name for score in how.pop("scores")] == ["sometimes"]
    assert how == {"dice_thresholds": (0.5, 0.6), "domain_column": "site"}


@pytest.mark.parametrize("number", [2, 0])
def test_the_cases_of_lowest_dice_are_drawn_with_their_images(
    made: MadeUp, tmp_path: Path, number: int
) -> None:
    line = f"-i {tmp_path} -num_case_figures {number}"
    with mock.patch(DRAW), mock.patch(DRAW_CASE) as draw:
        assert command(made, tmp_path / "out", line) == 0
    dice = pd.read_csv(tmp_path / "out" / "cases.csv", index_col="case")["dice"]
    drawn: dict[str, Any] = {call.args[0].case: call for call in draw.call_args_list}
    assert set(drawn) == set(dice.sort_values().index[:number])
    for case, call in drawn.items():
        assert call.args[2] == tmp_path / "out" / "figures"
        assert call.kwargs == {"image_folder": tmp_path, "dice": pytest.approx(dice[case])}


def test_skipped_heads_are_of_the_model_checkpoint_and_device_that_were_named(
    made: MadeUp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    line = f"--skip_heads --no_figures -i {tmp_path} -m model -device mps -chk best.pth"
    with mock.patch(LOAD, side_effect=KeyboardInterrupt) as load:
        assert command(made, tmp_path / "out", line) == 130
    load.assert_called_once_with(Path("model"), device="mps", checkpoint_name="best.pth")


@pytest.mark.parametrize(
    ("device", "said"),
    [("gpu", "takes cuda, cpu, mps; got 'gpu'"), ("mps", "mps needs an Apple GPU")],
)
def test_a_device_that_is_not_there_is_one_line_before_anything_is_read(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, device: str, said: str
) -> None:
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    missing = ["-pred", str(tmp_path / "no"), "-ref", str(tmp_path / "no"), "-i", str(tmp_path)]
    assert evaluate.main([*missing, "--skip_heads", "-m", "model", "-device", device]) == 1
    assert capsys.readouterr().err.startswith(f"nnUNetv2_le_evaluate: -device {said}")


def test_what_references_ignore_counts_in_no_study_of_heads(tmp_path: Path) -> None:
    labels = {"background": 0, "front": 1, "back": 2, "ignore": 3}
    made = make(tmp_path, num_cases=2, num_heads=2, labels=labels)
    write(np.full((9, 9, 9), 1), made.references / "case_01.nii.gz")  # of another shape
    with mock.patch(STUDY, side_effect=KeyboardInterrupt) as study:
        assert command(made, tmp_path / "out", "--skip_heads --no_figures") == 130
    assert [files.case for files in study.call_args.args[0]] == ["case_00"]
    assert study.call_args.kwargs == {"ignore_label": 3}


def test_without_figures_there_are_tables_alone(made: MadeUp, tmp_path: Path) -> None:
    assert command(made, tmp_path, "--skip_heads --no_figures") == 0
    assert {file.suffix for file in tmp_path.iterdir()} == {".csv", ".json"}
    of_each, of_all = (pd.read_csv(tmp_path / f"skip_heads{end}.csv") for end in ("_cases", ""))
    assert of_each.groupby("skipped")["case"].unique().map(sorted).tolist() == 3 * [
        sorted(made.cases)
    ]
    assert list(of_all["skipped"]) == [0, 1, 2]


def test_of_many_problems_the_first_twenty_are_said_and_the_others_counted(caplog: Any) -> None:
    problems = [mock.Mock(case=f"case_{number:02d}", problem="odd") for number in range(22)]
    cases = pd.DataFrame({"dice": [0.2, 0.2, 0.8]})
    caplog.set_level("INFO", logger="nnunetv2_le")
    for found, more in ((problems[:20], None), (problems[:21], 1), (problems, 2)):
        caplog.clear()
        evaluate.report(mock.Mock(cases=cases, problems=tuple(found)), name="A")
        said = [record.getMessage() for record in caplog.records]
        assert said[:20] == [f"A: case_{number:02d}: odd" for number in range(20)]
        assert said[-1] == f"A: 3 cases, mean Dice 0.4000, {len(found)} problems"
        rest = [f"A: and {more} more, all of them in problems.csv"] if more else []
        assert said[20:-1] == rest
