"""The command compare: tables in three formats, figures, exit codes."""

import json

import pandas as pd
import pytest
from evaluation.made_up_predictions import make

from nnunetv2_le.cli import compare


def command(folder, *methods, more=()):
    predictions = [f"{name}={made.out}" for name, made in methods]
    arguments = ["-ref", str(methods[0][1].references), "-pred", *predictions]
    options = ["-o", str(folder), "-np", "1", "-num_bootstrap", "20", *more]
    return compare.main([*arguments, *options])


def test_writes_both_tables_in_three_formats_and_figures(tmp_path):
    one = make(tmp_path / "one", probabilities=True)
    other = make(tmp_path / "other", num_cases=5, probabilities=True)
    assert command(tmp_path / "out", ("LE", one), ("DE_5", other)) == 0
    for table in ("quality", "correlation"):
        for ending in ("csv", "md", "tex"):
            assert (tmp_path / "out" / f"{table}.{ending}").stat().st_size
    quality = pd.read_csv(tmp_path / "out" / "quality.csv")
    assert (quality["num_cases"] == 5).all()
    assert set(quality["metric"]) == {"dice", "modified_hausdorff_mm", "nll"}
    assert "DE\\_5" in (tmp_path / "out" / "quality.tex").read_text()
    assert "**" in (tmp_path / "out" / "quality.md").read_text()
    figures = tmp_path / "out" / "figures"
    assert (figures / "consensus_dice" / "risk_coverage.pdf").is_file()
    assert (figures / "consensus_dice" / "quality_control_dice_0.7.png").is_file()
    assert (figures / "reliability.png").is_file()
    summary = json.loads(
        (tmp_path / "out" / "summary.json").read_text(), parse_constant=pytest.fail
    )
    assert summary["num_common_cases"] == 5


def test_reliability_is_drawn_of_the_cases_that_all_methods_have(tmp_path, monkeypatch):
    one = make(tmp_path / "one", num_cases=4, shape=(4, 8, 8), probabilities=True)
    other = make(tmp_path / "other", num_cases=3, shape=(4, 8, 8), probabilities=True)
    voxels = {}

    def note(methods, folder):
        voxels.update({name: method.calibration[0].voxels for name, method in methods.items()})

    monkeypatch.setattr("nnunetv2_le.report.evaluation_figures.reliability_figures", note)
    assert command(tmp_path / "out", ("one", one), ("other", other)) == 0
    assert voxels == {"one": 3 * 4 * 8 * 8, "other": 3 * 4 * 8 * 8}


def test_other_labels_are_said(tmp_path, caplog):
    methods = [make(tmp_path / name) for name in ("one", "other")]
    file = methods[1].out / "dataset.json"
    dataset = json.loads(file.read_text())
    dataset["labels"] = {"background": 0, "front": 1, "rear": 2}
    file.write_text(json.dumps(dataset))
    command(tmp_path / "out", ("one", methods[0]), ("other", methods[1]), more=["--no_figures"])
    assert "different labels (only one: back; only other: rear)" in caplog.text


def test_stock_method_without_scores_takes_part_in_the_quality_table(tmp_path):
    one, stock = make(tmp_path / "one"), make(tmp_path / "stock")
    for name in ("uncertainty.csv", "uncertainty_per_label.csv", "uncertainty.json"):
        (stock.out / name).unlink()
    assert command(tmp_path / "out", ("LE", one), ("stock", stock)) == 0
    assert set(pd.read_csv(tmp_path / "out" / "quality.csv")["method"]) == {"LE", "stock"}
    assert set(pd.read_csv(tmp_path / "out" / "correlation.csv")["method"]) == {"LE"}


