"""Arguments that both predict commands share."""

from pathlib import Path
from typing import Any

import pytest
from inference import faulty_runs as runs

from nnunetv2_le.cli.predict_arguments import PredictRequest
from nnunetv2_le.cli.predict_from_modelfolder import build_parser, build_request, main

COMMON = ["-m", "a", "-i", "b", "-o", "c"]


def request(*more: str) -> PredictRequest:
    return build_request(build_parser().parse_args([*COMMON, *more])).predict


@pytest.mark.parametrize(("value", "number"), [(None, 3), ("", 3), (" ", 3), ("0", 0), ("5", 5)])
def test_workers_are_those_of_nnunets_variables_unless_named(
    monkeypatch: pytest.MonkeyPatch, value: str | None, number: int
):
    for variable in ("nnUNet_npp", "nnUNet_nps"):
        monkeypatch.delenv(variable, raising=False)
        if value is not None:
            monkeypatch.setenv(variable, value)
    assert (request().num_preprocessing, request().num_writing) == (number, number)
    assert request("-npp", "1").num_preprocessing == 1
    assert request("-nps", "0").num_writing == 0


@pytest.mark.parametrize("variable", ["nnUNet_npp", "nnUNet_nps"])
def test_a_variable_that_is_no_number_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, variable: str
):
    monkeypatch.setenv(variable, "abc")
    assert main(COMMON) == 1
    runs.require_one_clear_line(capsys, variable, "'abc'", "unset it")


def test_a_map_that_is_named_twice_is_one_map():
    assert request("-maps", "entropy", "heads_entropy", "entropy").maps == (
        "entropy",
        "heads_entropy",
    )


@pytest.mark.parametrize("fold", ["²", "-1", "1.0", ""])
def test_a_fold_that_is_no_number_is_one_line(capsys: Any, fold: str):
    assert main([*COMMON, f"-f={fold}", "-device", "cpu"]) == 1
    runs.require_one_clear_line(capsys, "A fold is a number from 0, or all", repr(fold))


def test_paths_and_folds_are_those_that_were_named():
    found = request("-f", "1", "all")
    assert (found.source, found.output, found.folds) == (Path("b"), Path("c"), (1, "all"))
