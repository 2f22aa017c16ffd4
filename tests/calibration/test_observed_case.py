"""What is observed of a labelled case, against nnU-Net's own preprocessing and known answers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from inference.model_folders import TinyImage, TinyModel

from nnunetv2_le.calibration import observed_case
from nnunetv2_le.calibration.observed_case import FUSED, observe
from nnunetv2_le.calibration.references import known_voxels, read_reference, truth
from nnunetv2_le.errors import CaseError
from nnunetv2_le.inference.prediction import CasePrediction
from nnunetv2_le.inference.predictor import LayerEnsemblePredictor
from nnunetv2_le.inference.settings import PredictionSettings
from nnunetv2_le.types import Labels

MODEL = TinyModel(trainer="LayerEnsembleTrainer", stages=3, mirror_axes=None)
RESAMPLED = TinyModel(
    trainer="LayerEnsembleTrainer",
    stages=3,
    mirror_axes=None,
    spacing=(1.4, 0.9, 1.1),
    transpose_forward=(1, 0, 2),
)


def predicted(
    model: TinyModel, folder: Path
) -> tuple[LayerEnsemblePredictor, CasePrediction, list[Path]]:
    predictor = LayerEnsemblePredictor.from_model_folder(
        model.write(folder / "model"),
        PredictionSettings(save_heads=True),
        show_progress=False,
    )
    files = TinyImage(shape=(18, 20, 22), border=2, spacing=(1.0, 1.2, 1.1)).write(folder / "in")
    return predictor, predictor.predict_files(files), files


def write_labels(array: Any, like: Path, file: Path) -> Path:
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(sitk.ReadImage(str(like)))
    sitk.WriteImage(image, str(file))
    return file


def test_a_prediction_that_is_its_own_reference_is_perfect(tmp_path: Path) -> None:
    model = TinyModel(
        trainer="LayerEnsembleTrainer", stages=3, mirror_axes=None, spacing=(1.0, 1.2, 1.1)
    )
    predictor, prediction, files = predicted(model, tmp_path)
    file = write_labels(prediction.segmentation(), files[0], tmp_path / "labels.nii.gz")
    reference = read_reference(file, prediction, predictor.model)
    np.testing.assert_array_equal(reference.network, prediction.accumulated.decisions)
    seen = observe(prediction, reference, fold="0")
    assert (seen["label_dice"] == 1).all()
    assert not seen["outer_mm"].any()
    assert not seen["inner_mm"].any()
    default = len(seen["fused_dice"]) - predictor.model.sources[0].num_fused_heads
    assert seen["fused_dice"][default] == 1
    assert tuple(seen["members"])[-1] == FUSED
    assert tuple(seen["members"])[:-1] == predictor.model.sources[0].head_names
    np.testing.assert_array_equal(seen["logits"][-1].argmax(0), seen["truth"])


def test_fused_dice_is_that_of_the_segmentation_where_as_many_heads_are_fused(
    tmp_path: Path,
) -> None:
    predictor, prediction, files = predicted(RESAMPLED, tmp_path)
    labels = np.random.default_rng(0).integers(
        0, 3, sitk.GetArrayViewFromImage(sitk.ReadImage(str(files[0]))).shape, dtype=np.uint8
    )
    file = write_labels(labels, files[0], tmp_path / "labels.nii.gz")
    reference = read_reference(file, prediction, predictor.model)
    seen = observe(prediction, reference, fold="0")
    default = len(seen["fused_dice"]) - predictor.model.sources[0].num_fused_heads
    ours, true = prediction.accumulated.decisions, reference.network
    dice = [
        2 * ((ours == c) & (true == c)).sum() / ((ours == c).sum() + (true == c).sum())
        for c in (1, 2)
    ]
    assert seen["fused_dice"][default] == pytest.approx(np.mean(dice), abs=2e-3)  # half precision


def test_contours_may_leave_out_a_share_of_voxels(tmp_path: Path) -> None:
    predictor, prediction, files = predicted(MODEL, tmp_path)
    labels = prediction.segmentation().copy()
    labels[0, 0, 0] = 1  # a stray voxel far from everything, beyond the crop
    file = write_labels(labels, files[0], tmp_path / "labels.nii.gz")
    reference = read_reference(file, prediction, predictor.model)
    strict, mild = (
        observe(prediction, reference, fold="0", contour_share=share) for share in (0.0, 0.01)
    )
    assert strict["outer_mm"][0] > 1
    assert not mild["outer_mm"].any()
    assert mild["contour_share"] == 0.01


def test_what_the_reference_ignores_asks_nothing_of_the_contours(tmp_path: Path) -> None:
    described = {"background": 0, "front": 1, "back": 2, "ignore": 3}
    predictor, prediction, files = predicted(replace(MODEL, labels=described), tmp_path)
    labels = prediction.segmentation().copy()
    labels[:, labels.shape[1] // 2 :] = 3
    file = write_labels(labels, files[0], tmp_path / "labels.nii.gz")
    reference = read_reference(file, prediction, predictor.model)
    seen = observe(prediction, reference, fold="0", ignore_label=3)
    assert not seen["outer_mm"].any()
    assert not seen["inner_mm"].any()


@pytest.mark.parametrize("model", [MODEL, RESAMPLED], ids=["same axes", "resampled"])
def test_labels_come_to_the_network_s_grid_as_nnunet_brings_them(
    tmp_path: Path, model: TinyModel
) -> None:
    predictor, prediction, files = predicted(model, tmp_path)
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(files[0])))
    labels = (array > np.quantile(array, 0.6)).astype(np.uint8)
    labels[:, :11] *= 2
    file = write_labels(labels, files[0], tmp_path / "labels.nii.gz")
    trained = predictor.model
    preprocessor = trained.configuration.preprocessor_class(verbose=False)
    _, expected, _ = preprocessor.run_case(
        [str(files[0])], str(file), trained.plans, trained.configuration, trained.dataset_json
    )
    ours = read_reference(file, prediction, trained).network
    np.testing.assert_array_equal(ours, np.maximum(expected[0], 0))  # -1: beyond the image


def test_a_reference_of_another_shape_is_refused(tmp_path: Path) -> None:
    predictor, prediction, _ = predicted(MODEL, tmp_path)
    file = tmp_path / "labels.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 4, 4), np.uint8)), str(file))
    with pytest.raises(CaseError, match=r"Expected a reference of shape \(22, 24, 26\)"):
        read_reference(file, prediction, predictor.model)
    with pytest.raises(CaseError, match="cannot be read"):
        read_reference(tmp_path / "missing.nii.gz", prediction, predictor.model)


@pytest.mark.parametrize(
    "model",
    [
        MODEL,
        replace(
            MODEL,
            labels={"background": 0, "whole": [1, 2], "core": 2, "ignore": 3},
            regions_class_order=(1, 2),
        ),
    ],
    ids=["classes", "regions with ignore"],
)
def test_a_reference_with_values_that_the_data_set_does_not_know_is_refused(
    tmp_path: Path, model: TinyModel
) -> None:
    predictor, prediction, files = predicted(model, tmp_path)
    known = (0, 1, 2, 3) if "ignore" in model.labels else (0, 1, 2)
    labels = np.resize(known, prediction.segmentation().shape).astype(np.uint8)
    file = write_labels(labels, files[0], tmp_path / "labels.nii.gz")
    read_reference(file, prediction, predictor.model)
    labels[0, 0, :2] = (255, 77)
    write_labels(labels, files[0], file)
    listed = ", ".join(map(str, known))
    with pytest.raises(CaseError, match=rf"77, 255, .*dataset\.json has {listed}"):
        read_reference(file, prediction, predictor.model)


@pytest.mark.parametrize("model", [MODEL, RESAMPLED], ids=["same axes", "transposed"])
def test_a_reference_of_another_spacing_is_refused(tmp_path: Path, model: TinyModel) -> None:
    predictor, prediction, files = predicted(model, tmp_path)
    file = write_labels(prediction.segmentation(), files[0], tmp_path / "labels.nii.gz")
    image = sitk.ReadImage(str(file))
    image.SetSpacing([size * (1 + 1e-5) for size in image.GetSpacing()])
    sitk.WriteImage(image, str(file))
    read_reference(file, prediction, predictor.model)
    image.SetSpacing((2.0, 1.0, 3.0))
    sitk.WriteImage(image, str(file))
    with pytest.raises(CaseError, match=r"spacing \(.*got \(3\.0, 1\.0, 2\.0\)"):
        read_reference(file, prediction, predictor.model)


@pytest.mark.parametrize("changed", ["origin", "direction"])
def test_a_reference_that_lies_elsewhere_is_said(
    tmp_path: Path, changed: str, caplog: pytest.LogCaptureFixture
) -> None:
    predictor, prediction, files = predicted(MODEL, tmp_path)
    file = write_labels(prediction.segmentation(), files[0], tmp_path / "labels.nii.gz")
    image = sitk.ReadImage(str(file))
    if changed == "origin":
        image.SetOrigin([place + 50 for place in image.GetOrigin()])
    else:
        image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    sitk.WriteImage(image, str(file))
    read = read_reference(file, prediction, predictor.model)
    np.testing.assert_array_equal(read.native, prediction.segmentation())
    assert f"its reference has {changed} (" in caplog.text


def test_a_reference_with_missing_values_or_several_volumes_is_refused(tmp_path: Path) -> None:
    predictor, prediction, files = predicted(MODEL, tmp_path)
    labels = prediction.segmentation().astype(np.float32)
    labels[0, 0, :7] = np.nan
    file = write_labels(labels, files[0], tmp_path / "labels.nii.gz")
    with pytest.raises(CaseError, match="whole numbers, got 7 voxels with NaN"):
        read_reference(file, prediction, predictor.model)
    sitk.WriteImage(sitk.JoinSeries([sitk.ReadImage(str(files[0]))] * 2), str(file))
    with pytest.raises(CaseError, match="one volume or channel, got 2"):
        read_reference(file, prediction, predictor.model)


def test_voxels_are_drawn_evenly_and_the_same_each_time(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(observed_case, "MAX_VOXELS", 500)
    predictor, prediction, files = predicted(MODEL, tmp_path)
    file = write_labels(prediction.segmentation(), files[0], tmp_path / "labels.nii.gz")
    reference = read_reference(file, prediction, predictor.model)
    first, second = (observe(prediction, reference, fold="0") for _ in range(2))
    assert first["logits"].shape[-1] == 500
    np.testing.assert_array_equal(first["logits"], second["logits"])


def test_fused_dice_does_not_depend_on_how_voxels_are_cut(tmp_path: Path, monkeypatch: Any) -> None:
    predictor, prediction, files = predicted(MODEL, tmp_path)
    file = write_labels(prediction.segmentation(), files[0], tmp_path / "labels.nii.gz")
    reference = read_reference(file, prediction, predictor.model)
    whole = observe(prediction, reference, fold="0")["fused_dice"]
    monkeypatch.setattr(observed_case, "_PIECE_VALUES", 1000)
    np.testing.assert_array_equal(observe(prediction, reference, fold="0")["fused_dice"], whole)


def test_fewer_voxels_are_drawn_where_members_and_channels_are_many(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(observed_case, "MAX_LOGITS", 1000)
    predictor, prediction, files = predicted(MODEL, tmp_path)
    file = write_labels(prediction.segmentation(), files[0], tmp_path / "labels.nii.gz")
    reference = read_reference(file, prediction, predictor.model)
    members, channels, voxels = observe(prediction, reference, fold="0")["logits"].shape
    assert voxels == 1000 // (members * channels)


def test_truth_is_the_channel_or_one_mask_a_region() -> None:
    labels = np.array([0, 4, 2, 7, -1])
    classes = Labels(("a", "b"), (2, 4))
    np.testing.assert_array_equal(truth(labels, classes), [0, 2, 1, 0, 0])
    np.testing.assert_array_equal(known_voxels(labels, classes, ignore_label=7), [1, 1, 1, 0, 0])
    regions = Labels(("whole", "core"), ((2, 4), 4), has_regions=True, region_values=(2, 4))
    np.testing.assert_array_equal(truth(labels, regions), [[0, 1, 1, 0, 0], [0, 1, 0, 0, 0]])
    np.testing.assert_array_equal(known_voxels(labels, regions, ignore_label=7), [1, 1, 1, 0, 1])
