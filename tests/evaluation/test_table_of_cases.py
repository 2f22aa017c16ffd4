"""The user's table of cases: domains, patients, and names of every kind."""

import pandas as pd
import pytest
from evaluation.made_up_predictions import make

from nnunetv2_le.errors import InputError
from nnunetv2_le.evaluation.evaluate import evaluate_prediction
from nnunetv2_le.evaluation.method import MethodSettings

FAST = MethodSettings(num_draws=20)


def evaluate(made, **settings):
    return evaluate_prediction(made.out, [made.references], **{"method": FAST, **settings})


def test_domains_and_patients_come_from_the_table_of_cases(tmp_path):
    made = make(tmp_path, num_cases=7)
    table = pd.DataFrame({"case": made.cases[:6], "site": list("aaabbb"), "who": list("xxyyzz")})
    table.to_csv(tmp_path / "cases.csv", index=False)
    evaluation = evaluate(
        made,
        case_table=tmp_path / "cases.csv",
        method=MethodSettings(num_draws=20, domain_column="site", patient_column="who"),
    )
    subsets = set(evaluation.score_table["subset"])
    assert subsets == {"all", "site=a", "site=b", "site=unknown", "label=front", "label=back"}
    sizes = evaluation.score_table.set_index(["subset", "score"])["num_cases"]
    assert sizes[("site=a", "consensus_dice")] == 3
    assert any(p.case == "case_06" and "table of cases" in p.problem for p in evaluation.problems)


def test_empty_rows_of_a_spreadsheet_are_no_cases(tmp_path):
    made = make(tmp_path, num_cases=3)
    rows = "\n".join(f"{case},x" for case in made.cases)
    (tmp_path / "cases.csv").write_text(f"case,who\n{rows}\n,\n,\n")
    settings = MethodSettings(num_draws=20, patient_column="who")
    evaluation = evaluate(made, case_table=tmp_path / "cases.csv", method=settings)
    assert list(evaluation.cases["who"]) == ["x"] * 3


@pytest.mark.parametrize("ending", ["", ",", " ", " ,"])
def test_blanks_and_commas_at_the_end_of_rows_change_nothing(tmp_path, ending):
    made = make(tmp_path, num_cases=4)
    rows = [f"{case},{who}" for case, who in zip(made.cases, "xxyy", strict=True)]
    text = "\n".join(["case,who", *(row + ending for row in rows), " , "])
    (tmp_path / "cases.csv").write_text(text)
    settings = MethodSettings(num_draws=20, patient_column="who")
    evaluation = evaluate(made, case_table=tmp_path / "cases.csv", method=settings)
    assert list(evaluation.cases["who"]) == ["x", "x", "y", "y"]


def test_rows_longer_than_the_header_are_refused(tmp_path):
    made = make(tmp_path, num_cases=3)
    rows = "\n".join(f"{case},x,y" for case in made.cases)
    (tmp_path / "cases.csv").write_text(f"case,who\n{rows}\n")
    with pytest.raises(InputError, match=r"cases\.csv cannot be read as a table: Length of header"):
        evaluate(made, case_table=tmp_path / "cases.csv", method=MethodSettings(num_draws=0))


def test_cases_without_a_patient_are_named_and_drawn_one_by_one(tmp_path):
    made = make(tmp_path)
    table = pd.DataFrame({"case": made.cases, "who": ["", "", "", "x", "x", "NA"], "note": ""})
    table.to_csv(tmp_path / "cases.csv", index=False)
    given = {"case_table": tmp_path / "cases.csv"}
    settings = MethodSettings(num_draws=50, patient_column="who")
    evaluation = evaluate(made, **given, method=settings)
    assert [p.case for p in evaluation.problems if "its who is empty" in p.problem] == [
        "case_00",
        "case_01",
        "case_02",
    ]
    assert evaluation.cases["who"].nunique() == 5
    assert evaluation.cases.loc["case_05", "who"] == "NA"
    table["who"] = [f"{number}" for number in range(6)]
    table.to_csv(tmp_path / "cases.csv", index=False)
    nobody = table.assign(who="")
    nobody.to_csv(tmp_path / "nobody.csv", index=False)
    alone = evaluate(made, **given, method=settings).score_table
    empty = evaluate(made, case_table=tmp_path / "nobody.csv", method=settings).score_table
    pd.testing.assert_frame_equal(alone, empty)


@pytest.mark.parametrize("column", ["dice", "volume_ml", "label"])
def test_columns_of_the_table_of_cases_may_be_called_like_ours(tmp_path, column):
    made = make(tmp_path)
    found = []
    for name in ("site", column):
        table = pd.DataFrame({"case": made.cases, name: list("ababab"), "who": list("xxyyzz")})
        table.to_csv(tmp_path / "cases.csv", index=False)
        settings = MethodSettings(num_draws=50, domain_column=name, patient_column=name)
        evaluation = evaluate(made, case_table=tmp_path / "cases.csv", method=settings)
        assert {f"{name}=a", f"{name}=b"} <= set(evaluation.score_table["subset"])
        found.append(evaluation.score_table.replace({f"{name}={site}": site for site in "ab"}))
    pd.testing.assert_frame_equal(found[0], found[1])


@pytest.mark.parametrize("name", ["NA", "None", "null", "nan"])
def test_a_label_may_be_called_like_nothing(tmp_path, name):
    made = make(tmp_path, labels={"background": 0, name: 1, "back": 2})
    row = evaluate(made).score_table.set_index(["subset", "score"])
    assert row.loc[(f"label={name}", "consensus_dice"), "num_cases"] == 6


def test_missing_column_of_the_table_of_cases_is_named(tmp_path):
    made = make(tmp_path, num_cases=3)
    pd.DataFrame({"case": made.cases}).to_csv(tmp_path / "cases.csv", index=False)
    with pytest.raises(InputError, match=r"has no column \['site'\]; it has \['case'\]"):
        evaluate(
            made,
            case_table=tmp_path / "cases.csv",
            method=MethodSettings(domain_column="site"),
        )
