"""Types of arguments: an empty name never means the current folder."""

import argparse
from pathlib import Path
from typing import Any

import pytest

from nnunetv2_le.cli import calibrate, compare, demo, evaluate, predict, predict_from_modelfolder
from nnunetv2_le.cli.argument_types import not_empty, path
from nnunetv2_le.cli.train_arguments import add_train_arguments

PREDICT = ["-i", "images", "-o", "out"]


def train_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    add_train_arguments(parser)
    return parser


@pytest.mark.parametrize(
    ("parser", "needed", "flags"),
    [
        (
            predict_from_modelfolder.build_parser(),
            [*PREDICT, "-m", "model"],
            ["-i", "-o", "-m", "-chk", "-prev_stage_predictions"],
        ),
        (predict.build_parser(), [*PREDICT, "-d", "1", "-c", "2d"], ["-i", "-o", "-chk"]),
        (
            calibrate.build_parser(),
            [],
            ["-i", "-ref", "-o", "-m", "-chk", "-cases", "-prev_stage_predictions"],
        ),
        (
            evaluate.build_parser(),
            ["-pred", "out", "-ref", "labels"],
            ["-pred", "-ref", "-o", "-i", "-m", "-chk", "-djfile", "-pfile", "-cases"],
        ),
        (compare.build_parser(), ["-pred", "A=a", "-ref", "r", "-o", "out"], ["-ref", "-o"]),
        (demo.build_parser(), ["-o", "out"], ["-o"]),
        (train_parser(), ["1", "2d", "0"], ["-pretrained_weights"]),
    ],
    ids=[
        "predict_from_modelfolder",
        "predict",
        "calibrate",
        "evaluate",
        "compare",
        "demo",
        "train",
    ],
)
def test_an_empty_name_is_a_usage_error_not_the_current_folder(
    capsys: Any, parser: argparse.ArgumentParser, needed: list[str], flags: list[str]
):
    parser.parse_args(needed)
    for flag in flags:
        with pytest.raises(SystemExit, match="2"):
            parser.parse_args([*needed, flag, ""])
        assert f"argument {flag}: expected a name, got ''" in capsys.readouterr().err


def test_a_name_of_blanks_is_empty():
    with pytest.raises(argparse.ArgumentTypeError, match="expected a name, got '  '"):
        not_empty("  ")


def test_a_name_is_kept_as_it_is():
    assert path("a b/c") == Path("a b/c")
