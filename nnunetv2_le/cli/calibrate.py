"""``nnUNetv2_le_calibrate``: from scores to decisions, on cases new to the model."""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from nnunetv2_le.cli.argument_types import not_empty, parse_fold, path
from nnunetv2_le.cli.common import run_main
from nnunetv2_le.cli.devices import torch_device
from nnunetv2_le.cli.predict import model_folder
from nnunetv2_le.cli.predict_from_modelfolder import termination_interrupts
from nnunetv2_le.errors import SettingError
from nnunetv2_le.types import FAMILIES, Fusion

logger = logging.getLogger("nnunetv2_le.cli.calibrate")


@dataclass(frozen=True)
class Request:
    """What was asked for; see ``calibration.calibrate.CalibrationRequest``."""

    model_folder: Path | None
    dataset: str | None
    trainer: str
    plans: str
    configuration: str | None
    folds: tuple[int | str, ...]
    checkpoint: str
    images: Path | None
    references: Path | None
    groups_file: Path | None
    work_folder: Path | None
    previous_stage: Path | None
    families: tuple[str, ...] | None
    num_samples: int | None
    fusion: str
    step_size: float
    use_mirroring: bool
    device: str
    perform_everything_on_device: bool
    show_progress: bool
    num_preprocessing: int
    num_writing: int
    promises: "Promises"


@dataclass(frozen=True)
class Promises:
    """What the calibration is to promise; see ``calibration.fitting.FitSettings``."""

    tolerance: float
    alpha: float
    level: float
    set_alpha: float
    contour_alpha: float
    contour_share: float
    outlier_alpha: float
    is_shared_temperature: bool
    use_vector_scaling: bool
    seed: int


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_le_calibrate",
        description="Predict labelled cases that a model was not trained on, learn from them what "
        "its scores mean, and store that beside the model, where predict finds it.",
    )
    _add_model(parser)
    _add_cases(parser)
    _add_promises(parser)
    _add_ways(parser)
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", help="dataset name or number")
    parser.add_argument("-c", help="configuration: 2d, 3d_fullres, ...")
    parser.add_argument(
        "-tr", default="LayerEnsembleTrainer", help="trainer (default: LayerEnsembleTrainer)"
    )
    parser.add_argument("-p", default="nnUNetPlans", help="plans (default: nnUNetPlans)")
    parser.add_argument(
        "-m", type=path, help="the model's folder, TRAINER__PLANS__CONFIGURATION, instead of -d -c"
    )
    parser.add_argument(
        "-f",
        nargs="+",
        default=(0, 1, 2, 3, 4),
        metavar="FOLD",
        help="folds; each is calibrated on its own validation cases (default: 0 1 2 3 4)",
    )
    parser.add_argument(
        "-chk",
        type=not_empty,
        default="checkpoint_final.pth",
        help="checkpoint (default: checkpoint_final.pth)",
    )


def _add_cases(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-i",
        type=path,
        help="folder of labelled images instead of validation cases; all folds predict together",
    )
    parser.add_argument("-ref", type=path, help="their labels, one file a case")
    parser.add_argument(
        "-cases",
        type=path,
        metavar="FILE.csv",
        help="table with the columns case and patient (or group): several cases of a patient "
        "count as one",
    )
    parser.add_argument(
        "-o", type=path, help="work folder (default: calibration_work in the model's folder)"
    )
    parser.add_argument(
        "-prev_stage_predictions", type=path, help="predictions of a cascade's previous stage"
    )


