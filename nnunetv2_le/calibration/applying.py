"""A predictor that applies the calibration beside its model, if that calibration is the model's."""

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from nnunetv2_le.calibration.calibration_file import (
    CALIBRATION_FILE,
    Calibration,
    read_calibration,
    require_matches,
)
from nnunetv2_le.calibration.judge import CalibrationJudge
from nnunetv2_le.calibration.model_identity import EACH_ALONE, identity_of, use_fused_heads
from nnunetv2_le.calibration.out_of_distribution import MIN_CASES
from nnunetv2_le.errors import SettingError
from nnunetv2_le.inference.checkpoints import Fold
from nnunetv2_le.inference.ensemble import load_ensemble
from nnunetv2_le.inference.model import Model
from nnunetv2_le.inference.predictor import LayerEnsemblePredictor
from nnunetv2_le.inference.settings import PredictionSettings

logger = logging.getLogger(__name__)


def calibrated_predictor(
    folder: Path | str | Sequence[Path | str],
    settings: PredictionSettings | None = None,
    *,
    folds: Sequence[Fold] | None = None,
    checkpoint_name: str | Sequence[str] = "checkpoint_final.pth",
    device: torch.device | str = "cpu",
    show_progress: bool = True,
) -> LayerEnsemblePredictor:
    """A predictor for a model folder that applies its ``calibration.json``; a plain one without.

    Several models together are not what any of them was calibrated for: they predict without.

    Raises:
        InputError: the calibration is damaged, or belongs to another model, other members or other
            settings than those that predict.
        SettingError: an option contradicts the calibration.
    """
    folders = [Path(one) for one in ([folder] if isinstance(folder, str | Path) else folder)]
    settings = settings or PredictionSettings()
    ensemble = load_ensemble(folders, folds=folds, checkpoint_name=checkpoint_name)
    model = ensemble.first
    has_file = os.path.lexists(model.folder / CALIBRATION_FILE)  # a link to nowhere is an error
    if len(ensemble.models) > 1 or not has_file:
        if has_file:
            logger.info("Several models predict together: their calibrations do not apply.")
        return LayerEnsemblePredictor(
            ensemble, settings, device=device, show_progress=show_progress
        )
    calibration = read_calibration(model.folder)
    settings = _with_heads(settings, calibration)
    _use_heads(model, calibration)
    _require_own(calibration, model, settings)
    logger.info(
        "Calibrated with %d labelled cases (%s); --no_calibration switches that off.",
        calibration.num_cases,
        model.folder / CALIBRATION_FILE,
    )
    fold = str(model.folds[0])
    _warn_without_features(calibration, fold)
    judge = CalibrationJudge(
        calibration,
        fold=fold,
        folder=model.folder,
        num_channels=model.labels.num_channels,
    )
    return LayerEnsemblePredictor(
        ensemble, settings, device=device, show_progress=show_progress, judge=judge
    )


def _warn_without_features(calibration: Calibration, fold: str) -> None:
    """Networks of different folds are not compared, so other folds' known cases do not help."""
    if fold in calibration.features:
        return
    known = ", ".join(calibration.features)
    logger.warning(
        "No case is flagged as out of distribution, and the columns out_of_distribution stay "
        "empty: the calibration has features %s, and the first fold that predicts is fold %s. "
        "Calibrate again with at least %d patients of that fold.",
        f"only of fold {known}" if known else "of no fold",
        fold,
        MIN_CASES,
    )


def _with_heads(settings: PredictionSettings, calibration: Calibration) -> PredictionSettings:
    """Settings with the heads that AULA, and where none are named the members, were calibrated."""
    chosen = 0 if calibration.head_skip is None else calibration.head_skip.score_skip
    if settings.skip_heads not in (0, chosen):
        raise SettingError(
            f"-skip_heads {settings.skip_heads} contradicts the calibration, which leaves out "
            f"{chosen}. Leave it out, or predict with --no_calibration."
        )
    families = settings.families or calibration.identity.families
    return replace(settings, skip_heads=chosen, families=families)


def _use_heads(model: Model, calibration: Calibration) -> None:
    chosen = calibration.head_skip
    if chosen is not None and chosen.fused_skip != chosen.default_fused_skip:
        use_fused_heads(model, len(chosen.heads) - chosen.fused_skip)


def _require_own(calibration: Calibration, model: Model, settings: PredictionSettings) -> None:
    """Refuse a calibration of something else than what is about to predict."""
    plain = replace(settings, maps=(), skip_heads=0, save_heads=False)
    plan = LayerEnsemblePredictor(model, plain, show_progress=False).plan
    alone = calibration.identity.settings.get("folds together") == EACH_ALONE
    require_matches(
        calibration,
        identity_of(model, plan, settings, folds_alone=alone),
        path=model.folder / CALIBRATION_FILE,
    )
