"""Patients that a network knows from other cases of its training."""

import logging
from pathlib import Path

import pytest

from nnunetv2_le.calibration.patients import read_groups, warn_of_known_patients
from nnunetv2_le.errors import InputError

PATIENTS = {case: f"patient_{case[0]}" for case in ("a1", "a2", "b1", "d1")}


def test_a_patient_of_training_and_validation_is_named_with_its_fold(
    caplog: pytest.LogCaptureFixture,
) -> None:
    trained = {"a1", "b1", "not_in_the_table"}
    warn_of_known_patients(["a2", "d1"], patients=PATIENTS, trained=trained, folds=(0,))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "1 patients have cases that fold 0" in record.getMessage()
    assert "the first is patient_a." in record.getMessage()


def test_the_first_of_several_known_patients_is_the_first_by_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cases = [f"{letter}{number}" for letter in "gfedcba" for number in (1, 2)]
    patients = {case: f"patient_{case[0]}" for case in cases}
    warn_of_known_patients(cases[::2], patients=patients, trained=cases[1::2], folds=(1, 2))
    said = caplog.records[0].getMessage()
    assert "7 patients have cases that fold 1, 2 is" in said
    assert "the first is patient_a." in said


@pytest.mark.parametrize("trained", [set(), {"a1", "a2"}, {"not_in_the_table"}])
def test_a_split_by_patient_passes_in_silence(
    trained: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_known_patients(["b1", "d1"], patients=PATIENTS, trained=trained, folds=(1, 2))
    assert not caplog.records


def test_a_case_of_two_patients_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "patients.csv"
    table.write_text("case,patient\na,one\nb,two\na,one\n")
    assert read_groups(table, ("b", "a")) == ("two", "one")
    table.write_text("case,patient\na,one\nb,two\na,two\nb,three\na,three\n")
    with pytest.raises(
        InputError, match="2 cases to more than one patient, the first is a: one, three"
    ):
        read_groups(table, ("b", "a"))


def test_blanks_around_a_name_make_no_other_patient(tmp_path: Path) -> None:
    table = tmp_path / "patients.csv"
    table.write_text("case,patient\na,one\nb , one \nc,one\t\n")
    assert read_groups(table, ("a", "b", "c")) == ("one", "one", "one")


def test_a_table_that_a_spreadsheet_saved_with_a_mark_of_its_encoding_is_read(
    tmp_path: Path,
) -> None:
    table = tmp_path / "patients.csv"
    table.write_text("case,patient\na,one\n", encoding="utf-8-sig")
    assert read_groups(table, ("a",)) == ("one",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"Expected the columns case and group or patient in .*; got none"),
        ("name,patient\na,one\n", r"got name, patient\. Rename"),
        ("case,age\na,40\n", r"got case, age\. Rename"),
        ("case,patient\na,one\n", r"to which patient 1 of 2 cases belong, the first is b\."),
        ("case,group\na,one\nb,\n", r"to which group 1 of 2 cases belong, the first is b\."),
        ("case,group\na,one\nb\n", r"to which group 1 of 2 cases belong, the first is b\."),
        ("case,patient\na,\xff\n", "cannot be read as a table"),
        ("case,patient\na," + 200_000 * "b" + "\n", "field larger than field limit"),
    ],
)
def test_a_table_that_does_not_say_whose_each_case_is_is_refused(
    tmp_path: Path, text: str, said: str
) -> None:
    table = tmp_path / "patients.csv"
    with pytest.raises(InputError, match=r"patients\.csv cannot be read as a table"):
        read_groups(table, ("a", "b"))
    table.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=said):
        read_groups(table, ("a", "b"))
