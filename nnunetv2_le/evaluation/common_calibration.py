"""Reliability of several methods on the same cases.

An evaluation has one histogram over all its cases, because a histogram of each case would be larger
than everything else of a case together. Where methods lack different cases, those that all of them
have are read again.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from nnunetv2_le.evaluation.case_metrics import MetricSettings
from nnunetv2_le.evaluation.cases import find_cases
from nnunetv2_le.evaluation.comparison import common_cases
from nnunetv2_le.evaluation.confidence_tables import numbers
from nnunetv2_le.evaluation.evaluate import Evaluation
from nnunetv2_le.evaluation.pool import CalibrationPair, evaluate_cases


def common_calibration(
    methods: Mapping[str, Evaluation],
    predictions: Mapping[str, Path],
    references: Sequence[Path],
    *,
    metrics: MetricSettings,
    num_processes: int = 1,
) -> dict[str, CalibrationPair | None]:
    """Histograms over the cases of all methods, with probabilities of every method that saved any.

    Args:
        methods: name to evaluation.
        predictions: name to the folder that was evaluated.
        references: folders of labels.
        metrics: settings of the evaluations.
        num_processes: processes.

    Returns:
        Name to histograms of the whole image and the region of interest; None without
        probabilities.
    """
    found = {name: method.calibration for name, method in methods.items()}
    counted = {
        name: _with_probabilities(method)
        for name, method in methods.items()
        if method.calibration is not None
    }
    shared = set(common_cases({name: method.cases for name, method in methods.items()}))
    shared = shared.intersection(*counted.values())
    for name, cases in counted.items():
        if cases != shared:
            found[name] = _read_again(
                shared,
                methods[name],
                predictions[name],
                references,
                metrics=metrics,
                num_processes=num_processes,
            )
    return found


def _with_probabilities(method: Evaluation) -> set[str]:
    """The cases that the method's histograms hold."""
    return set(method.cases.index[np.isfinite(numbers(method.cases, "nll"))])


def _read_again(
    cases: Collection[str],
    method: Evaluation,
    prediction: Path,
    references: Sequence[Path],
    *,
    metrics: MetricSettings,
    num_processes: int,
) -> CalibrationPair | None:
    files, _ = find_cases(prediction, references, file_ending=method.dataset.file_ending)
    files = [one for one in files if one.case in cases]
    if not files:
        return None
    settings = replace(metrics, distances=False)
    return evaluate_cases(
        files, method.dataset, settings=settings, num_processes=num_processes
    ).calibration
