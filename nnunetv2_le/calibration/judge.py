"""Applying a calibration to the cases of a prediction."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt

from nnunetv2_le.calibration.calibration_file import CALIBRATION_FILE, Calibration
from nnunetv2_le.calibration.cases import group_numbers
from nnunetv2_le.calibration.flag import CaseDecision, decide_case
from nnunetv2_le.calibration.label_bits import contour_bits, prediction_set_bits
from nnunetv2_le.calibration.observed_case import FUSED
from nnunetv2_le.calibration.out_of_distribution import OutlierScores, OutOfDistribution
from nnunetv2_le.errors import SettingError
from nnunetv2_le.inference.judging import Judgement
from nnunetv2_le.inference.prediction import CasePrediction
from nnunetv2_le.types import LogitScaling
from nnunetv2_le.uncertainty.columns import JUDGED_COLUMNS

_UNKNOWN = OutlierScores(float("nan"), float("nan"), float("nan"))

GUARANTEE = (
    "Bounds and flags hold on average over new cases that could as well have been among the "
    "labelled ones. For another scanner, protocol or population nothing is guaranteed; the column "
    "out_of_distribution_quantile shows images that differ from the known ones."
)


class CalibrationJudge:
    """Says of each case what a calibration says; see ``inference.judging.Judge``.

    Args:
        calibration: of the model that predicts, already compared with it.
        fold: the fold whose network gives the features, as text.
        folder: where the calibration lies.
        num_channels: of logits.
    """

    def __init__(
        self, calibration: Calibration, *, fold: str, folder: Path, num_channels: int
    ) -> None:
        self.calibration = calibration
        self.num_channels = num_channels
        self.path = folder / CALIBRATION_FILE
        self.key = hashlib.sha256(self.path.read_bytes()).hexdigest()
        known = calibration.features.get(fold)
        self._outliers: OutOfDistribution | None = None
        if known is not None:
            groups = group_numbers(known.groups, len(known.features))
            self._outliers = OutOfDistribution(known.features, groups=groups)

    def judge(self, prediction: CasePrediction) -> Judgement:
        """Columns of one case."""
        scores = prediction.scores
        numbers = self._predicted(scores.scores, None)
        outlier = self._outlier(prediction)
        is_empty = not prediction.accumulated.counts.fused.any()
        decision = self._decide({**scores.scores, **numbers}, outlier, is_empty=is_empty)
        numbers |= {
            "out_of_distribution": outlier.mahalanobis,
            "out_of_distribution_nearest": outlier.nearest,
            "out_of_distribution_quantile": outlier.quantile,
        }
        return Judgement(
            numbers=numbers,
            texts={"flag": decision.flag, "flag_reason": decision.reason},
            labels={
                name: self._predicted(row, name)
                for name, row in scores.per_label.items()
                if name in self.calibration.predicted_dice_labels
            },
        )

    def scaling(self, head: str | None) -> LogitScaling | None:
        """Temperature of a head, or of the fused prediction; vector scaling where it won."""
        vector, temperature = self.calibration.vector_scaling, self.calibration.temperature
        if head is None and vector is not None and vector.is_used:
            return LogitScaling(np.array(vector.weights), np.array(vector.biases))
        if temperature is None:
            return None
        weight = 1 / temperature.of(FUSED if head is None else head)
        return LogitScaling(np.full(self.num_channels, weight), np.zeros(self.num_channels))

    def voxel_map(self, name: str, prediction: CasePrediction) -> UInt[np.ndarray, "z y x"]:
        """A map of ``CALIBRATED_MAPS``.

        Raises:
            SettingError: the calibration lacks what the map needs.
        """
        calibration = self.calibration
        if name == "prediction_set" and calibration.prediction_sets is not None:
            return prediction_set_bits(
                prediction, calibration.prediction_sets, scaling=self.scaling(None)
            )
        if name != "prediction_set" and calibration.contours is not None:
            return contour_bits(prediction, calibration.contours, is_outer=name == "outer_contour")
        raise SettingError(f"{self.path} was made without what -maps {name} needs. Leave it out.")

    def describe(self) -> dict[str, Any]:
        """What was applied, with every figure that goes with it, and where its promise ends."""
        made = self.calibration
        parts = {
            "head_skip": made.head_skip,
            "temperature": made.temperature,
            "vector_scaling": made.vector_scaling,
            "flag": None if made.flag is None else replace(made.flag, curve=()),
            "prediction_sets": made.prediction_sets,
            "contours": made.contours,
        }
        return {
            "file": str(self.path),
            "sha256": self.key,
            "made_with": asdict(made.identity),
            "num_cases": made.num_cases,
            "num_groups": made.num_groups,
            **{name: None if part is None else asdict(part) for name, part in parts.items()},
            "predicted_dice": self._described_dice(),
            "outlier_alpha": made.outlier_alpha,
            "guarantee": GUARANTEE,
            "columns": {name: asdict(column) for name, column in JUDGED_COLUMNS.items()},
        }

    def _predicted(self, scores: Mapping[str, float], label: str | None) -> dict[str, float]:
        made = self.calibration
        model = made.predicted_dice if label is None else made.predicted_dice_labels[label]
        dice, lower = (float("nan"),) * 2 if model is None else model.predict_case(scores)
        return {"predicted_dice": dice, "predicted_dice_lower": lower}

    def _outlier(self, prediction: CasePrediction) -> OutlierScores:
        if self._outliers is None or prediction.features is None:
            return _UNKNOWN
        return self._outliers.score(prediction.features)

    def _decide(
        self, scores: Mapping[str, float], outlier: OutlierScores, *, is_empty: bool
    ) -> CaseDecision:
        alpha = self.calibration.outlier_alpha
        return decide_case(
            scores,
            rule=self.calibration.flag,
            is_empty=is_empty,
            outlier_quantile=None if alpha is None else outlier.quantile,
            **({} if alpha is None else {"outlier_alpha": alpha}),
        )

    def _described_dice(self) -> dict[str, Any] | None:
        model = self.calibration.predicted_dice
        if model is None:
            return None
        names = ("level", "mean_absolute_error", "baseline_error", "num_cases", "num_undefined")
        return {name: getattr(model, name) for name in names}
