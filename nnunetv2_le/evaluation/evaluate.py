"""Evaluate one prediction folder: its cases against references, its scores against failures.

files of the cases -> figures of each case -> joined with the scores -> figures of each score
"""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from nnunetv2_le.errors import InputError
from nnunetv2_le.evaluation.case_metrics import CaseMetrics, MetricSettings
from nnunetv2_le.evaluation.cases import Problem, find_cases
from nnunetv2_le.evaluation.confidence_tables import (
    ConfidenceTables,
    Score,
    read_confidence_tables,
)
from nnunetv2_le.evaluation.dataset import EvaluationDataset, read_dataset, read_description
from nnunetv2_le.evaluation.method import (
    MethodSettings,
    given_column,
    joined,
    score_table,
    side_by_side,
)
from nnunetv2_le.evaluation.pool import CalibrationPair, evaluate_cases

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """Everything about one prediction folder.

    Attributes:
        cases: one row a case, by its name: figures, scores, columns of the user's case table.
        labels: one row a case and label: figures and scores of the label.
        scores: which columns are scores.
        score_table: figures of each score and subset; empty without scores.
        calibration: histograms over all cases: whole image, region of interest.
        problems: what was left out and why.
        dataset: labels and reader.
    """

    cases: pd.DataFrame
    labels: pd.DataFrame
    scores: tuple[Score, ...]
    score_table: pd.DataFrame
    calibration: CalibrationPair | None
    problems: tuple[Problem, ...]
    dataset: EvaluationDataset


def evaluate_prediction(
    prediction_folder: Path,
    reference_folders: Sequence[Path],
    *,
    dataset_file: Path | None = None,
    plans_file: Path | None = None,
    case_table: Path | None = None,
    metrics: MetricSettings | None = None,
    method: MethodSettings | None = None,
    num_processes: int = 1,
) -> Evaluation:
    """Evaluate a prediction folder.

    Args:
        prediction_folder: OUT of nnUNetv2_le_predict; of nnUNetv2_predict too, without scores.
        reference_folders: labels; several folders are several raters.
        dataset_file: ``dataset.json``; None takes the prediction folder's.
        plans_file: ``plans.json``; None takes the prediction folder's, if it has one.
        case_table: a CSV with a column ``case`` and others, such as domain and patient.
        metrics: what to compute of each case.
        method: how scores are judged.
        num_processes: processes.

    Raises:
        InputError: if nothing can be evaluated.
    """
    method = method or MethodSettings()
    dataset_file = dataset_file or prediction_folder / "dataset.json"
    if plans_file is None and (prediction_folder / "plans.json").is_file():
        plans_file = prediction_folder / "plans.json"
    ending = read_description(dataset_file)["file_ending"]
    files, problems = find_cases(prediction_folder, reference_folders, file_ending=ending)
    examples = [file for one in files for file in (*one.references, one.prediction)]
    dataset = read_dataset(dataset_file, plans_file=plans_file, example_files=examples)
    tables = read_confidence_tables(prediction_folder)
    extra = _read_case_table(case_table, method)
    evaluated = evaluate_cases(
        files, dataset, settings=metrics or MetricSettings(), num_processes=num_processes
    )
    usable = _usable(evaluated.cases, problems)
    cases, more = joined(_case_frame(usable), tables)
    problems += more
    labels = _label_frame(usable, tables)
    if extra is not None:
        cases, more = _with_case_table(cases, extra, method)
        problems += more
        labels = _with_columns(labels, cases, method)
    scores = () if tables is None else tables.scores
    judged, more = score_table(cases, labels, scores=scores, settings=method)
    problems += more
    return Evaluation(
        cases, labels, scores, judged, evaluated.calibration, tuple(problems), dataset
    )


