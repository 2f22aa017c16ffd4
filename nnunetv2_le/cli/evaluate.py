"""``nnUNetv2_le_evaluate``: does the uncertainty of a prediction find its failures?

Joins the tables of a prediction folder with reference labels, and writes tables, a summary and
figures.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_le.cli.argument_types import not_empty, path
from nnunetv2_le.cli.common import require_writable, run_main
from nnunetv2_le.cli.devices import torch_device
from nnunetv2_le.cli.evaluation_options import (
    Options,
    add_options,
    options_of,
    require_predictions,
)
from nnunetv2_le.errors import InputError, SettingError

if TYPE_CHECKING:
    from nnunetv2_le.evaluation.evaluate import Evaluation

logger = logging.getLogger("nnunetv2_le.cli.evaluate")


@dataclass(frozen=True)
class EvaluateRequest:
    """One evaluation.

    Attributes:
        options: what compare can be told too.
        prediction: OUT.
        output: where results go.
        skip_heads: whether to study the effect of skipping heads (needs saved heads).
        num_case_figures: cases with the lowest Dice that get figures of their own.
        images: folder with images, for those figures and for ``model``.
        model: model folder that predicts heads for the study of skipping, instead of saved ones.
        device: where it predicts.
        checkpoint_name: which of its checkpoints.
    """

    options: Options
    prediction: Path
    output: Path
    skip_heads: bool = False
    num_case_figures: int = 3
    images: Path | None = None
    model: Path | None = None
    device: str = "cpu"
    checkpoint_name: str = "checkpoint_final.pth"


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_le_evaluate",
        description="Does the uncertainty find the failures? Metrics, curves and figures.",
    )
    parser.add_argument(
        "-pred",
        type=path,
        required=True,
        metavar="FOLDER",
        help="Output of nnUNetv2_le_predict.",
    )
    parser.add_argument(
        "-o", type=path, metavar="FOLDER", help="Default: FOLDER of -pred / evaluation."
    )
    parser.add_argument(
        "-i", type=path, metavar="FOLDER", help="Images, shown in the figures of single cases."
    )
    parser.add_argument(
        "-num_case_figures", type=int, default=3, help="Cases of lowest Dice to draw. Default: 3."
    )
    parser.add_argument(
        "--skip_heads",
        action="store_true",
        help="Effect of skipping the first heads; needs a prediction with --save_heads, or -m.",
    )
    parser.add_argument(
        "-m",
        type=path,
        metavar="MODEL_FOLDER",
        help="With --skip_heads: predict the heads of the images in -i anew, writing none of them.",
    )
    parser.add_argument(
        "-chk",
        type=not_empty,
        default="checkpoint_final.pth",
        help="Checkpoint of -m. Default: checkpoint_final.pth.",
    )
    parser.add_argument("-device", default="cpu", help="Where -m predicts. Default: cpu.")
    add_options(parser)
    return parser


def build_request(arguments: argparse.Namespace) -> EvaluateRequest:
    """Arguments to request."""
    if arguments.m and not (arguments.skip_heads and arguments.i):
        raise SettingError(
            "-m is for --skip_heads and needs the images: give --skip_heads and -i too"
        )
    return EvaluateRequest(
        options=options_of(arguments),
        prediction=arguments.pred,
        output=arguments.o or arguments.pred / "evaluation",
        skip_heads=arguments.skip_heads,
        num_case_figures=arguments.num_case_figures,
        images=arguments.i,
        model=arguments.m,
        device=arguments.device,
        checkpoint_name=arguments.chk,
    )


def run(request: EvaluateRequest) -> "Evaluation":
    """Evaluate, write, draw.

    Raises:
        LayerEnsembleError: if nothing could be evaluated or written.
    """
    from nnunetv2_le.evaluation.result_files import write_evaluation
    from nnunetv2_le.report.evaluation_figures import chosen_scores
    from nnunetv2_le.report.headline import headline

    options = request.options
    require_writable(request.output)
    if request.model is not None:  # not after all cases were evaluated
        torch_device(request.device)
    require_predictions(options, [request.prediction])
    _require_heads(request)
    evaluation = evaluate_folder(request.prediction, options)
    write_evaluation(evaluation, request.output, metrics=options.metrics(), method=options.method())
    if request.skip_heads:
        _skip_heads(request, evaluation)
    if options.figures:
        _figures(request, evaluation)
    report(evaluation)
    for line in headline(evaluation.score_table, chosen_scores(evaluation.scores, options.scores)):
        logger.info("%s", line)
    logger.info("Results: %s", request.output)
    return evaluation


def evaluate_folder(prediction: Path, options: Options) -> "Evaluation":
    """Evaluate one prediction folder as the options say."""
    from nnunetv2_le.evaluation.evaluate import evaluate_prediction

    return evaluate_prediction(
        prediction,
        options.references,
        dataset_file=options.dataset_file,
        plans_file=options.plans_file,
        case_table=options.case_table,
        metrics=options.metrics(),
        method=options.method(),
        num_processes=options.num_processes,
    )


def report(evaluation: "Evaluation", *, name: str = "") -> None:
    """Say what was left out, by name, and the headline."""
    start = f"{name}: " if name else ""
    for problem in evaluation.problems[:20]:
        logger.warning(
            "%s%s%s", start, f"{problem.case}: " if problem.case else "", problem.problem
        )
    more = len(evaluation.problems) - 20
    if more > 0:
        logger.warning("%sand %d more, all of them in problems.csv", start, more)
    dice = evaluation.cases["dice"]
    logger.info(
        "%s%d cases, mean Dice %.4f, %d problems",
        start,
        len(dice),
        dice.mean(),
        len(evaluation.problems),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``nnUNetv2_le_evaluate``."""
    return run_main(build_parser(), build_request, run=run, argv=argv)


