"""``nnUNetv2_le_evaluate``: does the uncertainty of a prediction find its failures?

Joins the tables of a prediction folder with reference labels, and writes tables, a summary and
figures.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_le.cli.common import run_main
from nnunetv2_le.errors import InputError, SettingError

if TYPE_CHECKING:
    from nnunetv2_le.evaluation.case_metrics import MetricSettings
    from nnunetv2_le.evaluation.evaluate import Evaluation
    from nnunetv2_le.evaluation.method import MethodSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """What both commands, evaluate and compare, can be told.

    Attributes:
        references: folders with labels; several are several raters.
        dataset_file: ``dataset.json``, if not the prediction's.
        plans_file: ``plans.json``, if not the prediction's.
        case_table: CSV with a column ``case``.
        domain_column: its column with the domain of a case.
        patient_column: its column with the patient of a case.
        distances: whether to compute surface distances.
        tolerance_mm: of surface Dice.
        roi_margin_voxels: of the region of interest of calibration.
        dice_thresholds: below which a case failed.
        num_draws: bootstrap samples.
        seed: of the bootstrap.
        scores: which scores the figures show.
        figures: whether to draw.
        num_processes: processes.
    """

    references: tuple[Path, ...]
    dataset_file: Path | None = None
    plans_file: Path | None = None
    case_table: Path | None = None
    domain_column: str | None = None
    patient_column: str | None = None
    distances: bool = True
    tolerance_mm: float = 1.0
    roi_margin_voxels: int = 5
    dice_thresholds: tuple[float, ...] = (0.7, 0.8, 0.9)
    num_draws: int = 1000
    seed: int = 0
    scores: tuple[str, ...] | None = None
    figures: bool = True
    num_processes: int = 1

    def metrics(self) -> "MetricSettings":
        """What to compute of each case."""
        from nnunetv2_le.evaluation.case_metrics import MetricSettings

        return MetricSettings(
            distances=self.distances,
            tolerance_mm=self.tolerance_mm,
            roi_margin_voxels=self.roi_margin_voxels,
        )

    def method(self) -> "MethodSettings":
        """How to judge scores."""
        from nnunetv2_le.evaluation.method import MethodSettings

        return MethodSettings(
            dice_thresholds=self.dice_thresholds,
            num_draws=self.num_draws,
            seed=self.seed,
            domain_column=self.domain_column,
            patient_column=self.patient_column,
        )


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


def add_options(parser: argparse.ArgumentParser) -> None:
    """The arguments that evaluate and compare share."""
    add = parser.add_argument
    add(
        "-ref",
        required=True,
        nargs="+",
        metavar="FOLDER",
        help="Reference labels. Several folders are several raters; so are files CASE_r0, CASE_r1, "
        "... in one folder.",
    )
    add("-djfile", metavar="FILE", help="dataset.json. Default: the prediction's.")
    add("-pfile", metavar="FILE", help="plans.json. Default: the prediction's.")
    add("-cases", metavar="FILE", help="CSV with a column 'case', for -domain and -patient.")
    add("-domain", metavar="COLUMN", help="Column of -cases: figures for each domain too.")
    add("-patient", metavar="COLUMN", help="Column of -cases: the bootstrap draws whole patients.")
    add("-tolerance_mm", type=float, default=1.0, help="Of surface Dice. Default: 1.")
    add(
        "-roi_margin",
        type=int,
        default=5,
        metavar="VOXELS",
        help="Dilation of the region of interest of the calibration figures. Default: 5.",
    )
    add(
        "-dice_thresholds",
        type=float,
        nargs="+",
        default=(0.7, 0.8, 0.9),
        metavar="DICE",
        help="A case below has failed. Default: 0.7 0.8 0.9.",
    )
    add("-num_bootstrap", type=int, default=1000, help="Bootstrap samples; 0: none. Default: 1000.")
    add("-seed", type=int, default=0, help="Of the bootstrap. Default: 0.")
    add("-scores", nargs="+", metavar="NAME", help="Scores that the figures show.")
    add("-np", type=int, default=None, help="Processes. Default: nnU-Net's (nnUNet_def_n_proc).")
    add("--no_distances", action="store_true", help="Leave out surface distances (faster).")
    add("--no_figures", action="store_true", help="Tables and summary only.")


def options_of(arguments: argparse.Namespace) -> Options:
    """Arguments to options.

    Raises:
        SettingError: if a number makes no sense or options do not go together.
    """
    if (arguments.domain or arguments.patient) and not arguments.cases:
        raise SettingError(
            "-domain and -patient name columns of -cases FILE.csv; give that file too"
        )
    if arguments.tolerance_mm < 0 or arguments.roi_margin < 0 or arguments.num_bootstrap < 0:
        raise SettingError("-tolerance_mm, -roi_margin and -num_bootstrap must not be negative")
    if not all(0 < threshold <= 1 for threshold in arguments.dice_thresholds):
        raise SettingError(
            f"-dice_thresholds must lie between 0 and 1, got {arguments.dice_thresholds}"
        )
    if arguments.np is not None and arguments.np < 1:
        raise SettingError(f"-np must be at least 1, got {arguments.np}")
    return Options(
        references=tuple(Path(folder) for folder in arguments.ref),
        dataset_file=_path(arguments.djfile),
        plans_file=_path(arguments.pfile),
        case_table=_path(arguments.cases),
        domain_column=arguments.domain,
        patient_column=arguments.patient,
        distances=not arguments.no_distances,
        tolerance_mm=arguments.tolerance_mm,
        roi_margin_voxels=arguments.roi_margin,
        dice_thresholds=tuple(arguments.dice_thresholds),
        num_draws=arguments.num_bootstrap,
        seed=arguments.seed,
        scores=None if arguments.scores is None else tuple(arguments.scores),
        figures=not arguments.no_figures,
        num_processes=_default_processes() if arguments.np is None else arguments.np,
    )


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_le_evaluate",
        description="Does the uncertainty find the failures? Metrics, curves and figures.",
    )
    parser.add_argument(
        "-pred", required=True, metavar="FOLDER", help="Output of nnUNetv2_le_predict."
    )
    parser.add_argument("-o", metavar="FOLDER", help="Default: FOLDER of -pred / evaluation.")
    parser.add_argument(
        "-i", metavar="FOLDER", help="Images, shown in the figures of single cases."
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
        metavar="MODEL_FOLDER",
        help="With --skip_heads: predict the heads of the images in -i anew, writing none of them.",
    )
    parser.add_argument(
        "-chk",
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
    prediction = Path(arguments.pred)
    return EvaluateRequest(
        options=options_of(arguments),
        prediction=prediction,
        output=_path(arguments.o) or prediction / "evaluation",
        skip_heads=arguments.skip_heads,
        num_case_figures=arguments.num_case_figures,
        images=_path(arguments.i),
        model=_path(arguments.m),
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
        skip_heads_per_case,
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
        cases = predicted_head_cases(predictor, usable, request.images, dataset)
    else:
        cases = saved_head_cases(usable, dataset)
    per_case = skip_heads_per_case(cases, dataset.labels, ignore_label=dataset.ignore_label)
    table = skip_heads_table(per_case)
    write_table(per_case, request.output / "skip_heads_cases.csv")
    write_table(table, request.output / "skip_heads.csv")
    if request.options.figures:
        save_figure(skip_heads_figure(table), request.output / "figures", "skip_heads")


def _default_processes() -> int:
    from nnunetv2.configuration import default_num_processes

    return int(default_num_processes)


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


if __name__ == "__main__":
    sys.exit(main())
