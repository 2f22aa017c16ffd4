"""``nnUNetv2_le_compare``: methods side by side, on the cases that all of them predicted."""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_le.cli.argument_types import path
from nnunetv2_le.cli.common import require_writable, run_main
from nnunetv2_le.cli.evaluate import evaluate_folder, report
from nnunetv2_le.cli.evaluation_options import (
    Options,
    add_options,
    options_of,
    require_predictions,
)
from nnunetv2_le.errors import SettingError, first_few

if TYPE_CHECKING:
    from nnunetv2_le.evaluation.evaluate import Evaluation

logger = logging.getLogger("nnunetv2_le.cli.compare")

_ENDINGS = ("csv", "md", "tex")
_NOT_IN_FOLDERS = set('/\\:*?"<>|')  # of Windows, so that results can be taken there
_TAKEN = {
    *(".", "..", "figures", "differences.csv", "summary.json"),
    *(f"{table}.{ending}" for table in ("quality", "correlation") for ending in _ENDINGS),
}


@dataclass(frozen=True)
class CompareRequest:
    """One comparison.

    Attributes:
        options: what evaluate can be told too.
        predictions: method's name to OUT.
        output: where results go.
    """

    options: Options
    predictions: dict[str, Path]
    output: Path


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_le_compare",
        description="Tables and figures of several methods, on the cases that all of them have.",
    )
    parser.add_argument(
        "-pred",
        required=True,
        nargs="+",
        metavar="NAME=FOLDER",
        help="A name for each method and the folder with its predictions.",
    )
    parser.add_argument("-o", type=path, required=True, metavar="FOLDER", help="Where results go.")
    add_options(parser)
    return parser


def build_request(arguments: argparse.Namespace) -> CompareRequest:
    """Arguments to request.

    Raises:
        SettingError: if there are no two methods with names of their own that folders can have.
    """
    predictions: dict[str, Path] = {}
    for entry in arguments.pred:
        name, equals, folder = entry.partition("=")
        if not (name and equals and folder):
            raise SettingError(f"-pred takes NAME=FOLDER, got {entry!r}")
        if name.lower() in map(str.lower, predictions):  # one folder on macOS and Windows
            raise SettingError(f"-pred names the method {name!r} twice")
        _require_name_of_folder(name)
        predictions[name] = Path(folder)
    if len(predictions) < 2:
        raise SettingError("-pred needs at least two methods; nnUNetv2_le_evaluate takes one")
    return CompareRequest(options_of(arguments), predictions, arguments.o)


def run(request: CompareRequest) -> "dict[str, Evaluation]":
    """Evaluate every method, compare, write, draw.

    Raises:
        LayerEnsembleError: if a method cannot be evaluated or the methods have no case in common.
    """
    from nnunetv2_le.evaluation.comparison import common_cases
    from nnunetv2_le.evaluation.result_files import write_evaluation

    options = request.options
    require_writable(request.output)
    require_predictions(options, request.predictions.values())
    methods = {}
    for name, folder in request.predictions.items():
        methods[name] = evaluate_folder(folder, options)
        report(methods[name], name=name)
        write_evaluation(
            methods[name],
            request.output / name,
            metrics=options.metrics(),
            method=options.method(),
        )
    _warn_of_other_labels({name: method.dataset.labels.names for name, method in methods.items()})
    cases = common_cases({name: method.cases for name, method in methods.items()})
    for name, method in methods.items():
        if len(method.cases) > len(cases):
            left_out = len(method.cases) - len(cases)
            logger.warning("%s: %d cases that another method lacks are left out", name, left_out)
    _write_tables(methods, request)
    if options.figures:
        _figures(_on_common_cases(methods, cases, request), request)
    logger.info("%d cases in common. Results: %s", len(cases), request.output)
    return methods


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``nnUNetv2_le_compare``."""
    return run_main(build_parser(), build_request, run=run, argv=argv)


def _require_name_of_folder(name: str) -> None:
    impossible = not name.strip() or not name.isprintable() or _NOT_IN_FOLDERS & set(name)
    if impossible or name.lower() in _TAKEN:
        raise SettingError(
            "a method's name becomes a folder beside the results: it must not have a slash, a line "
            """break or one of \\:*?"<>|, nor be blank, '.', '..', 'figures' or the name of a """
            f"table, got {name!r}"
        )


