"""Arguments that both predict commands share: nnU-Net's names and defaults, and ours on top."""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from nnunetv2_le.cli.argument_types import not_empty, parse_fold, path
from nnunetv2_le.errors import SettingError
from nnunetv2_le.types import DEFAULT_MAPS, FAMILIES, Fusion

_DEFAULT_WORKERS = 3


@dataclass(frozen=True)
class PredictRequest:
    """What was asked for, apart from which model."""

    source: Path
    output: Path
    folds: tuple[int | str, ...]
    checkpoints: tuple[str, ...]
    step_size: float
    use_mirroring: bool
    save_probabilities: bool
    continue_prediction: bool
    num_preprocessing: int
    num_writing: int
    previous_stage: Path | None
    num_parts: int
    part_id: int
    device: str
    perform_everything_on_device: bool
    show_progress: bool
    families: tuple[str, ...] | None
    num_samples: int | None
    skip_heads: int
    fusion: str
    maps: tuple[str, ...]
    save_heads: bool
    use_calibration: bool


def add_predict_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the shared arguments."""
    _add_paths(parser)
    _add_ways(parser)
    group = parser.add_argument_group("members and uncertainty")
    _add_members(group)
    _add_outputs(group)


def _add_paths(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-i", type=path, required=True, help="folder of images, named CASE_0000 etc. as in nnU-Net"
    )
    parser.add_argument("-o", type=path, required=True, help="output folder; made if missing")
    parser.add_argument(
        "-f",
        nargs="+",
        default=(0, 1, 2, 3, 4),
        metavar="FOLD",
        help="folds to use (default: 0 1 2 3 4)",
    )
    parser.add_argument(
        "-chk",
        type=not_empty,
        nargs="+",
        default=["checkpoint_final.pth"],
        metavar="NAME",
        help="checkpoints: names, or patterns in quotes (default: checkpoint_final.pth)",
    )
    parser.add_argument(
        "-prev_stage_predictions", type=path, help="predictions of a cascade's previous stage"
    )


def _add_ways(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-step_size", type=float, default=0.5, help="tile step (default: 0.5)")
    parser.add_argument(
        "--disable_tta", action="store_true", help="no mirroring: faster, and no mirror members"
    )
    parser.add_argument(
        "--save_probabilities", action="store_true", help="write fused probabilities (.npz, .pkl)"
    )
    parser.add_argument(
        "--continue_prediction",
        "--c",
        action="store_true",
        help="keep what an earlier run finished",
    )
    parser.add_argument(
        "-npp",
        type=int,
        help="cases that are preprocessed at the same time; 0: one after another (default: 3)",
    )
    parser.add_argument(
        "-nps",
        type=int,
        help="cases that are written at the same time; 0: one after another (default: 3)",
    )
    parser.add_argument("-num_parts", type=int, default=1, help="runs that share the cases")
    parser.add_argument("-part_id", type=int, default=0, help="which of these runs this is, from 0")
    parser.add_argument("-device", default="cuda", help="cuda, cpu or mps (default: cuda)")
    parser.add_argument("--disable_progress_bar", action="store_true", help="no progress bars")
    parser.add_argument(
        "--not_on_device", action="store_true", help="blend tiles on the CPU: for very large images"
    )
    parser.add_argument(
        "--verbose", action="store_true", help="say more, and show the traceback of an error"
    )


def _add_members(group: argparse._ArgumentGroup) -> None:
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
    group.add_argument(
        "-skip_heads",
        type=int,
        default=0,
        metavar="N",
        help="leave the first N heads out of the layer agreement (default: 0)",
    )
    group.add_argument(
        "-fusion",
        choices=get_args(Fusion),
        default="mean",
        help="how the last heads become the segmentation; nnunet: mean of logits (default: mean "
        "probability)",
    )


def _add_outputs(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-maps",
        nargs="*",
        metavar="NAME",
        default=list(DEFAULT_MAPS),
        help="voxel maps to write: entropy, FAMILY_mutual_information, FAMILY_variance, "
        "FAMILY_agreement, FAMILY_entropy, FAMILY_ttest, FAMILY_total_entropy; of a calibrated "
        "model prediction_set, inner_contour, outer_contour (default: entropy; -maps without a "
        "name writes none)",
    )
    group.add_argument(
        "--save_heads",
        action="store_true",
        help="write the probabilities of every head, a folder each, for nnUNetv2_ensemble",
    )
    group.add_argument(
        "--no_calibration",
        action="store_true",
        help="do not apply the calibration.json that lies beside the model",
    )


def build_request(arguments: argparse.Namespace) -> PredictRequest:
    """The request that the arguments make.

    Raises:
        SettingError: a fold is neither a number nor ``all``, or nnU-Net's variables for the number
            of workers are no numbers.
    """
    return PredictRequest(
        source=arguments.i,
        output=arguments.o,
        folds=tuple(parse_fold(fold) for fold in arguments.f),
        checkpoints=tuple(arguments.chk),
        step_size=arguments.step_size,
        use_mirroring=not arguments.disable_tta,
        save_probabilities=arguments.save_probabilities,
        continue_prediction=arguments.continue_prediction,
        num_preprocessing=_workers(arguments.npp, "nnUNet_npp"),
        num_writing=_workers(arguments.nps, "nnUNet_nps"),
        previous_stage=arguments.prev_stage_predictions,
        num_parts=arguments.num_parts,
        part_id=arguments.part_id,
        device=arguments.device,
        perform_everything_on_device=not arguments.not_on_device,
        show_progress=not arguments.disable_progress_bar,
        families=None if arguments.members is None else tuple(arguments.members),
        num_samples=arguments.num_samples,
        skip_heads=arguments.skip_heads,
        fusion=arguments.fusion,
        maps=tuple(dict.fromkeys(arguments.maps)),
        save_heads=arguments.save_heads,
        use_calibration=not arguments.no_calibration,
    )


def _workers(given: int | None, variable: str) -> int:
    """A number of workers: what was given, else nnU-Net's variable, else 3."""
    text = os.environ.get(variable, "").strip()
    if given is not None or not text:
        return _DEFAULT_WORKERS if given is None else given
    if not text.isdecimal():
        raise SettingError(
            f"The environment variable {variable} takes a number, 0 or more; got {text!r}. Correct "
            "or unset it."
        )
    return int(text)
