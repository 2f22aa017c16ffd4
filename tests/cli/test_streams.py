"""A message that cannot be written is lost; exit code and results are as if it had been."""

import subprocess
import sys
from pathlib import Path

import pytest
from inference import faulty_runs as runs
from inference.model_folders import TinyImage

COMMAND = """
import logging, sys, tqdm
from argparse import ArgumentParser
from pathlib import Path
from nnunetv2_le.cli.common import run_main
from nnunetv2_le.errors import InputError

def run(request):
    for number in range(1000):
        print("a library prints", number)
        logging.getLogger("nnunetv2_le").warning("a warning of %d", number)
        logging.getLogger("nnunetv2_le").info("m\\u00fcller \\udcfc %d", number)
    for _ in tqdm.tqdm(range(3), mininterval=0):
        pass
    Path(request.done).touch()
    if request.fails:
        raise InputError("no")

parser = ArgumentParser()
parser.add_argument("done")
parser.add_argument("--fails", action="store_true")
sys.exit(run_main(parser, lambda arguments: arguments, run=run))
"""

SHELL = {
    "stdout full": "{} > /dev/full",
    "stderr full": "{} 2> /dev/full",
    "both full": "{} > /dev/full 2>&1",
    "stdout closed": "{} >&-",
    "both closed": "{} >&- 2>&-",
    "reader gone": "set -o pipefail; {} 2>&1 | head -c 1",
    "another encoding": "PYTHONIOENCODING=ascii {}",
}


def shell(command: str, words: list[str], folder: Path) -> int:
    full = command.format('"$@"')
    return subprocess.run(
        ["bash", "-c", full, "bash", sys.executable, *words],
        capture_output=True,
        cwd=folder,
        check=False,
    ).returncode


@pytest.mark.parametrize("command", SHELL.values(), ids=SHELL.keys())
def test_a_lost_message_changes_neither_work_nor_exit_code(command: str, tmp_path: Path):
    (tmp_path / "command.py").write_text(COMMAND)
    for more, code in (([], 0), (["--fails"], 1)):
        assert shell(command, ["command.py", "done", *more], tmp_path) == code
        (tmp_path / "done").unlink()


@pytest.mark.slow
def test_a_lost_message_costs_no_case(tmp_path: Path):
    model, source = runs.write_model(tmp_path / "model"), runs.write_cases(tmp_path / "in")
    runs.truncate(source / "first_0000.nii.gz")
    module = ["-m", "nnunetv2_le.cli.predict_from_modelfolder"]
    words = [*module, *runs.arguments(model, source, tmp_path / "out")]
    words.remove("--disable_progress_bar")
    assert shell("{} > /dev/full 2>&1", words, tmp_path) == 1
    assert runs.done(tmp_path / "out") == {"second", "third"}
    assert list(runs.failures(tmp_path / "out")) == ["first"]


@pytest.mark.slow
def test_a_command_run_as_a_module_says_its_closing_lines(tmp_path: Path):
    model = runs.write_model(tmp_path / "model")
    TinyImage(shape=(14, 18, 16)).write(tmp_path / "in")
    words = runs.arguments(model, tmp_path / "in", tmp_path / "out")
    module = [sys.executable, "-m", "nnunetv2_le.cli.predict_from_modelfolder", *words]
    found = subprocess.run(module, capture_output=True, text=True, check=True)
    assert f"1 cases in {tmp_path / 'out'}; scores of each in uncertainty.csv." in found.stdout
