"""``nnUNetv2_le_predict_from_modelfolder``: predict with the model in a folder."""

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from nnunetv2_le.cli.argument_types import path
from nnunetv2_le.cli.common import run_main
from nnunetv2_le.cli.devices import torch_device
from nnunetv2_le.cli.predict_arguments import (
    PredictRequest,
    add_predict_arguments,
)
from nnunetv2_le.cli.predict_arguments import (
    build_request as build_predict_request,
)
from nnunetv2_le.cli.review_list import review_lines
from nnunetv2_le.errors import CaseError

if TYPE_CHECKING:
    from nnunetv2_le.inference.settings import PredictionSettings

logger = logging.getLogger("nnunetv2_le.cli.predict_from_modelfolder")


@dataclass(frozen=True)
class Request:
    """A prediction with the models in some folders."""

    model_folders: tuple[Path, ...]
    predict: PredictRequest


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_le_predict_from_modelfolder",
        description="Segment images and say how far to trust each segmentation.",
    )
    parser.add_argument(
        "-m",
        type=path,
        nargs="+",
        required=True,
        metavar="FOLDER",
        help="folders of models: TRAINER__PLANS__CONFIGURATION",
    )
    add_predict_arguments(parser)
    return parser


def build_request(arguments: argparse.Namespace) -> Request:
    """The request that the arguments make."""
    return Request(tuple(arguments.m), build_predict_request(arguments))


def run(request: Request) -> None:
    """Predict all cases.

    Raises:
        CaseError: some cases failed; the others are done.
    """
    predict_with_models(request.model_folders, request.predict)


def predict_with_models(model_folders: Sequence[Path], request: PredictRequest) -> None:
    """Predict all cases with the models in some folders.

    Raises:
        CaseError: some cases failed; the others are done.
    """
    from nnunetv2_le.calibration.applying import calibrated_predictor
    from nnunetv2_le.inference.predictor import LayerEnsemblePredictor
    from nnunetv2_le.inference.settings import require_utf8

    for folder in model_folders:
        require_utf8({"-m": folder})
    load = LayerEnsemblePredictor.from_model_folder
    predictor = (calibrated_predictor if request.use_calibration else load)(
        model_folders,
        _settings(request),
        folds=request.folds,
        checkpoint_name=request.checkpoints,
        device=torch_device(request.device),
        show_progress=request.show_progress,
    )
    with termination_interrupts():
        summary = predictor.predict_folder(
            request.source,
            request.output,
            previous_stage=request.previous_stage,
            overwrite=not request.continue_prediction,
            num_parts=request.num_parts,
            part_id=request.part_id,
            num_preprocessing=request.num_preprocessing,
            num_writing=request.num_writing,
        )
    finished = len(summary.done) + len(summary.skipped)
    logger.info("%d cases in %s; scores of each in uncertainty.csv.", finished, request.output)
    if predictor.judge is not None:
        for line in review_lines(request.output, (*summary.done, *summary.skipped)):
            logger.info("%s", line)
    if summary.failed:
        raise CaseError(
            f"{len(summary.failed)} of {finished + len(summary.failed)} cases failed "
            f"({', '.join(summary.failed)}); the reasons are in {request.output / 'failed.csv'}. "
            "Mend them and run again with --continue_prediction."
        )


def _settings(request: PredictRequest) -> "PredictionSettings":
    from nnunetv2_le.inference.settings import PredictionSettings

    return PredictionSettings(
        families=request.families,
        num_samples=request.num_samples,
        skip_heads=request.skip_heads,
        fusion=request.fusion,  # type: ignore[arg-type]
        maps=request.maps,
        save_probabilities=request.save_probabilities,
        save_heads=request.save_heads,
        step_size=request.step_size,
        use_mirroring=request.use_mirroring,
        perform_everything_on_device=request.perform_everything_on_device,
    )


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def termination_interrupts() -> Iterator[None]:
    """A request to terminate ends the run as Ctrl-C does: what is written stays whole."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_main(build_parser(), build_request, run=run, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