def test_two_stock_methods_are_compared_by_quality_alone(tmp_path):
    methods = [make(tmp_path / name) for name in ("one", "other")]
    for made in methods:
        for name in ("uncertainty.csv", "uncertainty_per_label.csv", "uncertainty.json"):
            (made.out / name).unlink()
    assert command(tmp_path / "out", ("a", methods[0]), ("b", methods[1])) == 0
    assert (tmp_path / "out" / "quality.md").is_file()
    assert not (tmp_path / "out" / "correlation.md").exists()
    scores = tmp_path / "out" / "a" / "scores.csv"
    assert scores.read_text() == "subset,score,direction,num_cases\n"
    correlation = pd.read_csv(tmp_path / "out" / "correlation.csv")
    assert list(correlation)[:2] == ["method", "score"]


def test_scores_are_named_that_one_of_the_methods_has(tmp_path, capsys):
    stock, other = make(tmp_path / "stock", num_cases=3), make(tmp_path / "other", num_cases=3)
    for table in stock.out.glob("uncertainty*.*"):
        table.unlink()
    methods = ("stock", stock), ("LE", other)
    assert command(tmp_path / "out", *methods, more=["-scores", "consensus_dice", "aulla"]) == 1
    assert "no score is called ['aulla']; there are consensus_dice, " in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*"))
    assert command(tmp_path / "out", *methods, more=["-scores", "consensus_dice"]) == 0
    assert {path.name for path in (tmp_path / "out" / "figures").iterdir()} == {"consensus_dice"}


def test_without_a_bootstrap_the_table_of_differences_has_its_header(tmp_path):
    methods = [(name, make(tmp_path / name, num_cases=4)) for name in ("A", "B")]
    assert command(tmp_path / "out", *methods, more=("-num_bootstrap", "0", "--no_figures")) == 0
    table = pd.read_csv(tmp_path / "out" / "differences.csv")
    assert table.empty
    assert {"method_a", "method_b", "difference", "p_value"} < set(table)


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        (["A=x"], "needs at least two methods"),
        (["A=x", "A=y"], "names the method 'A' twice"),
        (["A=x", "y"], "takes NAME=FOLDER, got 'y'"),
        (["A=x", "a=y"], "names the method 'a' twice"),  # one folder on macOS and Windows
        (["A=x", "b/c=y"], "must not have a slash"),
        (["A=x", r"b\c=y"], "must not have a slash"),
        (["A=x", "b:c=y"], "got 'b:c'"),
        (["A=x", "..=y"], "got '..'"),
        (["A=x", ".=y"], "got '.'"),
        (["A=x", "figures=y"], "got 'figures'"),
        (["A=x", "quality.csv=y"], "got 'quality.csv'"),
        (["A=x", "Summary.json=y"], "got 'Summary.json'"),
        (["A=x", "correlation.tex=y"], "got 'correlation.tex'"),
        (["A=x", "b\nc=y"], "got 'b\\nc'"),
        (["A=x", " =y"], "got ' '"),
        (["A=x", "B=y", "-seed", "-1"], "-seed must be 0 or more, got -1"),
        (["A=x", "B=y"], "is needed and cannot be read"),
    ],
)
def test_what_makes_no_sense_is_one_line(tmp_path, capsys, predictions, message):
    arguments = ["-ref", str(tmp_path), "-o", str(tmp_path / "out"), "-np", "1", "-pred"]
    assert compare.main([*arguments, *predictions]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_an_output_that_cannot_be_written_is_found_before_anything_is_read(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("kept")
    predictions = ["-pred", "a=nowhere", "b=nowhere either"]
    for output in (file, file / "below"):
        assert compare.main(["-ref", "x", *predictions, "-o", str(output), "-np", "1"]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"-o has to be a folder that can be written; '{output}' cannot" in error
    assert file.read_text() == "kept"


def test_a_method_that_is_not_there_is_found_before_another_is_evaluated(tmp_path, capsys):
    made = make(tmp_path / "one", num_cases=3)
    predictions = ["-pred", f"a={made.out}", f"b={tmp_path / 'nowhere'}"]
    arguments = ["-ref", str(made.references), *predictions, "-o", str(tmp_path / "out")]
    assert compare.main([*arguments, "-np", "1"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "nowhere/dataset.json is needed and cannot be read" in said.err