def _warn_of_other_labels(labels: Mapping[str, Sequence[str]]) -> None:
    """A mean over other labels is another quantity."""
    first, *others = labels
    for other in others:
        if set(labels[other]) != set(labels[first]):
            logger.warning(
                "%s and %s have different labels (only %s: %s; only %s: %s): their figures over "
                "all labels are not of the same thing.",
                *(first, other),
                *(first, _alone(labels[first], labels[other])),
                *(other, _alone(labels[other], labels[first])),
            )


def _alone(labels: Sequence[str], others: Sequence[str]) -> str:
    """The labels that the others are without: nobody finds them in two lists of a hundred."""
    return first_few(label for label in labels if label not in others) or "none"


def _write_tables(methods: "Mapping[str, Evaluation]", request: CompareRequest) -> None:
    from nnunetv2_le.evaluation.comparison import (
        common_cases,
        correlation_table,
        difference_table,
        quality_table,
    )
    from nnunetv2_le.evaluation.result_files import write_json, write_table, write_text
    from nnunetv2_le.report.method_tables import correlation_text, quality_text

    frames = {name: method.cases for name, method in methods.items()}
    settings = request.options.method()
    quality = quality_table(frames, patient_column=settings.patient_column)
    correlation, differences = correlation_table(methods), difference_table(methods, settings)
    by_patient = settings.patient_column is not None
    for name, table, text in (
        ("quality", quality, partial(quality_text, by_patient=by_patient)),
        ("correlation", correlation, correlation_text),
    ):
        write_table(table, request.output / f"{name}.csv")
        if len(table):
            write_text(text(table, "markdown"), request.output / f"{name}.md")
            write_text(text(table, "latex"), request.output / f"{name}.tex")
    write_table(differences, request.output / "differences.csv")
    write_json(
        {
            "methods": list(methods),
            "num_common_cases": len(common_cases(frames)),
            "quality": quality.to_dict("records"),
            "correlation": correlation.to_dict("records"),
            "differences": differences.to_dict("records"),
        },
        request.output / "summary.json",
    )


def _on_common_cases(
    methods: "Mapping[str, Evaluation]", cases: Sequence[str], request: CompareRequest
) -> "dict[str, Evaluation]":
    """What the figures show."""
    from nnunetv2_le.evaluation.common_calibration import common_calibration

    options = request.options
    calibration = common_calibration(
        methods,
        request.predictions,
        options.references,
        metrics=options.metrics(),
        num_processes=options.num_processes,
    )
    return {
        name: replace(method, cases=method.cases.loc[list(cases)], calibration=calibration[name])
        for name, method in methods.items()
    }


def _figures(methods: "Mapping[str, Evaluation]", request: CompareRequest) -> None:
    """One curve a method, a folder of figures for each score."""
    from nnunetv2_le.report.evaluation_figures import (
        chosen_scores,
        dice_and_confidences,
        failure_figures,
        reliability_figures,
    )

    folder = request.output / "figures"
    available = list(dict.fromkeys(score for method in methods.values() for score in method.scores))
    for score in chosen_scores(available, request.options.scores) if available else []:
        pairs = {
            name: pair
            for name, method in methods.items()
            if score in method.scores and (pair := dice_and_confidences(method.cases, score))
        }
        failure_figures(pairs, folder / score.name, dice_thresholds=request.options.dice_thresholds)
    reliability_figures(methods, folder)


if __name__ == "__main__":
    sys.exit(main())