def _add_promises(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to promise")
    shares = {
        "-tolerance": (0.8, "Dice below which a case is poor"),
        "-alpha": (0.05, "share of cases that may be poor and not flagged"),
        "-level": (0.9, "share of cases whose Dice reaches its lower bound"),
        "-set_alpha": (0.05, "share of voxels whose label may be missing in the prediction set"),
        "-contour_alpha": (0.1, "share of cases whose boundary may lie beyond the contours"),
        "-contour_share": (0.0, "share of a label's voxels that its contours may leave out"),
        "-outlier_alpha": (0.05, "share of known cases that may be called out of distribution"),
    }
    for flag, (default, text) in shares.items():
        group.add_argument(flag, type=float, default=default, help=f"{text} (default: {default})")
    group.add_argument(
        "--shared_temperature", action="store_true", help="one temperature for all heads"
    )
    group.add_argument(
        "--vector_scaling",
        action="store_true",
        help="try a weight and a bias for each class in place of the temperature",
    )
    group.add_argument("-seed", type=int, default=0, help="of random choices (default: 0)")


def _add_ways(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how to predict; predict has to be run in the same way")
    group.add_argument(
        "-members",
        nargs="+",
        metavar="FAMILY",
        help=f"families of members: {' '.join(FAMILIES)} (default: the heads and mirrors that the "
        "model has)",
    )
    group.add_argument(
        "-num_samples",
        type=int,
        metavar="N",
        help="samples of -members dropout (default: 10)",
    )
    group.add_argument("-fusion", choices=get_args(Fusion), default="mean", help="as in predict")
    group.add_argument("-step_size", type=float, default=0.5, help="tile step (default: 0.5)")
    group.add_argument("--disable_tta", action="store_true", help="no mirroring")
    group.add_argument("-device", default="cuda", help="cuda, cpu or mps (default: cuda)")
    group.add_argument("--not_on_device", action="store_true", help="blend tiles on the CPU")
    group.add_argument("-npp", type=int, default=3, help="cases preprocessed at the same time")
    group.add_argument("-nps", type=int, default=3, help="cases compared at the same time")
    group.add_argument("--disable_progress_bar", action="store_true", help="no progress bars")


def build_request(arguments: argparse.Namespace) -> Request:
    """The request that the arguments make.

    Raises:
        SettingError: no model is named, or two are; a fold is unknown.
    """
    if (arguments.m is None) == (arguments.d is None):
        raise SettingError("Name the model either with -d and -c, or with -m.")
    if arguments.m is None and arguments.c is None:
        raise SettingError("-d needs the configuration too: -c 2d, 3d_fullres, ...")
    return Request(
        model_folder=arguments.m,
        dataset=arguments.d,
        trainer=arguments.tr,
        plans=arguments.p,
        configuration=arguments.c,
        folds=tuple(parse_fold(fold) for fold in arguments.f),
        checkpoint=arguments.chk,
        images=arguments.i,
        references=arguments.ref,
        groups_file=arguments.cases,
        work_folder=arguments.o,
        previous_stage=arguments.prev_stage_predictions,
        families=None if arguments.members is None else tuple(arguments.members),
        num_samples=arguments.num_samples,
        fusion=arguments.fusion,
        step_size=arguments.step_size,
        use_mirroring=not arguments.disable_tta,
        device=arguments.device,
        perform_everything_on_device=not arguments.not_on_device,
        show_progress=not arguments.disable_progress_bar,
        num_preprocessing=arguments.npp,
        num_writing=arguments.nps,
        promises=_promises(arguments),
    )


def _promises(arguments: argparse.Namespace) -> Promises:
    return Promises(
        tolerance=arguments.tolerance,
        alpha=arguments.alpha,
        level=arguments.level,
        set_alpha=arguments.set_alpha,
        contour_alpha=arguments.contour_alpha,
        contour_share=arguments.contour_share,
        outlier_alpha=arguments.outlier_alpha,
        is_shared_temperature=arguments.shared_temperature,
        use_vector_scaling=arguments.vector_scaling,
        seed=arguments.seed,
    )


def run(request: Request) -> None:
    """Calibrate a model.

    Raises:
        LayerEnsembleError: in one line what was expected, what came and what to do.
    """
    device = torch_device(request.device)
    from nnunetv2_le.calibration.calibrate import CalibrationRequest, calibrate
    from nnunetv2_le.calibration.fitting import FitSettings
    from nnunetv2_le.calibration.report_lines import report_lines
    from nnunetv2_le.inference.settings import PredictionSettings

    with termination_interrupts():
        done = calibrate(
            CalibrationRequest(
                model_folder=_folder(request),
                folds=request.folds,
                checkpoint_name=request.checkpoint,
                images=request.images,
                references=request.references,
                groups_file=request.groups_file,
                work_folder=request.work_folder,
                previous_stage=request.previous_stage,
                prediction=PredictionSettings(
                    families=request.families,
                    num_samples=request.num_samples,
                    fusion=request.fusion,  # type: ignore[arg-type]
                    step_size=request.step_size,
                    use_mirroring=request.use_mirroring,
                    perform_everything_on_device=request.perform_everything_on_device,
                ),
                fit=FitSettings(**vars(request.promises)),
                device=device,
                show_progress=request.show_progress,
                num_preprocessing=request.num_preprocessing,
                num_writing=request.num_writing,
            )
        )
    for line in report_lines(done.calibration, done.figures):
        logger.info("%s", line)
    logger.info("Stored in %s; predict applies it from now on.", done.file)


def _folder(request: Request) -> Path:
    """The model's folder, named itself or as nnU-Net names it."""
    if request.model_folder is not None:
        return request.model_folder
    return model_folder(
        str(request.dataset), request.trainer, request.plans, str(request.configuration)
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_main(build_parser(), build_request, run=run, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
