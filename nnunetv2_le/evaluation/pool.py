"""Many cases on several processes, as nnU-Net evaluates: a pool of spawned processes.

Workers import neither torch nor pandas, so they start fast. Histograms of calibration are added up
within a chunk, because they are larger than everything else of a case together. The system may end
a process for lack of memory: ``concurrent.futures`` notices, ``multiprocessing.Pool`` would wait
for ever.
"""

import multiprocessing
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import repeat

from nnunetv2_le.errors import LayerEnsembleError
from nnunetv2_le.evaluation.calibration_error import CalibrationHistogram
from nnunetv2_le.evaluation.case_metrics import CaseMetrics, MetricSettings, evaluate_case
from nnunetv2_le.evaluation.cases import CaseFiles
from nnunetv2_le.evaluation.dataset import EvaluationDataset

_CHUNKS_A_PROCESS = 4  # uneven cases spread over the processes

CalibrationPair = tuple[CalibrationHistogram, CalibrationHistogram]


@dataclass(frozen=True)
class EvaluatedCases:
    """What came of all cases.

    Attributes:
        cases: figures of each, in the order asked for.
        calibration: histograms over all cases: whole image, region of interest; None without saved
            probabilities.
    """

    cases: tuple[CaseMetrics, ...]
    calibration: CalibrationPair | None


def evaluate_cases(
    files: Sequence[CaseFiles],
    dataset: EvaluationDataset,
    *,
    settings: MetricSettings,
    num_processes: int = 1,
) -> EvaluatedCases:
    """Evaluate cases, on several processes if asked for.

    Args:
        files: of the cases.
        dataset: how they are read.
        settings: what to compute.
        num_processes: processes; 1 stays in this one.

    Raises:
        LayerEnsembleError: a process died.
    """
    if num_processes <= 1 or len(files) == 1:
        return _evaluate_chunk(files, dataset, settings)
    size = max(1, -(-len(files) // (num_processes * _CHUNKS_A_PROCESS)))
    chunks = [files[start : start + size] for start in range(0, len(files), size)]
    pool = ProcessPoolExecutor(
        min(num_processes, len(chunks)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=leave_ctrl_c_to_the_first_process,
    )
    try:
        parts = list(pool.map(_evaluate_chunk, chunks, repeat(dataset), repeat(settings)))
    except BrokenProcessPool as error:
        raise LayerEnsembleError(
            f"One of {num_processes} processes that compare cases with their references died, most "
            "likely for lack of memory. Run again with fewer of them, for example -np 1."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
    calibration = None
    for part in parts:
        calibration = _added(calibration, part.calibration)
    return EvaluatedCases(tuple(case for part in parts for case in part.cases), calibration)


def leave_ctrl_c_to_the_first_process() -> None:
    """Ctrl-C reaches every process of the terminal: the others end without a word.

    Where the first one ignores it, such as what a script starts with ``&``, so do they.
    """
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _evaluate_chunk(
    files: Sequence[CaseFiles], dataset: EvaluationDataset, settings: MetricSettings
) -> EvaluatedCases:
    cases, calibration = [], None
    for one in files:
        case = evaluate_case(one, dataset, settings)
        calibration = _added(calibration, case.calibration)
        cases.append(replace(case, calibration=None))
    return EvaluatedCases(tuple(cases), calibration)


def _added(total: CalibrationPair | None, part: CalibrationPair | None) -> CalibrationPair | None:
    if total is None or part is None:
        return part if total is None else total
    for histogram, more in zip(total, part, strict=True):
        histogram.merge(more)
    return total