def _require_heads(request: EvaluateRequest) -> None:
    """Refuse --skip_heads where no heads were saved, before all cases are evaluated."""
    saved = (request.prediction / "heads").glob("head_*/*.npz")
    if request.skip_heads and request.model is None and next(saved, None) is None:
        raise InputError(
            f"--skip_heads needs heads, and {request.prediction} has no heads: predict with "
            "--save_heads, or give -m and -i."
        )


def _figures(request: EvaluateRequest, evaluation: "Evaluation") -> None:
    from nnunetv2_le.evaluation.cases import find_cases
    from nnunetv2_le.report.case_figures import case_figures
    from nnunetv2_le.report.evaluation_figures import chosen_scores, evaluation_figures

    options = request.options
    folder = request.output / "figures"
    evaluation_figures(
        evaluation,
        folder,
        scores=chosen_scores(evaluation.scores, options.scores),
        dice_thresholds=options.dice_thresholds,
        domain_column=options.domain_column,
    )
    worst = set(evaluation.cases["dice"].nsmallest(max(0, request.num_case_figures)).index)
    files, _ = find_cases(
        request.prediction, options.references, file_ending=evaluation.dataset.file_ending
    )
    for one in files:
        if one.case in worst:
            try:
                case_figures(
                    one,
                    evaluation.dataset,
                    folder,
                    image_folder=request.images,
                    dice=float(evaluation.cases.loc[one.case, "dice"]),
                )
            except InputError as error:
                logger.warning("No figure of %s: %s", one.case, error)


def _skip_heads(request: EvaluateRequest, evaluation: "Evaluation") -> None:
    from nnunetv2_le.evaluation.cases import find_cases
    from nnunetv2_le.evaluation.predicted_heads import predicted_head_cases, predictor_of_heads
    from nnunetv2_le.evaluation.result_files import write_table
    from nnunetv2_le.evaluation.skip_heads import (
        saved_head_cases,
        skip_heads_of_each,
        skip_heads_table,
    )
    from nnunetv2_le.report.figure_files import save_figure
    from nnunetv2_le.report.skip_heads_figure import skip_heads_figure

    dataset = evaluation.dataset
    files, _ = find_cases(
        request.prediction, request.options.references, file_ending=dataset.file_ending
    )
    usable = [one for one in files if one.case in evaluation.cases.index]
    if request.model is not None and request.images is not None:
        predictor = predictor_of_heads(
            request.model, device=request.device, checkpoint_name=request.checkpoint_name
        )
        read = partial(
            predicted_head_cases, predictor, image_folder=request.images, dataset=dataset
        )
    else:
        read = partial(saved_head_cases, dataset=dataset)
    per_case, problems = skip_heads_of_each(
        usable, read, dataset.labels, ignore_label=dataset.ignore_label
    )
    for problem in problems:
        logger.warning("%s is left out of skip_heads.csv: %s", problem.case, problem.problem)
    table = skip_heads_table(per_case)
    write_table(per_case, request.output / "skip_heads_cases.csv")
    write_table(table, request.output / "skip_heads.csv")
    if request.options.figures:
        save_figure(skip_heads_figure(table), request.output / "figures", "skip_heads")


if __name__ == "__main__":
    sys.exit(main())
