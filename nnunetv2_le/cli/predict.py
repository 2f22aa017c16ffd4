"""``nnUNetv2_le_predict``: nnUNetv2_predict with uncertainty."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from nnunetv2_le.cli.common import run_main
from nnunetv2_le.cli.predict_arguments import (
    PredictRequest,
    add_predict_arguments,
)
from nnunetv2_le.cli.predict_arguments import (
    build_request as build_predict_request,
)
from nnunetv2_le.cli.predict_from_modelfolder import predict_with_models
from nnunetv2_le.errors import ModelFolderError


@dataclass(frozen=True)
class Request:
    """A prediction with models named as nnU-Net names them.

    Every trainer is taken with every plans and every configuration.
    """

    dataset: str
    trainers: tuple[str, ...]
    plans: tuple[str, ...]
    configurations: tuple[str, ...]
    predict: PredictRequest


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_le_predict",
        description="Segment images as nnUNetv2_predict does, and say how far to trust each.",
    )
    parser.add_argument("-d", required=True, help="dataset name or number")
    parser.add_argument(
        "-p",
        nargs="+",
        default=["nnUNetPlans"],
        metavar="PLANS",
        help="plans (default: nnUNetPlans); several make several models",
    )
    parser.add_argument(
        "-tr",
        nargs="+",
        default=["LayerEnsembleTrainer"],
        metavar="TRAINER",
        help="trainer of the model, nnU-Net's own included (default: LayerEnsembleTrainer); "
        "several make several models",
    )
    parser.add_argument(
        "-c",
        nargs="+",
        required=True,
        metavar="CONFIGURATION",
        help="configuration: 2d, 3d_fullres, ...; several make several models",
    )
    add_predict_arguments(parser)
    return parser


def build_request(arguments: argparse.Namespace) -> Request:
    """The request that the arguments make."""
    predict = build_predict_request(arguments)
    return Request(
        arguments.d, tuple(arguments.tr), tuple(arguments.p), tuple(arguments.c), predict
    )


def run(request: Request) -> None:
    """Predict all cases.

    Raises:
        ModelFolderError: there is no such trained model.
        CaseError: some cases failed; the others are done.
    """
    names = product(request.trainers, request.plans, request.configurations)
    folders = [model_folder(request.dataset, *name) for name in dict.fromkeys(names)]
    predict_with_models(folders, request.predict)


def model_folder(dataset: str, trainer: str, plans: str, configuration: str) -> Path:
    """The folder of a trained model.

    Raises:
        ModelFolderError: ``nnUNet_results`` is not set, or there is no such model in it.
        SettingError: ``dataset`` is neither a name nor a number.
        InputError: no data set of this number, or several.
    """
    from nnunetv2.paths import nnUNet_results
    from nnunetv2.utilities.file_path_utilities import get_output_folder

    from nnunetv2_le.training.preconditions import dataset_name

    if not nnUNet_results.is_set():
        raise ModelFolderError(
            "nnUNet_results is not set, so trained models cannot be found. Set it, or name the "
            "model's folder with nnUNetv2_le_predict_from_modelfolder -m."
        )
    folder = Path(get_output_folder(dataset_name(dataset), trainer, plans, configuration))
    if not folder.is_dir():
        raise ModelFolderError(
            f"Expected a trained model in {folder}, which does not exist. Check -d, -tr, -p and "
            "-c, or train it with nnUNetv2_le_train."
        )
    return folder


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_main(build_parser(), build_request, run=run, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
