"""From arguments to an exit code, in one line where it goes wrong."""

import argparse
import logging
import os
from pathlib import Path

import pytest

from nnunetv2_le.cli.common import require_writable, run_main
from nnunetv2_le.errors import OutputError, SettingError

logger = logging.getLogger("nnunetv2_le.tests")


def _main(run, argv=(), build_request=lambda arguments: arguments) -> int:
    parser = argparse.ArgumentParser(prog="command")
    parser.add_argument("-number", type=int)
    return run_main(parser, build_request, run=run, argv=list(argv))


def _raiser(error: BaseException):
    def run(_: object) -> None:
        raise error

    return run


@pytest.mark.parametrize(("given", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_sleep_while_they_wait_unless_the_user_chose(monkeypatch, given, expected):
    monkeypatch.setenv("OMP_WAIT_POLICY", given or "")  # and what it was comes back afterwards
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    seen = []
    assert _main(lambda _: seen.append(os.environ["OMP_WAIT_POLICY"])) == 0
    assert seen == [expected]


def test_an_output_on_a_drive_that_is_not_there_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "exists", lambda _: False)  # on Windows there may be no root
    with pytest.raises(OutputError, match="has to be a folder that can be written"):
        require_writable(tmp_path / "gone" / "out")


def test_a_finished_run_is_zero_and_messages_go_to_stdout(capsys):
    assert _main(lambda _: logger.info("%d cases", 3)) == 0
    assert capsys.readouterr() == ("3 cases\n", "")


def test_a_message_is_written_once_however_many_commands_ran(capsys):
    for _ in range(3):
        _main(lambda _: None)
    _main(lambda _: logger.info("once"))
    assert capsys.readouterr().out == "once\n"


def test_warnings_go_to_stderr(capsys):
    _main(lambda _: logger.warning("beware"))
    assert capsys.readouterr() == ("", "beware\n")


def test_debug_messages_are_for_verbose_alone(capsys):
    _main(lambda _: logger.debug("detail"))
    assert capsys.readouterr().out == ""
    _main(lambda _: logger.debug("detail"), ["--verbose"])
    assert capsys.readouterr().out == "detail\n"


@pytest.mark.parametrize("error", [SettingError("two\nlines"), OutputError("two\nlines")])
def test_a_known_error_is_one_line_and_exit_code_one(capsys, error):
    assert _main(_raiser(error)) == 1
    assert capsys.readouterr() == ("", "command: two lines\n")


def test_a_request_that_makes_no_sense_is_a_known_error(capsys):
    def build_request(_: argparse.Namespace) -> None:
        raise SettingError("no")

    assert _main(lambda _: None, build_request=build_request) == 1
    assert capsys.readouterr().err == "command: no\n"


def test_an_unexpected_error_names_its_type_and_how_to_see_more(capsys):
    assert _main(_raiser(KeyError("x"))) == 1
    assert capsys.readouterr().err == (
        "command: unexpected KeyError: 'x' (run again with --verbose for the traceback)\n"
    )


def test_what_may_not_be_read_is_no_unexpected_error(capsys):
    assert _main(_raiser(PermissionError(13, "Permission denied", "model/plans.json"))) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "Permission denied: 'model/plans.json'. Give this user the right to it" in error


def test_verbose_shows_the_traceback_above_the_line(capsys):
    assert _main(_raiser(ValueError("x")), ["--verbose"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert "Traceback (most recent call last):" in lines
    assert lines[-1] == "command: unexpected ValueError: x"


def test_an_interrupt_is_one_line_and_130(capsys):
    assert _main(_raiser(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "command: interrupted.\n"


def test_a_usage_error_is_two(capsys):
    with pytest.raises(SystemExit, match="2"):
        _main(lambda _: None, ["-number", "many"])
    assert "invalid int value: 'many'" in capsys.readouterr().err


def test_a_parser_with_its_own_verbose_keeps_it():
    parser = argparse.ArgumentParser()
    parser.add_argument("--verbose", action="store_true", help="nnU-Net's own")
    assert run_main(parser, lambda arguments: arguments, run=lambda _: None, argv=[]) == 0
    assert "nnU-Net's own" in parser.format_help()
