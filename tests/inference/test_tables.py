"""Tables follow from the records of cases alone, whoever wrote them and when."""

import csv
import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from nnunetv2_le.inference import tables
from nnunetv2_le.inference.earlier_runs import has_settings
from nnunetv2_le.inference.tables import (
    forget_failure,
    note_failure,
    record_names,
    write_tables,
)

COMPONENT_COLUMNS = (
    *("component", "centre_z", "centre_y", "centre_x", "volume_ml", "entropy_mean"),
    "heads_agreement",
)
DESCRIPTION = {"columns": {}, "component_columns": {name: {} for name in COMPONENT_COLUMNS}}


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "cases").mkdir()
    return tmp_path


def record(case: str, **scores: Any) -> dict[str, Any]:
    return {
        "case": case,
        "empty_prediction": False,
        "num_members": 3,
        "scores": {"aula": 1.5, **scores},
        "labels": {"organ": {"aula": 1.5}, "both": {"aula": None}},
        "label_values": {"organ": 2, "both": [1, 2]},
        "components": [
            {
                "label": "organ",
                "component": 1,
                "centre_voxels": [1.0, 2.0, 3.5],
                "volume_ml": 0.25,
                "scores": {"entropy_mean": 0.1},
            }
        ],
    }


def add(output: Path, *records: dict[str, Any]) -> None:
    for content in records:
        (output / "cases" / f"{content['case']}.json").write_text(json.dumps(content))


def rows(output: Path, name: str) -> list[dict[str, str]]:
    with (output / name).open(newline="") as file:
        return list(csv.DictReader(file))


def test_there_is_a_row_a_case_by_name(output: Path):
    add(output, record("b"), record("a"))
    write_tables(output, DESCRIPTION)
    assert [row["case"] for row in rows(output, "uncertainty.csv")] == ["a", "b"]


def test_floats_keep_their_full_precision(output: Path):
    add(output, record("a", entropy_image_mean=0.1 + 0.2))
    write_tables(output, DESCRIPTION)
    assert float(rows(output, "uncertainty.csv")[0]["entropy_image_mean"]) == 0.1 + 0.2


def test_undefined_values_are_empty_fields(output: Path):
    add(output, record("a", consensus_dice=None))
    write_tables(output, DESCRIPTION)
    assert rows(output, "uncertainty.csv")[0]["consensus_dice"] == ""
    assert [row["aula"] for row in rows(output, "uncertainty_per_label.csv")] == ["1.5", ""]


def test_a_region_is_named_by_the_values_that_it_joins(output: Path):
    add(output, record("a"))
    write_tables(output, DESCRIPTION)
    labels = rows(output, "uncertainty_per_label.csv")
    assert [(row["label"], row["label_name"]) for row in labels] == [
        ("2", "organ"),
        ("1+2", "both"),
    ]


def test_components_have_their_centre_and_size(output: Path):
    add(output, record("a"))
    write_tables(output, DESCRIPTION)
    (row,) = rows(output, "uncertainty_per_component.csv")
    centre = [float(row[f"centre_{axis}"]) for axis in "zyx"]
    assert centre == [1.0, 2.0, 3.5]
    assert (row["volume_ml"], row["entropy_mean"]) == ("0.25", "0.1")
    assert (row["case"], row["label"], row["label_name"]) == ("a", "2", "organ")


def test_what_a_calibration_says_stands_in_the_row_of_its_case_and_label(output: Path):
    said = {
        "numbers": {"predicted_dice": 0.75},
        "texts": {"flag": "review", "flag_reason": "why"},
        "labels": {"both": {"predicted_dice": 0.5}},
    }
    add(output, record("a") | {"judgement": said})
    write_tables(output, DESCRIPTION)
    (row,) = rows(output, "uncertainty.csv")
    assert list(row)[-3:] == ["predicted_dice", "flag", "flag_reason"]
    assert (row["predicted_dice"], row["flag"], row["flag_reason"]) == ("0.75", "review", "why")
    labels = rows(output, "uncertainty_per_label.csv")
    assert [one["predicted_dice"] for one in labels] == ["", "0.5"]


def test_a_table_without_components_has_the_columns_of_one(output: Path):
    add(output, record("a") | {"components": []})
    write_tables(output, DESCRIPTION)
    header, *none = (output / "uncertainty_per_component.csv").read_text().splitlines()
    assert header.split(",") == ["case", "label", "label_name", *COMPONENT_COLUMNS]
    assert none == []


def test_columns_that_later_cases_alone_have_come_last(output: Path):
    add(output, record("a"), record("b", heads_pairwise_dice=0.5))
    write_tables(output, DESCRIPTION)
    first, second = rows(output, "uncertainty.csv")
    assert list(first)[-1] == "heads_pairwise_dice"
    assert (first["heads_pairwise_dice"], second["heads_pairwise_dice"]) == ("", "0.5")


