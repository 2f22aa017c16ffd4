"""What is observed of voxels, against the same counts by NumPy and SciPy on a network's output."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from inference.model_folders import TinyImage, TinyModel
from scipy import ndimage, special

from nnunetv2_le.calibration.observed_case import observe, observed_case
from nnunetv2_le.calibration.references import Reference, read_reference
from nnunetv2_le.calibration.temperature import region_of_interest
from nnunetv2_le.errors import CaseError
from nnunetv2_le.inference.prediction import CasePrediction
from nnunetv2_le.inference.predictor import LayerEnsemblePredictor
from nnunetv2_le.inference.settings import PredictionSettings

IGNORED = 3
SPACING = (2.0, 1.2, 0.7)
CLASSES = TinyModel(
    trainer="LayerEnsembleTrainer",
    stages=3,
    mirror_axes=None,
    spacing=SPACING,
    labels={"background": 0, "front": 1, "back": 2, "ignore": IGNORED},
)
REGIONS = replace(
    CLASSES,
    labels={"background": 0, "whole": [1, 2], "core": 2, "ignore": IGNORED},
    regions_class_order=(1, 2),
)
VALUES = {False: ([1], [2]), True: ([1, 2], [2])}

Relabel = Callable[[np.ndarray], np.ndarray]


class Observed:
    """A case, and its reference made from its segmentation."""

    def __init__(self, model: TinyModel, folder: Path) -> None:
        self.predictor = LayerEnsemblePredictor.from_model_folder(
            model.write(folder / "model"),
            PredictionSettings(save_heads=True),
            show_progress=False,
        )
        image = TinyImage(shape=(12, 18, 20), border=2, spacing=SPACING)
        self.folder, (self.file,) = folder, image.write(folder / "in")
        self.prediction: CasePrediction = self.predictor.predict_files([self.file])
        self.has_regions = bool(model.regions_class_order)

    def reference(self, relabel: Relabel) -> Reference:
        labels = relabel(self.prediction.segmentation().copy()).astype(np.uint8)
        image = sitk.GetImageFromArray(labels)
        image.CopyInformation(sitk.ReadImage(str(self.file)))
        sitk.WriteImage(image, str(self.folder / "labels.nii.gz"))
        return read_reference(self.folder / "labels.nii.gz", self.prediction, self.predictor.model)

    def masks(self, labels: np.ndarray) -> np.ndarray:
        return np.stack([np.isin(labels, values) for values in VALUES[self.has_regions]])

    def decided(self, logits: list[np.ndarray]) -> np.ndarray:
        """Masks of what the mean probability of some members decides."""
        if self.has_regions:
            return np.asarray(np.mean([special.expit(one) for one in logits], axis=0) > 0.5)
        return self.masks(
            np.mean([special.softmax(one, axis=0) for one in logits], axis=0).argmax(0)
        )


@pytest.fixture(scope="module", params=[CLASSES, REGIONS], ids=["classes", "regions"])
def case(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Observed:
    return Observed(request.param, tmp_path_factory.mktemp("case"))


def partly_ignored(labels: np.ndarray) -> np.ndarray:
    """Other labels in half of the image, ignored in a quarter of it."""
    rng = np.random.default_rng(0)
    changed = np.where(rng.random(labels.shape) < 0.3, rng.integers(0, 3, labels.shape), labels)
    changed[:, : labels.shape[1] // 4] = IGNORED
    return changed


def dice(ours: np.ndarray, true: np.ndarray) -> np.ndarray:
    return np.array(
        [2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in zip(ours, true, strict=True)]
    )


def test_what_the_reference_ignores_counts_nowhere(case: Observed) -> None:
    reference = case.reference(partly_ignored)
    seen = observe(case.prediction, reference, fold="0", ignore_label=IGNORED)
    known = reference.native != IGNORED
    ours = case.masks(case.prediction.segmentation()) & known
    true = case.masks(reference.native) & known
    assert seen["label_dice"] == pytest.approx(dice(ours, true))
    inside = reference.network != IGNORED
    kept = case.prediction.accumulated
    assert kept.member_logits is not None
    heads = [kept.member_logits[n].astype(np.float32) for n in sorted(kept.member_logits)]
    expected = [
        dice(case.decided(heads[skip:]) & inside, case.masks(reference.network) & inside).mean()
        for skip in range(len(heads))
    ]
    assert seen["fused_dice"] == pytest.approx(expected)
    region = region_of_interest(kept.fused_foreground, case.masks(reference.network).any(0))
    np.testing.assert_array_equal(
        seen["logits"][-1], kept.fused_logits[:, region & inside].astype(np.float16)
    )
    masks = case.masks(reference.network)[:, region & inside]
    true_channel = masks if case.has_regions else masks[0] + 2 * masks[1]
    np.testing.assert_array_equal(seen["truth"], true_channel)


def test_distances_are_in_millimetres_of_the_image(case: Observed) -> None:
    """Against SciPy: the farthest missed voxel from the segmentation, along each axis its size."""
    reference = case.reference(lambda labels: np.where(labels, labels, 2))
    seen = observe(case.prediction, reference, fold="0", ignore_label=IGNORED)
    ours, true = case.masks(case.prediction.segmentation()), case.masks(reference.native)
    for number in range(2):
        away = ndimage.distance_transform_edt(~ours[number], sampling=SPACING)
        assert seen["outer_mm"][number] == pytest.approx(away[true[number]].max())
    assert seen["outer_mm"].max() > 4


def test_a_label_that_is_nowhere_right_has_dice_zero_in_the_mean(case: Observed) -> None:
    reference = case.reference(lambda labels: np.where(labels == 1, 2, labels == 0))
    seen = observe(case.prediction, reference, fold="0")
    default = len(seen["fused_dice"]) - case.predictor.model.sources[0].num_fused_heads
    ours, true = case.prediction.accumulated.fused_masks, case.masks(reference.network)
    assert 0 in dice(ours, true)
    assert seen["fused_dice"][default] == pytest.approx(dice(ours, true).mean())


def test_without_any_label_every_voxel_that_is_known_may_be_drawn(case: Observed) -> None:
    nothing = case.reference(
        lambda labels: np.where(np.arange(labels.shape[2]) < 9, 0 * labels, IGNORED)
    )
    kept = case.prediction.accumulated
    background = np.zeros_like(kept.decisions)
    empty = replace(case.prediction, accumulated=replace(kept, decisions=background))
    seen = observe(empty, nothing, fold="0", ignore_label=IGNORED)
    assert seen["truth"].shape[-1] == np.count_nonzero(nothing.network != IGNORED) > 0
    assert not seen["truth"].any()


def test_heads_that_found_nothing_agree_on_nothing(case: Observed) -> None:
    reference = case.reference(partly_ignored)
    kept = case.prediction.accumulated
    seen = observe(case.prediction, reference, fold="0", ignore_label=IGNORED)
    assert (seen["agreements"] > 0).any()
    none = replace(kept.counts, pairs=np.zeros_like(kept.counts.pairs))
    empty = replace(case.prediction, accumulated=replace(kept, counts=none))
    without = observe(empty, reference, fold="0", ignore_label=IGNORED)
    assert without["agreements"].shape == seen["agreements"].shape
    assert np.isnan(without["agreements"]).all()


@pytest.mark.parametrize(
    ("label_dice", "expected"),
    [([0.5, np.nan], 0.5), ([0.5, 0.7], 0.6), ([0.0, np.nan], 0.0), ([np.nan, np.nan], np.nan)],
)
def test_dice_of_a_case_is_the_mean_of_its_defined_labels(
    case: Observed, label_dice: list[float], expected: float
) -> None:
    arrays = observe(case.prediction, case.reference(partly_ignored), fold="0")
    record = {"case": "a", "scores": {"x": None}, "labels": {}, "empty_prediction": False}
    found = observed_case(record, {**arrays, "label_dice": np.array(label_dice)})
    assert found.dice == pytest.approx(expected, nan_ok=True)
    assert np.isnan(found.scores["x"])


def test_a_reference_that_ignores_every_voxel_is_named(tmp_path: Path) -> None:
    seen = Observed(CLASSES, tmp_path)
    reference = seen.reference(lambda labels: np.full_like(labels, IGNORED))
    with pytest.raises(CaseError, match=f"{seen.prediction.case} .* every voxel"):
        observe(seen.prediction, reference, fold="0", ignore_label=IGNORED)
