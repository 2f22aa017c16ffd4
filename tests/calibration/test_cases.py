"""The table of labelled cases."""

import numpy as np
import pytest
from calibration.made_up_cases import made_up_cases

from nnunetv2_le.calibration.cases import CalibrationCases, LabelCases, group_numbers
from nnunetv2_le.errors import InputError


def test_without_patients_every_case_is_one():
    assert made_up_cases(5).group_numbers.tolist() == [0, 1, 2, 3, 4]
    assert group_numbers(("b", "a", "b"), 3).tolist() == [1, 0, 1]


def test_a_subset_has_the_rows_of_the_whole():
    cases = made_up_cases(6)
    for chosen in (np.array([4, 1]), np.arange(6) % 2 == 1):
        part, numbers = cases.subset(chosen), np.arange(6)[chosen]
        assert part.cases == tuple(cases.cases[n] for n in numbers)
        assert (part.case.dice == cases.case.dice[numbers]).all()
        for name, table in cases.labels.items():
            for column, values in table.scores.items():
                assert (part.labels[name].scores[column] == values[numbers]).all()


def test_columns_and_patients_have_one_entry_a_case():
    table = LabelCases({"aula": np.zeros(3)}, np.zeros(2))
    with pytest.raises(InputError, match="expected 2 values of aula for the case"):
        CalibrationCases(("a", "b"), table)
    good = LabelCases({}, np.zeros(2))
    with pytest.raises(InputError, match="expected 2 values of aula for spleen"):
        CalibrationCases(("a", "b"), good, labels={"spleen": table})
    with pytest.raises(InputError, match="a group for each of 2 cases, got 1"):
        CalibrationCases(("a", "b"), good, groups=("p",))
