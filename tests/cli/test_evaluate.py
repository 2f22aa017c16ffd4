"""The command evaluate: files it writes, exit codes, errors in one line."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from evaluation.made_up_predictions import make, write

from nnunetv2_le.cli import evaluate


def command(made, *more):
    arguments = ["-ref", str(made.references), "-pred", str(made.out), "-np", "1"]
    return evaluate.main([*arguments, "-num_bootstrap", "20", *more])


def test_writes_tables_summary_and_figures(tmp_path):
    made = make(tmp_path, num_heads=3, probabilities=True)
    assert command(made, "-o", str(tmp_path / "results"), "--skip_heads") == 0
    files = {str(f.relative_to(tmp_path / "results")) for f in (tmp_path / "results").rglob("*.*")}
    tables = ("cases", "labels", "scores", "problems", "skip_heads", "skip_heads_cases")
    figures = (
        "risk_coverage",
        "quality_control_dice_0.8",
        "scatter_consensus_dice",
        "reliability",
        "skip_heads",
        "case_case_05",
        "layer_agreement_case_05",
    )
    assert {f"{table}.csv" for table in tables} | {"summary.json"} <= files
    for ending in ("png", "pdf"):
        assert {f"figures/{figure}.{ending}" for figure in figures} <= files


def test_a_case_without_readable_heads_does_not_stop_the_others(tmp_path, capsys):
    made = make(tmp_path, num_cases=3, num_heads=3)
    (made.out / "heads" / "head_01" / "case_01.npz").write_bytes(b"nonsense")
    assert command(made, "--skip_heads", "--no_figures") == 0
    assert "case_01 is left out of skip_heads.csv: " in capsys.readouterr().err
    table = pd.read_csv(made.out / "evaluation" / "skip_heads.csv")
    assert (table["num_cases"] == 2).all()


def test_a_prediction_without_heads_is_refused_before_anything_is_evaluated(tmp_path, capsys):
    made = make(tmp_path, num_cases=3)
    assert command(made, "--skip_heads") == 1
    assert "has no heads: predict with --save_heads, or give -m and -i" in capsys.readouterr().err
    assert not (made.out / "evaluation").exists()


def test_tables_keep_every_digit_and_leave_undefined_empty(tmp_path):
    made = make(tmp_path, num_cases=3)
    write(np.zeros((8, 14, 12)), made.out / "case_00.nii.gz")
    assert command(made, "--no_figures") == 0
    lines = (made.out / "evaluation" / "cases.csv").read_text().splitlines()
    header, first = lines[0].split(","), lines[1].split(",")
    assert dict(zip(header, first, strict=True))["hd95_mm"] == ""
    table = pd.read_csv(made.out / "evaluation" / "cases.csv")
    scores = pd.read_csv(made.out / "uncertainty.csv")
    assert (table["consensus_dice"] == scores["consensus_dice"]).all()


def test_summary_is_strict_json_with_problems_by_name(tmp_path):
    made = make(tmp_path)
    (made.references / "case_02.nii.gz").unlink()
    assert command(made, "--no_figures") == 0
    text = (made.out / "evaluation" / "summary.json").read_text()
    summary = json.loads(text, parse_constant=pytest.fail)
    assert summary["num_cases"] == 5
    assert any(problem["case"] == "case_02" for problem in summary["problems"])
    assert summary["cases"]["dice"]["num_defined"] == 5


def test_problems_are_said_by_name_and_count(tmp_path, capsys):
    made = make(tmp_path)
    (made.references / "case_02.nii.gz").unlink()
    assert command(made, "--no_figures") == 0
    said = capsys.readouterr()
    assert "case_02: it was predicted, but has no reference" in said.err
    assert "5 cases, mean Dice" in said.out


@pytest.mark.parametrize("folder", ["labels", "out"])
def test_a_first_case_that_cannot_be_read_is_named_and_the_rest_evaluated(tmp_path, capfd, folder):
    made = make(tmp_path, num_cases=4)
    (tmp_path / folder / "case_00.nii.gz").write_bytes(b"nonsense")
    assert command(made, "--no_figures") == 0
    assert "Traceback" not in "".join(capfd.readouterr())
    problems = pd.read_csv(made.out / "evaluation" / "problems.csv", keep_default_na=False)
    (said,) = problems["problem"][problems["case"] == "case_00"]
    assert "cannot be read" in said
    assert len(pd.read_csv(made.out / "evaluation" / "cases.csv")) == 3


def test_cases_without_dice_are_evaluated_without_figures_of_scores(tmp_path, capsys):
    made = make(tmp_path, num_cases=3)
    for case in made.cases:
        for folder in (made.references, made.out):
            write(np.zeros((8, 14, 12)), folder / f"{case}.nii.gz")
    assert command(made) == 0
    assert "unexpected" not in capsys.readouterr().err


def test_scores_that_are_all_undefined_end_in_no_error(tmp_path):
    made = make(tmp_path, num_cases=3)
    for name in ("uncertainty.csv", "uncertainty_per_label.csv"):
        table = pd.read_csv(made.out / name)
        scores = ["consensus_dice", "entropy_foreground_mean", "sometimes", "constant"]
        table[scores] = np.nan
        table.to_csv(made.out / name, index=False)
    assert command(made) == 0


def test_nothing_to_evaluate_is_one_line_and_exit_code_1(tmp_path, capsys):
    made = make(tmp_path, num_cases=1)
    (made.references / "case_00.nii.gz").unlink()
    assert command(made) == 1
    error = capsys.readouterr().err
    assert "no case has both a prediction and a reference" in error
    assert error.count("\n") == 1


def test_without_distances_there_are_no_columns_of_distances(tmp_path):
    made = make(tmp_path, num_cases=3)
    assert command(made, "--no_distances", "--no_figures") == 0
    assert "hd95_mm" not in pd.read_csv(made.out / "evaluation" / "cases.csv").columns


@pytest.mark.parametrize("column", ["site", "dice"])
def test_domains_get_rows_of_their_own_even_if_called_like_a_figure(tmp_path, column):
    made = make(tmp_path)
    pd.DataFrame({"case": made.cases, column: list("aaabbb")}).to_csv(
        tmp_path / "cases.csv", index=False
    )
    assert command(made, "-cases", str(tmp_path / "cases.csv"), "-domain", column) == 0
    scores = pd.read_csv(made.out / "evaluation" / "scores.csv")
    domains = {f"{column}=a", f"{column}=b"}
    assert set(scores["subset"]) == {"all", *domains, "label=front", "label=back"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-domain", "site"], "-domain and -patient name columns of -cases"),
        (["-tolerance_mm", "-1"], "-tolerance_mm must be a finite number from 0 on, got -1"),
        (["-tolerance_mm", "nan"], "-tolerance_mm must be a finite number from 0 on, got nan"),
        (["-tolerance_mm", "inf"], "-tolerance_mm must be a finite number from 0 on, got inf"),
        (["-seed", "-1"], "-seed must be 0 or more, got -1"),
        (
            ["-num_bootstrap", "100000000000"],
            "between 0 and 100000, got 100000000000",
        ),
        (["-dice_thresholds", "1.5"], "must lie between 0 and 1"),
        (["-np", "0"], "-np must be at least 1"),
        (["-m", "model"], "give --skip_heads and -i too"),
    ],
)
def test_options_that_make_no_sense_are_one_line(tmp_path, capsys, arguments, message):
    assert command(make(tmp_path, num_cases=3), *arguments) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error


def test_a_score_that_does_not_exist_is_named_before_anything_is_evaluated(tmp_path, capsys):
    made = make(tmp_path, num_cases=3)
    assert command(made, "-scores", "nonsense") == 1
    assert "no score is called ['nonsense']; there are consensus_dice, " in capsys.readouterr().err
    assert not list((made.out / "evaluation").glob("*"))


def test_a_folder_that_is_no_prediction_is_named_before_scores_are_looked_for(tmp_path, capsys):
    arguments = ["-ref", str(tmp_path), "-pred", str(tmp_path / "typo")]
    assert evaluate.main([*arguments, "-scores", "aula", "-o", str(tmp_path / "results")]) == 1
    assert f"{tmp_path / 'typo' / 'dataset.json'} is needed" in capsys.readouterr().err


def test_usage_error_has_exit_code_2(capsys):
    with pytest.raises(SystemExit, match="2"):
        evaluate.main(["-pred", "x"])
    assert "-ref" in capsys.readouterr().err


def test_images_are_the_background_of_case_figures(tmp_path, capsys):
    made = make(tmp_path, num_cases=3)
    images = tmp_path / "images"
    images.mkdir()
    for case in made.cases[:2]:
        write(np.ones((8, 14, 12)), images / f"{case}_0000.nii.gz")
    assert command(made, "-i", str(images)) == 0
    assert (made.out / "evaluation" / "figures" / "case_case_01.png").is_file()
    assert "No figure of case_02: the image" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/evaluation"])
def test_an_output_that_cannot_be_written_is_found_before_anything_is_read(tmp_path, capsys, place):
    if place.startswith("/proc") and not Path("/proc/self").is_dir():
        pytest.skip("needs a folder nobody can write to")
    (tmp_path / "file").write_text("kept")
    output = tmp_path / place  # an absolute place stays what it is
    arguments = ["-ref", "x", "-pred", "nowhere", "-o", str(output), "-np", "1"]
    assert evaluate.main(arguments) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"-o has to be a folder that can be written; '{output}' cannot" in error


def test_a_prediction_that_is_not_there_is_not_created(tmp_path, capsys):
    assert evaluate.main(["-ref", "x", "-pred", str(tmp_path / "nowhere"), "-np", "1"]) == 1
    assert "is needed and cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()


def test_a_case_whose_name_is_not_utf8_costs_no_other(tmp_path, capsys):
    made = make(tmp_path, num_cases=3)
    strange = os.fsdecode(b"caf\xe9.nii.gz")
    for folder in (made.out, made.references):
        (folder / strange).write_bytes((folder / "case_00.nii.gz").read_bytes())
    assert command(made, "--no_figures") == 0
    assert "caf\\udce9.nii.gz is no UTF-8" in capsys.readouterr().err
    problems = pd.read_csv(made.out / "evaluation" / "problems.csv")
    assert "caf\\udce9" in set(problems["case"])
    assert len(pd.read_csv(made.out / "evaluation" / "cases.csv")) == 3
