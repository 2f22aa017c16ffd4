"""Cases on several processes: one that the system ends costs one clear line, not for ever."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nnunetv2_le.errors import LayerEnsembleError
from nnunetv2_le.evaluation.case_metrics import MetricSettings
from nnunetv2_le.evaluation.cases import CaseFiles
from nnunetv2_le.evaluation.dataset import EvaluationDataset
from nnunetv2_le.evaluation.pool import evaluate_cases
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
