"""Tables of a prediction: what they must hold is said with what came."""

import json

import pytest
from evaluation.made_up_predictions import make

from nnunetv2_le.errors import InputError
from nnunetv2_le.evaluation.confidence_tables import read_confidence_tables


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
