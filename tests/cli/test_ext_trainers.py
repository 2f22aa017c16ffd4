from pathlib import Path

import pytest

from nnunetv2_le.cli import ext_trainers
from nnunetv2_le.training.registry import trainers_folder


def test_the_folder_is_all_that_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert ext_trainers.main([]) == 0
    output = capsys.readouterr()
    assert output.out == f"{trainers_folder()}\n"
    assert output.err == ""
    assert (Path(output.out.strip()) / "nnunetv2_le_trainers.py").is_file()


def test_an_argument_is_a_usage_error() -> None:
    with pytest.raises(SystemExit, match="2"):
        ext_trainers.main(["something"])