def _usable(cases: Sequence[CaseMetrics], problems: list[Problem]) -> list[CaseMetrics]:
    """The cases with figures; notes why the others have none."""
    for case in cases:
        if case.failure is not None:
            problems.append(Problem(case.case, case.failure))
        problems += [Problem(case.case, problem) for problem in case.problems]
    usable = [case for case in cases if case.failure is None]
    if not usable:
        raise InputError(
            f"none of {len(cases)} cases could be evaluated; the first: "
            f"{cases[0].case}: {cases[0].failure}"
        )
    return usable


def _case_frame(cases: Sequence[CaseMetrics]) -> pd.DataFrame:
    frame = pd.DataFrame([case.values for case in cases], index=[case.case for case in cases])
    return frame.rename_axis("case")


def _label_frame(cases: Sequence[CaseMetrics], tables: ConfidenceTables | None) -> pd.DataFrame:
    rows = [
        {"case": case.case, "label_name": name, **figures}
        for case in cases
        for name, figures in case.per_label.items()
    ]
    frame = pd.DataFrame(rows).set_index(["case", "label_name"])
    if tables is not None and tables.labels is not None:
        frame = side_by_side(frame, tables.labels, "predicted")
    return frame.reset_index()


def _read_case_table(path: Path | None, method: MethodSettings) -> pd.DataFrame | None:
    wanted = _wanted(method)
    if path is None:
        if wanted:
            raise InputError(f"columns {wanted} were asked for, but no table of cases was given")
        return None
    table = _read_texts(path)
    missing = [column for column in ("case", *wanted) if column not in table.columns]
    if missing:
        raise InputError(
            f"{path} has no column {missing}; it has {list(table.columns)}, separated by commas"
        )
    table = table.dropna(subset=["case"])  # spreadsheets leave empty rows at the end
    if table["case"].duplicated().any():
        raise InputError(
            f"{path} names a case twice: {table['case'][table['case'].duplicated()].iloc[0]}"
        )
    return table.set_index("case")


def _read_texts(path: Path) -> pd.DataFrame:
    """A table of texts without the blanks around them, which spreadsheets keep and nobody sees."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
            table = pd.read_csv(
                path,
                dtype=str,
                keep_default_na=False,  # a site may be called NA
                na_values=[""],
                index_col=False,  # commas at the end of rows would make the first column none
            )
    except (OSError, ValueError, pd.errors.ParserWarning) as error:
        raise InputError(
            f"{path} cannot be read as a table: {error}; save it as CSV with commas, in UTF-8"
        ) from error
    stripped = table.apply(lambda column: column.str.strip())
    return stripped.mask(stripped == "")


def _with_case_table(
    cases: pd.DataFrame, extra: pd.DataFrame, method: MethodSettings
) -> tuple[pd.DataFrame, list[Problem]]:
    """Figures and the user's columns; 'unknown' where nothing is said, of patients one a case."""
    missing = cases.index.difference(extra.index)
    problems = [
        Problem(str(case), "the table of cases has no row for it; its columns are 'unknown'")
        for case in missing
    ]
    extra = extra.reindex(cases.index)
    for column in dict.fromkeys(_wanted(method)):
        problems += [
            Problem(str(case), f"its {column} is empty in the table of cases, and 'unknown' here")
            for case in extra.index[extra[column].isna()].difference(missing)
        ]
    if method.patient_column is not None:  # cases of nobody known belong to different patients
        own = [f"unknown ({case})" for case in extra.index]
        patients = extra[method.patient_column]
        extra[method.patient_column] = patients.where(patients.notna(), own)
    return side_by_side(cases, extra.fillna("unknown"), "given"), problems


def _wanted(method: MethodSettings) -> list[str]:
    return [c for c in (method.domain_column, method.patient_column) if c is not None]


def _with_columns(
    labels: pd.DataFrame, cases: pd.DataFrame, method: MethodSettings
) -> pd.DataFrame:
    """The domain and patient of each row's case beside its figures."""
    extra = pd.DataFrame(
        {column: cases[given_column(cases, column)] for column in _wanted(method)},
        index=cases.index,
    )
    return side_by_side(labels.set_index("case"), extra, "given").reset_index()
