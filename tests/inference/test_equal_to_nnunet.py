"""One member of a stock checkpoint gives the segmentation and probabilities of nnU-Net itself."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from inference.model_folders import TinyImage, TinyModel, predict_with_nnunet
from skimage import io

from nnunetv2_le.inference.predictor import LayerEnsemblePredictor
from nnunetv2_le.inference.settings import PredictionSettings

pytestmark = pytest.mark.slow

OBLIQUE = (0.36, -0.48, 0.8, 0.8, 0.6, 0.0, -0.48, 0.64, 0.6)
REGIONS = {"background": 0, "whole": (1, 2), "core": 2}


@dataclass(frozen=True)
class Setting:
    """A model, an image, and how alike the predictions have to be."""

    model: TinyModel = field(default_factory=TinyModel)
    image: TinyImage = field(default_factory=TinyImage)
    mirroring: bool = True
    step_size: float = 0.5


EXACT = {
    "several tiles, mirrored": Setting(),
    "not mirrored": Setting(mirroring=False),
    "two mirrored axes": Setting(TinyModel(mirror_axes=(0, 2))),
    "larger steps": Setting(step_size=0.8),
    "smaller than the patch": Setting(image=TinyImage(shape=(11, 20, 9)), mirroring=False),
    "cropped": Setting(image=TinyImage(shape=(15, 18, 20), border=3), mirroring=False),
    "transposed": Setting(
        TinyModel(transpose_forward=(2, 0, 1)), TinyImage(border=2), mirroring=False
    ),
    "regions": Setting(
        TinyModel(labels=REGIONS, regions_class_order=(1, 2)),
        TinyImage(border=2),
        mirroring=False,
    ),
    "two channels": Setting(TinyModel(num_channels=2), TinyImage(num_channels=2), mirroring=False),
    "slices": Setting(
        TinyModel(patch=(16, 16), spacing=(1.0, 1.0), mirror_axes=(0, 1)), TinyImage((5, 30, 20))
    ),
    "a trainer without deep supervision": Setting(
        TinyModel(trainer="nnUNetTrainerNoDeepSupervision")
    ),
    "a transformer": Setting(TinyModel(trainer="nnUNet_Primus_S_Trainer", mirror_axes=(2,))),
    "oblique": Setting(image=TinyImage(direction=OBLIQUE), mirroring=False),
}
RESAMPLED = {
    "isotropic": Setting(TinyModel(spacing=(1.5, 1.5, 1.5)), TinyImage((36, 40, 44))),
    "downsampled": Setting(TinyModel(spacing=(0.8, 0.8, 0.8)), mirroring=False),
    "separate z": Setting(
        TinyModel(spacing=(4.0, 1.2, 1.2)), TinyImage((20, 40, 44), (5.0, 1.0, 1.0))
    ),
    "separate second axis": Setting(
        TinyModel(spacing=(1.2, 4.0, 1.2)), TinyImage((40, 20, 44), (1.0, 5.0, 1.0))
    ),
    "separate third axis": Setting(
        TinyModel(spacing=(1.2, 1.2, 4.0)), TinyImage((40, 44, 20), (1.0, 1.0, 5.0))
    ),
    "regions, transposed, cropped": Setting(
        TinyModel(
            spacing=(1.3, 1.4, 1.5),
            transpose_forward=(1, 2, 0),
            labels=REGIONS,
            regions_class_order=(1, 2),
        ),
        TinyImage((30, 36, 40), border=3),
        mirroring=False,
    ),
    "slices": Setting(
        TinyModel(patch=(16, 16), spacing=(1.3, 1.3), mirror_axes=(0, 1)), TinyImage((5, 40, 40))
    ),
}


@pytest.mark.parametrize("setting", EXACT.values(), ids=EXACT.keys())
def test_every_voxel_equals_nnunet_without_resampling(setting: Setting, tmp_path: Path):
    ours, stock = predict_both(setting, tmp_path)
    assert len(np.unique(stock[0])) > 1
    np.testing.assert_array_equal(ours[0], stock[0])
    np.testing.assert_allclose(ours[1], stock[1], atol=1e-3)


@pytest.mark.parametrize("setting", RESAMPLED.values(), ids=RESAMPLED.keys())
def test_voxels_equal_nnunet_with_resampling(setting: Setting, tmp_path: Path):
    ours, stock = predict_both(setting, tmp_path)
    assert len(np.unique(stock[0])) > 1
    assert np.mean(ours[0] == stock[0]) >= 0.9999
    np.testing.assert_allclose(ours[1], stock[1], atol=1e-3)


def test_a_picture_of_three_colours_equals_nnunet(tmp_path: Path):
    model = TinyModel(
        patch=(16, 16),
        spacing=(1.0, 1.0),
        mirror_axes=(1,),
        reader="NaturalImage2DIO",
        ending=".png",
        num_channels=3,
    ).write(tmp_path / "model")
    picture = np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8)
    (tmp_path / "in").mkdir()
    file = tmp_path / "in" / "road_0000.png"
    io.imsave(str(file), picture)
    stock = predict_with_nnunet(model, [[file]], tmp_path / "stock") / "road.png"
    ours = predict_files(model, tmp_path) / "road.png"
    assert len(np.unique(io.imread(str(stock)))) > 1
    np.testing.assert_array_equal(io.imread(str(ours)), io.imread(str(stock)))


def test_tiff_volumes_and_their_spacing_equal_nnunet(tmp_path: Path):
    model = TinyModel(reader="Tiff3DIO", ending=".tif", mirror_axes=None, spacing=(2.0, 1.0, 1.0))
    model_folder = model.write(tmp_path / "model")
    (tmp_path / "in").mkdir()
    file = tmp_path / "in" / "cell_0000.tif"
    values = np.random.default_rng(0).normal(size=(20, 24, 28)).astype(np.float32)
    tifffile.imwrite(file, values)
    (tmp_path / "in" / "cell.json").write_text(json.dumps({"spacing": [2.0, 1.0, 1.0]}))
    stock = predict_with_nnunet(model_folder, [[file]], tmp_path / "stock")
    ours = predict_files(model_folder, tmp_path)
    expected = tifffile.imread(stock / "cell.tif")
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(tifffile.imread(ours / "cell.tif"), expected)
    spacings = [json.loads((out / "cell.json").read_text()) for out in (ours, stock)]
    assert spacings[0] == spacings[1] == {"spacing": [2.0, 1.0, 1.0]}


def predict_files(model: Path, folder: Path) -> Path:
    """The folder that a run makes of the images in ``folder/in``."""
    predictor = LayerEnsemblePredictor.from_model_folder(model, folds=[0], show_progress=False)
    assert not predictor.predict_folder(folder / "in", folder / "ours").failed
    return folder / "ours"


def test_png_slices_equal_nnunet(tmp_path: Path):
    model = TinyModel(
        patch=(16, 16),
        spacing=(1.0, 1.0),
        mirror_axes=(0, 1),
        reader="NaturalImage2DIO",
        ending=".png",
    )
    ours, stock = predict_both(Setting(model, TinyImage((1, 40, 30))), tmp_path)
    np.testing.assert_array_equal(ours[0], stock[0])
    np.testing.assert_allclose(ours[1], stock[1], atol=1e-3)


def test_second_stage_of_a_cascade_equals_nnunet(tmp_path: Path):
    image = TinyImage()
    before = tmp_path / "before"
    before.mkdir()
    labels = np.zeros(image.shape, dtype=np.uint8)
    labels[5:12, 8:14], labels[12:15, 8:14] = 1, 2
    picture = sitk.GetImageFromArray(labels)
    picture.SetOrigin((3.0, -4.0, 5.0))
    sitk.WriteImage(picture, str(before / "case.nii.gz"))
    setting = Setting(TinyModel(previous_stage="3d_lowres"), image)
    ours, stock = predict_both(setting, tmp_path, previous_stage=before)
    np.testing.assert_array_equal(ours[0], stock[0])
    np.testing.assert_allclose(ours[1], stock[1], atol=1e-3)


def test_several_folds_with_fusion_nnunet_equal_nnunet(tmp_path: Path):
    setting = Setting(TinyModel(num_folds=3), mirroring=False)
    ours, stock = predict_both(setting, tmp_path, folds=(0, 1, 2), fusion="nnunet")
    np.testing.assert_array_equal(ours[0], stock[0])
    np.testing.assert_allclose(ours[1], stock[1], atol=1e-3)


def test_several_folds_with_fusion_mean_differ_by_the_precision_of_blending(tmp_path: Path):
    setting = Setting(TinyModel(num_folds=3), mirroring=False)
    ours, stock = predict_both(setting, tmp_path, folds=(0, 1, 2), fusion="mean")
    assert np.mean(ours[0] == stock[0]) >= 0.99
    assert np.mean(np.abs(ours[1] - stock[1]) < 5e-3) >= 0.99


def turned_by_sitk(file: Path) -> Any:
    image = sitk.ReadImage(str(file))
    return sitk.GetArrayFromImage(sitk.DICOMOrient(image, "RAS"))


READERS = {
    "SimpleITKIO": lambda file: sitk.GetArrayFromImage(sitk.ReadImage(str(file))),
    "SimpleITKIOWithReorient": turned_by_sitk,
    "NibabelIO": lambda file: np.asarray(nibabel.load(file).dataobj).T,
    "NibabelIOWithReorient": lambda file: (
        np.asarray(nibabel.as_closest_canonical(nibabel.load(file)).dataobj).T
    ),
}


@pytest.mark.parametrize("reader", READERS)
def test_maps_lie_where_the_image_lies(reader: str, tmp_path: Path):
    image = TinyImage(shape=(18, 20, 24), border=1, direction=OBLIQUE)
    ours, stock = predict_both(Setting(TinyModel(reader=reader, stages=3), image), tmp_path)
    np.testing.assert_array_equal(ours[0], stock[0])
    source = nibabel.load(tmp_path / "in" / "case_0000.nii.gz")
    file = tmp_path / "ours" / "uncertainty" / "case_entropy.nii.gz"
    entropy = nibabel.load(file)
    np.testing.assert_allclose(entropy.affine, source.affine, atol=1e-4)
    assert entropy.shape == source.shape
    assert entropy.get_data_dtype() == np.float32
    # it is the entropy of the saved probabilities, voxel by voxel as the reader sees them
    probabilities = ours[1]
    expected = -(probabilities * np.log(np.maximum(probabilities, 1e-30))).sum(axis=0)
    np.testing.assert_allclose(READERS[reader](file), expected, atol=2e-3)


def predict_both(
    setting: Setting,
    folder: Path,
    *,
    previous_stage: Path | None = None,
    folds: tuple[int, ...] = (0,),
    fusion: Any = "mean",
) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Segmentation and probabilities of both, for one case."""
    model = setting.model.write(folder / "model")
    ending = setting.model.ending
    images = setting.image.write(folder / "in", ending=ending)
    predict_with_nnunet(
        model,
        [images],
        folder / "stock",
        folds=folds,
        mirroring=setting.mirroring,
        step_size=setting.step_size,
        previous_stage=previous_stage,
    )
    settings = PredictionSettings(
        use_mirroring=setting.mirroring,
        step_size=setting.step_size,
        save_probabilities=True,
        fusion=fusion,
    )
    predictor = LayerEnsemblePredictor.from_model_folder(
        model, settings, folds=folds, show_progress=False
    )
    summary = predictor.predict_folder(
        folder / "in", folder / "ours", previous_stage=previous_stage
    )
    assert summary.done == ("case",), summary.failed
    return read(folder / "ours", ending), read(folder / "stock", ending)


def read(folder: Path, ending: str) -> tuple[Any, Any]:
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"case{ending}")))
    with np.load(folder / "case.npz") as file:
        return labels, file["probabilities"]
