"""What ``nnUNetv2_le_evaluate`` and ``nnUNetv2_le_compare`` can both be told."""

import argparse
import math
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_le.cli.argument_types import path
from nnunetv2_le.errors import SettingError

if TYPE_CHECKING:
    from nnunetv2_le.evaluation.case_metrics import MetricSettings
    from nnunetv2_le.evaluation.method import MethodSettings

_MAX_DRAWS = 100_000  # of 1,000 cases they take a gigabyte


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


def add_options(parser: argparse.ArgumentParser) -> None:
    """The arguments that evaluate and compare share."""
    _add_files(parser)
    add = parser.add_argument
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
    _require_numbers(arguments)
    if not all(0 < threshold <= 1 for threshold in arguments.dice_thresholds):
        raise SettingError(
            f"-dice_thresholds must lie between 0 and 1, got {arguments.dice_thresholds}"
        )
    if arguments.np is not None and arguments.np < 1:
        raise SettingError(f"-np must be at least 1, got {arguments.np}")
    return Options(
        references=tuple(arguments.ref),
        dataset_file=arguments.djfile,
        plans_file=arguments.pfile,
        case_table=arguments.cases,
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


def _add_files(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "-ref",
        type=path,
        required=True,
        nargs="+",
        metavar="FOLDER",
        help="Reference labels. Several folders are several raters; so are files CASE_r0, CASE_r1, "
        "... in one folder.",
    )
    add("-djfile", type=path, metavar="FILE", help="dataset.json. Default: the prediction's.")
    add("-pfile", type=path, metavar="FILE", help="plans.json. Default: the prediction's.")
    add(
        "-cases",
        type=path,
        metavar="FILE",
        help="CSV with a column 'case', for -domain and -patient.",
    )
    add("-domain", metavar="COLUMN", help="Column of -cases: figures for each domain too.")
    add("-patient", metavar="COLUMN", help="Column of -cases: the bootstrap draws whole patients.")


def _require_numbers(arguments: argparse.Namespace) -> None:
    for name, most, in_words in (
        ("tolerance_mm", sys.float_info.max, "a finite number from 0 on"),
        ("roi_margin", math.inf, "0 or more"),
        ("num_bootstrap", _MAX_DRAWS, f"between 0 and {_MAX_DRAWS}"),
        ("seed", math.inf, "0 or more"),
    ):
        value = getattr(arguments, name)
        if not 0 <= value <= most:  # NaN is nowhere
            raise SettingError(f"-{name} must be {in_words}, got {value}")


def _default_processes() -> int:
    from nnunetv2.configuration import default_num_processes

    return int(default_num_processes)


def require_predictions(options: Options, predictions: Collection[Path]) -> None:
    """Refuse folders that are no predictions, and scores that none of them has, at once.

    Args:
        options: whose ``scores`` may name some.
        predictions: the folders.

    Raises:
        InputError: a folder has no ``dataset.json``, or a broken table.
        SettingError: an unknown score; naming those that there are.
    """
    from nnunetv2_le.evaluation.confidence_tables import read_confidence_tables
    from nnunetv2_le.evaluation.dataset import read_description
    from nnunetv2_le.report.evaluation_figures import chosen_scores

    for folder in predictions:
        read_description(options.dataset_file or folder / "dataset.json")
    if options.scores is not None:
        tables = [found for folder in predictions if (found := read_confidence_tables(folder))]
        chosen_scores([score for table in tables for score in table.scores], options.scores)
