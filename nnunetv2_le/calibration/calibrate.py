"""Calibrating a model: predict labelled cases that it does not know, compare, fit, store."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from nnunetv2_le.calibration.calibration_file import Calibration, Identity, write_calibration
from nnunetv2_le.calibration.cases import group_numbers
from nnunetv2_le.calibration.fitting import (
    FitSettings,
    fit_calibration,
    fit_score_heads,
    require_enough_cases,
)
from nnunetv2_le.calibration.head_skip import HeadSkip
from nnunetv2_le.calibration.held_out import HeldOutFigures, held_out_figures
from nnunetv2_le.calibration.labelled_cases import (
    LabelledCase,
    folder_cases,
    trained_cases,
    validation_cases,
)
from nnunetv2_le.calibration.model_identity import identity_of, use_fused_heads
from nnunetv2_le.calibration.observed_case import ObservedCase
from nnunetv2_le.calibration.observed_tables import boundary_table, case_table, set_curves
from nnunetv2_le.calibration.observing import WorkSettings, observe_cases
from nnunetv2_le.calibration.patients import read_groups, read_patients, warn_of_known_patients
from nnunetv2_le.errors import InputError, SettingError
from nnunetv2_le.inference.checkpoints import Fold
from nnunetv2_le.inference.model import Model, load_model
from nnunetv2_le.inference.predictor import LayerEnsemblePredictor
from nnunetv2_le.inference.settings import PredictionSettings
from nnunetv2_le.types import MemberPlan

logger = logging.getLogger(__name__)

WORK_FOLDER = "calibration_work"

# Other fused heads mean that every case is predicted once more (a mirror pass is its fused heads).
# Less Dice than this is not worth it.
_WORTHWHILE_GAIN = 0.005


@dataclass(frozen=True)
class CalibrationRequest:
    """What to calibrate, with what.

    Attributes:
        model_folder: TRAINER__PLANS__CONFIGURATION.
        folds: each is calibrated on its validation cases; with ``images`` all predict together.
        checkpoint_name: file name of the checkpoint within each fold.
        images: a folder of labelled cases, instead of the folds' validation cases.
        references: their labels.
        groups_file: table of the patient of each case.
        work_folder: where what is known of each case is kept; None: beside the model.
        previous_stage: segmentations of a cascade's previous stage.
        prediction: how cases are predicted.
        fit: what is to be promised.
        device: where the network runs.
        show_progress: show progress bars.
        num_preprocessing: cases that are preprocessed at the same time.
        num_writing: cases that are compared with their references at the same time.
    """

    model_folder: Path
    folds: tuple[Fold, ...] | None = None
    checkpoint_name: str = "checkpoint_final.pth"
    images: Path | None = None
    references: Path | None = None
    groups_file: Path | None = None
    work_folder: Path | None = None
    previous_stage: Path | None = None
    prediction: PredictionSettings = field(default_factory=PredictionSettings)
    fit: FitSettings = field(default_factory=FitSettings)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    show_progress: bool = True
    num_preprocessing: int = 3
    num_writing: int = 3


@dataclass(frozen=True)
class Calibrated:
    """What came of it.

    Attributes:
        calibration: as stored.
        figures: on cases that it was not fitted on.
        file: ``calibration.json``.
    """

    calibration: Calibration
    figures: HeldOutFigures
    file: Path


@dataclass(frozen=True)
class _Run:
    """Networks that predict together, and the labelled cases that they do not know."""

    name: str
    model: Model
    cases: list[LabelledCase]


def calibrate(request: CalibrationRequest) -> Calibrated:
    """Calibrate a model and store the calibration in its folder.

    Raises:
        SettingError: options that make no sense together, or a share that is not between 0 and 1.
        ModelFolderError: the model, a fold or a checkpoint is not there.
        InputError: cases are missing or too few, or their scores do not differ.
        CaseError: a case failed; the others are kept.
        OutputError: a result cannot be written.
    """
    model = load_model(
        request.model_folder, folds=request.folds, checkpoint_name=request.checkpoint_name
    )
    runs = _runs(model, request)
    names = [labelled.case.name for run in runs for labelled in run.cases]
    _require_once(names)
    groups = () if request.groups_file is None else read_groups(request.groups_file, names)
    numbers = group_numbers(groups, len(names))
    require_enough_cases(len(set(numbers.tolist())), request.fit)
    _warn_of_known_patients(runs, request.groups_file)
    _warn_of_chosen_checkpoint(request)
    observed = _observe(runs, request, part="default_heads")
    head_skip = _choose_heads(observed, model, request, groups=groups)
    if head_skip is not None and head_skip.fused_skip != head_skip.default_fused_skip:
        num_fused = len(head_skip.heads) - head_skip.fused_skip
        logger.info(
            "The last %d heads make the better segmentation: the cases are predicted once more.",
            num_fused,
        )
        use_fused_heads(model, num_fused)
        observed = _observe(runs, request, part=f"last_{num_fused}_heads")
    plan = _predictor(runs[0].model, request).plan
    calibration = fit_calibration(
        observed,
        identity=_identity(model, plan, request),
        labels=model.labels,
        groups=groups,
        head_skip=head_skip,
        settings=request.fit,
    )
    figures = _held_out(observed, model, calibration, request, groups=groups)
    return Calibrated(calibration, figures, write_calibration(calibration, model.folder))


def _runs(model: Model, request: CalibrationRequest) -> list[_Run]:
    if (request.images is None) != (request.references is None):
        raise SettingError("-i and -ref go together: images, and their labels.")
    before = request.previous_stage
    if request.images is not None and request.references is not None:
        cases = folder_cases(request.images, request.references, model, previous_stage=before)
        return [_Run("folder", model, cases)]
    if len(model.sources) != len(model.folds):
        raise SettingError("Each fold is calibrated with one checkpoint. Name one with -chk.")
    return [
        _Run(
            f"fold_{fold}",
            replace(model, sources=(source,), folds=(fold,)),
            validation_cases(model, fold, previous_stage=before),
        )
        for fold, source in zip(model.folds, model.sources, strict=True)
    ]


def _warn_of_known_patients(runs: Sequence[_Run], file: Path | None) -> None:
    """Say which folds were trained on other cases of the patients that calibrate them."""
    if file is None:
        return
    _, patients = read_patients(file)
    for run in runs:
        names = [labelled.case.name for labelled in run.cases]
        warn_of_known_patients(
            names,
            patients=patients,
            trained=trained_cases(run.model, names)[0],
            folds=run.model.folds,
        )


def _warn_of_chosen_checkpoint(request: CalibrationRequest) -> None:
    """Say that the best epoch on some cases does better on them than on new ones."""
    if request.images is None and request.checkpoint_name == "checkpoint_best.pth":
        logger.warning(
            "checkpoint_best.pth was chosen by its Dice on the validation cases that now calibrate "
            "it, so new cases may fare worse than promised. Take checkpoint_final.pth (-chk), or "
            "labelled cases that no fold has seen (-i, -ref)."
        )


def _require_once(names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            f"{len(twice)} cases are validation cases of two folds, the first is {twice[0]}. Name "
            "folds of one cross-validation with -f."
        )


def _observe(runs: Sequence[_Run], request: CalibrationRequest, *, part: str) -> list[ObservedCase]:
    """Every labelled case, predicted by networks that do not know it."""
    work = request.work_folder or request.model_folder / WORK_FOLDER
    observed: list[ObservedCase] = []
    for run in runs:
        logger.info("%s: %d labelled cases.", run.name, len(run.cases))
        predictor = _predictor(run.model, request)
        identity = _identity(run.model, predictor.plan, request)
        settings = WorkSettings(
            num_preprocessing=request.num_preprocessing,
            num_writing=request.num_writing,
            contour_share=request.fit.contour_share,
            stamp={
                "model": identity.checksums,
                "settings": identity.settings,
                "fused": list(identity.fused),
            },
        )
        observed += observe_cases(
            predictor,
            run.cases,
            folder=work / part / run.name,
            # features are those of the first network
            fold=str(run.model.folds[0]),
            settings=settings,
        )
    return observed


def _identity(model: Model, plan: MemberPlan, request: CalibrationRequest) -> Identity:
    return identity_of(model, plan, request.prediction, folds_alone=request.images is None)


def _predictor(model: Model, request: CalibrationRequest) -> LayerEnsemblePredictor:
    """Keeps the logits of heads where heads are members; writes no maps."""
    source, wanted = model.sources[0], request.prediction.families
    has_heads = (
        source.family_name == "heads"
        and len(source.head_names) > 1
        and (wanted is None or "heads" in wanted)
    )
    settings = replace(request.prediction, maps=(), skip_heads=0, save_heads=has_heads)
    return LayerEnsemblePredictor(
        model, settings, device=request.device, show_progress=request.show_progress
    )


def _choose_heads(
    observed: Sequence[ObservedCase],
    model: Model,
    request: CalibrationRequest,
    *,
    groups: Sequence[str],
) -> HeadSkip | None:
    chosen = fit_score_heads(
        observed,
        default_fused=model.sources[0].num_fused_heads,
        groups=group_numbers(groups, len(observed)),
    )
    if chosen is None:
        return None
    # AULA is defined from two agreements on, that is three heads
    skip = min(chosen.score_skip, len(chosen.heads) - 3)
    gain = chosen.fused_dice[chosen.fused_skip] - chosen.fused_dice[chosen.default_fused_skip]
    # what was compared is the mean probability of heads
    keeps_default = request.prediction.fusion != "mean" or gain < _WORTHWHILE_GAIN
    return replace(
        chosen,
        score_skip=skip,
        fused_skip=chosen.default_fused_skip if keeps_default else chosen.fused_skip,
    )


def _held_out(
    observed: Sequence[ObservedCase],
    model: Model,
    calibration: Calibration,
    request: CalibrationRequest,
    *,
    groups: Sequence[str],
) -> HeldOutFigures:
    labels = model.labels
    if calibration.temperature is None:
        return HeldOutFigures()
    return held_out_figures(
        case_table(observed, labels, groups=groups, head_skip=calibration.head_skip),
        curves=set_curves(
            observed,
            labels,
            temperature=calibration.temperature,
            vector=calibration.vector_scaling,
        ),
        distances=boundary_table(observed, labels),
        settings=request.fit,
    )
