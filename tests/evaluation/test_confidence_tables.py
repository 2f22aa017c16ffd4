"""Tables of a prediction: what they must hold is said with what came."""

import json

import numpy as np
import pandas as pd
import pytest
from evaluation.made_up_predictions import make

from nnunetv2_le.errors import InputError
from nnunetv2_le.evaluation.confidence_tables import (
    Score,
    numbers,
    ranked_confidences,
    read_confidence_tables,
)


@pytest.fixture
def out(tmp_path):
    return make(tmp_path, num_cases=2).out


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ([], "must describe the columns of uncertainty.csv"),
        ({"constant": "higher_is_better"}, "describe constant as an object.*got 'higher_is_better"),
        ({"constant": {"direction": "up"}}, "direction of constant must be one of .*got 'up'"),
        ({"constant": {"direction": ["up"]}}, "direction of constant must be one of .*got"),
    ],
)
def test_a_description_of_columns_that_is_none_is_named(out, columns, said):
    (out / "uncertainty.json").write_text(json.dumps({"columns": columns}))
    with pytest.raises(InputError, match=rf"uncertainty\.json.*{said}"):
        read_confidence_tables(out)


def test_a_table_with_semicolons_says_what_came(out):
    (out / "uncertainty.csv").write_text("case;aula\ncase_00;0.5\n")
    with pytest.raises(InputError, match=r"separated by commas; it has \['case;aula'\]"):
        read_confidence_tables(out)


@pytest.mark.parametrize("table", ["uncertainty.csv", "uncertainty_per_label.csv"])
def test_numbers_with_a_decimal_comma_are_not_taken_for_undefined_scores(out, table):
    texts = pd.read_csv(out / table, dtype=str)
    texts["constant"] = "0,95"
    texts.to_csv(out / table, index=False)
    said = rf"{table}: constant must hold numbers with a decimal point, got '0,95' for .*case_00"
    with pytest.raises(InputError, match=said):
        read_confidence_tables(out)


def test_fields_that_say_that_there_is_no_number_are_undefined_scores(out):
    texts = pd.read_csv(out / "uncertainty.csv", dtype=str)
    texts["constant"] = ["NA", "NaN"]
    texts.to_csv(out / "uncertainty.csv", index=False)
    tables = read_confidence_tables(out)
    assert np.isnan(numbers(tables.cases, "constant")).all()


def test_empty_rows_of_a_spreadsheet_are_no_cases(out):
    file = out / "uncertainty.csv"
    commas = "," * file.read_text().splitlines()[0].count(",")
    file.write_text(file.read_text() + f"{commas}\n{commas}\n")
    assert list(read_confidence_tables(out).cases.index) == ["case_00", "case_01"]


def test_a_table_that_is_not_utf8_says_how_to_save_it(out):
    file = out / "uncertainty.csv"
    file.write_bytes(file.read_text().replace("case_00", "Köln").encode("latin-1"))
    with pytest.raises(InputError, match=r"uncertainty\.csv cannot be read.*save it as CSV.*UTF-8"):
        read_confidence_tables(out)


def ranked(scores, *, empty, direction="higher_is_better", **columns):
    table = pd.DataFrame({"score": scores, "empty_prediction": empty, **columns})
    return ranked_confidences(table, Score("score", direction)).tolist()


def test_an_empty_segmentation_whose_score_is_defined_keeps_its_place():
    assert ranked([0.5, 0.9, 0.7], empty=[False, True, False]) == [0.5, 0.9, 0.7]
    assert ranked([3.0, 1.0], empty=[False, True], direction="higher_is_worse") == [-3.0, -1.0]


def test_where_every_segmentation_is_empty_all_have_one_confidence():
    found = ranked([np.nan, np.nan], empty=[True, True])
    assert np.isfinite(found).all()
    assert len(set(found)) == 1


def test_a_score_that_is_undefined_in_a_segmentation_that_is_not_empty_stays_so():
    first, last, other = ranked([0.5, np.nan, np.nan], empty=["False", "True", "false"])
    assert last < first
    assert np.isnan(other)
    assert np.isnan(ranked([0.5, np.nan], empty=[False, False], volume_ml=[1.0, 2.0])[1])


def test_columns_without_a_direction_are_no_scores_and_tables_of_labels_may_be_absent(out):
    tables = read_confidence_tables(out)
    assert "volume_ml" in tables.cases.columns
    assert "volume_ml" not in [score.name for score in tables.scores]
    assert tables.labels.index.names == ["case", "label_name"]
    (out / "uncertainty_per_label.csv").unlink()
    assert read_confidence_tables(out).labels is None
    (out / "uncertainty.csv").unlink()
    assert read_confidence_tables(out) is None


def test_a_case_that_a_table_names_twice_is_refused(out):
    file = out / "uncertainty.csv"
    file.write_text(file.read_text() + file.read_text().splitlines()[1] + "\n")
    with pytest.raises(InputError, match=r"names 1 rows twice, the first is \('case_00',\)"):
        read_confidence_tables(out)
