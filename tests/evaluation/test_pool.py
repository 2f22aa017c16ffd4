"""Cases on several processes: one that the system ends costs one clear line, not for ever."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nnunetv2_le.errors import LayerEnsembleError
from nnunetv2_le.evaluation.case_metrics import MetricSettings
from nnunetv2_le.evaluation.cases import CaseFiles
from nnunetv2_le.evaluation.dataset import EvaluationDataset
from nnunetv2_le.evaluation.pool import evaluate_cases, leave_ctrl_c_to_the_first_process
from nnunetv2_le.types import Labels


@dataclass(frozen=True)
class NoMemory:
    """A reader whose process is ended by the system."""

    process: int

    def read_seg(self, file: str) -> Any:
        assert os.getpid() != self.process
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_is_one_clear_error(tmp_path: Path):
    labels = Labels(names=("front",), values=(1,))
    dataset = EvaluationDataset(".png", labels, None, (0, 1), NoMemory(os.getpid()))
    files = [CaseFiles(name, tmp_path / name, (tmp_path / name,)) for name in ("a", "b", "c")]
    with pytest.raises(LayerEnsembleError, match=r"processes .*died.* memory.* -np 1"):
        evaluate_cases(files, dataset, settings=MetricSettings(), num_processes=2)


SLOW_CASES = """
import signal, sys, time
from pathlib import Path
from nnunetv2_le.cli.common import EXIT_INTERRUPTED
from nnunetv2_le.evaluation.case_metrics import MetricSettings
from nnunetv2_le.evaluation.cases import CaseFiles
from nnunetv2_le.evaluation.dataset import EvaluationDataset
from nnunetv2_le.evaluation.pool import evaluate_cases
from nnunetv2_le.types import Labels

class Slow:
    def read_seg(self, file):
        Path(file).with_suffix(".begun").touch()
        time.sleep(60)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run may ignore it
    folder = Path(sys.argv[1])
    labels = Labels(names=("front",), values=(1,))
    dataset = EvaluationDataset(".png", labels, None, (0, 1), Slow())
    files = [CaseFiles(name, folder / name, (folder / name,)) for name in "abcdefgh"]
    try:
        evaluate_cases(files, dataset, settings=MetricSettings(), num_processes=2)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [(signal.default_int_handler, signal.SIG_DFL), (signal.SIG_IGN, signal.SIG_IGN)],
)
def test_processes_of_a_command_that_ignores_ctrl_c_ignore_it(before: Any, after: Any):
    handler = signal.signal(signal.SIGINT, before)
    try:
        leave_ctrl_c_to_the_first_process()
        assert signal.getsignal(signal.SIGINT) == after
    finally:
        signal.signal(signal.SIGINT, handler)


def test_ctrl_c_ends_the_processes_at_once_and_without_tracebacks(tmp_path: Path):
    script = tmp_path / "slow_cases.py"
    script.write_text(SLOW_CASES)
    run = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("*.begun"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does
        _, said = run.communicate(timeout=50)
        assert (run.returncode, said) == (130, b"")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