def test_without_a_case_the_tables_are_empty(output: Path):
    write_tables(output, DESCRIPTION)
    assert rows(output, "uncertainty.csv") == []
    assert json.loads((output / "uncertainty.json").read_text()) == DESCRIPTION


def test_a_record_that_comes_in_while_tables_are_written_is_in_them(output: Path):
    add(output, record("a"))
    written = tables._write_failed

    def finish_another(folder: Path) -> None:
        add(folder, record("b"))
        written(folder)

    with mock.patch.object(tables, "_write_failed", finish_another):
        write_tables(output, DESCRIPTION)
    assert [row["case"] for row in rows(output, "uncertainty.csv")] == ["a", "b"]


def test_a_record_is_read_once_though_others_come_in(output: Path):
    add(output, record("a"), record("b"))
    written = tables._write_failed
    late = iter("cde")

    def finish_another(folder: Path) -> None:
        add(folder, *(record(case) for case in [next(late, "e")]))
        written(folder)

    with (
        mock.patch.object(tables, "_write_failed", finish_another),
        mock.patch.object(tables, "_rows", wraps=tables._rows) as read,
    ):
        write_tables(output, DESCRIPTION)
    assert [call.args[0].stem for call in read.call_args_list] == list("abcde")
    assert [row["case"] for row in rows(output, "uncertainty_per_label.csv")] == list("aabbccddee")


def test_a_record_that_is_being_written_is_no_record(output: Path):
    add(output, record("a"))
    (output / "cases" / ".part.1").mkdir()
    (output / "cases" / ".part.1" / "b.json").write_text('{"case": "b"')
    (output / "cases" / ".part.c.json").write_text('{"case": "c"')  # of version 0.1.0
    write_tables(output, DESCRIPTION)
    assert [row["case"] for row in rows(output, "uncertainty.csv")] == ["a"]


@pytest.mark.parametrize("case", [".hidden", "._case", ".parts", "..."])
def test_a_name_may_start_with_a_dot(output: Path, case: str):
    add(output, record(case))
    note_failure(output, f"{case}2", "cannot be read")
    write_tables(output, DESCRIPTION)
    assert [row["case"] for row in rows(output, "uncertainty.csv")] == [case]
    assert [row["case"] for row in rows(output, "failed.csv")] == [f"{case}2"]


def test_failures_are_listed_with_their_reason_until_the_case_is_done(output: Path):
    note_failure(output, "a", 'no "image", at all')
    write_tables(output, DESCRIPTION)
    assert rows(output, "failed.csv") == [{"case": "a", "reason": 'no "image", at all'}]
    forget_failure(output, "a")
    write_tables(output, DESCRIPTION)
    assert not (output / "failed.csv").exists()


def test_a_case_with_a_record_has_not_failed(output: Path):
    """An earlier result was brought back from ``set_aside``, where the failure was not its own."""
    note_failure(output, "a", "the drive was not mounted")
    note_failure(output, "b", "cannot be read")
    add(output, record("a"))
    write_tables(output, DESCRIPTION)
    assert [row["case"] for row in rows(output, "uncertainty.csv")] == ["a"]
    assert [row["case"] for row in rows(output, "failed.csv")] == ["b"]


def test_forgetting_what_did_not_fail_does_nothing(output: Path):
    forget_failure(output, "a")
    assert list((output / "cases").iterdir()) == []


BROKEN = {
    "empty": b"",
    "cut off": b'{"case": "b", "sco',
    "no text": b"\x00\x05\x16\x07\xff\xfe",
    "another object": b"{}",
    "a list": b"[]",
    "no scores": b'{"case": "b", "scores": [], "empty_prediction": 0, "num_members": 3}',
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_a_file_that_is_no_record_is_named_and_costs_no_other_case(
    output: Path, content: bytes, caplog: Any
):
    add(output, record("a"), record("c"))
    (output / "cases" / "b.json").write_bytes(content)
    (output / "cases" / "b.failed").write_bytes(b"M\xfcller")
    write_tables(output, DESCRIPTION)
    for table in ("uncertainty.csv", "uncertainty_per_component.csv"):
        assert [row["case"] for row in rows(output, table)] == ["a", "c"]
    assert [row["case"] for row in rows(output, "failed.csv")] == ["b"]
    assert "1 files of" in caplog.text
    assert "(b.json): the tables are without them" in caplog.text
    assert has_settings(output / "cases" / "b.json", {"fusion": "mean"}) is not True


def test_notes_of_macos_are_no_records(output: Path, caplog: Any):
    add(output, record("a"))
    (output / "cases" / "._a.json").write_bytes(b"\x00\x05\x16\x07\xff\xfe")
    write_tables(output, DESCRIPTION)
    assert [row["case"] for row in rows(output, "uncertainty.csv")] == ["a"]
    assert caplog.text == ""


def test_records_are_named_by_their_cases(output: Path):
    add(output, record("b.1"), record("a"))
    note_failure(output, "c", "no image")
    assert record_names(output) == ["a", "b.1"]
