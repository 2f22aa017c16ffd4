from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inference.model_folders import TinyModel

from nnunetv2_le.calibration.contours import ContourMargins, LabelMargins
from nnunetv2_le.calibration.label_bits import contour_bits, prediction_set_bits
from nnunetv2_le.calibration.prediction_sets import PredictionSets
from nnunetv2_le.errors import SettingError
from nnunetv2_le.inference.prediction import CasePrediction
from nnunetv2_le.inference.predictor import LayerEnsemblePredictor
from nnunetv2_le.types import LogitScaling

REGIONS = TinyModel(
    trainer="LayerEnsembleTrainer",
    stages=3,
    mirror_axes=None,
    labels={"background": 0, "whole": [1, 2], "core": 2},
    regions_class_order=(1, 2),
)
CLASSES = TinyModel(trainer="LayerEnsembleTrainer", stages=3, mirror_axes=None)


def predicted(model: TinyModel, folder: Path) -> CasePrediction:
    predictor = LayerEnsemblePredictor.from_model_folder(
        model.write(folder / "model"), show_progress=False
    )
    image = np.random.default_rng(0).normal(size=(1, 16, 16, 16)).astype(np.float32)
    return predictor.predict_array(image, spacing_mm=(1, 1, 1))


def sets(threshold: float) -> PredictionSets:
    return PredictionSets(threshold, 0.05, 0.1, 20, 20)


def test_classes_are_possible_from_the_threshold_on(tmp_path: Path) -> None:
    prediction = predicted(CLASSES, tmp_path)
    bits = prediction_set_bits(prediction, sets(0.3), scaling=None)
    shares = prediction.probabilities()
    for channel, share in enumerate(shares):
        expected = (share >= 0.3) | (shares.argmax(0) == channel)
        np.testing.assert_array_equal(bits >> channel & 1, expected)
    everything = prediction_set_bits(prediction, sets(0.0), scaling=None)
    assert (everything == 7).all()


def test_probabilities_are_scaled_first(tmp_path: Path) -> None:
    prediction = predicted(CLASSES, tmp_path)
    flat = LogitScaling(np.full(3, 1e-3), np.zeros(3))
    assert (prediction_set_bits(prediction, sets(0.3), scaling=flat) == 7).all()


def test_regions_have_a_bit_for_present_and_one_for_absent(tmp_path: Path) -> None:
    prediction = predicted(REGIONS, tmp_path)
    bits = prediction_set_bits(prediction, sets(0.4), scaling=None)
    for region, share in enumerate(prediction.probabilities()):
        np.testing.assert_array_equal(bits >> region & 1, (share >= 0.4) | (share > 0.5))
        np.testing.assert_array_equal(bits >> 2 + region & 1, (1 - share >= 0.4) | ~(share > 0.5))


@pytest.mark.parametrize(("model", "first"), [(CLASSES, 1), (REGIONS, 0)])
def test_margins_of_nothing_leave_the_segmentation_and_no_bound_fills_the_image(
    tmp_path: Path, model: TinyModel, first: int
) -> None:
    prediction = predicted(model, tmp_path)
    segmentation = prediction.segmentation()
    names = prediction.labels.names
    exact = ContourMargins({name: LabelMargins(0.0, 0.0) for name in names}, 0.1, 20, 20)
    none = ContourMargins({name: LabelMargins(None, 0.0) for name in names}, 0.1, 20, 20)
    inner, outer = (contour_bits(prediction, exact, is_outer=side) for side in (False, True))
    for bit, value in enumerate(prediction.labels.values, first):
        mask = np.isin(segmentation, value)
        np.testing.assert_array_equal(inner >> bit & 1, mask)
        np.testing.assert_array_equal(outer >> bit & 1, mask)
    everywhere = contour_bits(prediction, none, is_outer=True)
    assert (everywhere == sum(1 << bit for bit in range(first, first + len(names)))).all()


@dataclass(frozen=True)
class _Labels:
    names: tuple[str, ...]
    has_regions: bool = False

    @property
    def num_channels(self) -> int:
        return len(self.names) + 1


def test_more_labels_than_bits_are_refused(shapes_unchecked: None) -> None:
    @dataclass(frozen=True)
    class Prediction:
        labels: Any

    many: Any = Prediction(_Labels(tuple(map(str, range(64)))))
    with pytest.raises(SettingError, match="room for 64 bits, this model needs 65"):
        prediction_set_bits(many, sets(0.1), scaling=None)
