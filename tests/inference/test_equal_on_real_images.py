"""Real images: one member gives nnU-Net's own segmentation, voxel by voxel."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from inference.model_folders import TinyModel, predict_with_nnunet

from nnunetv2_le.inference.predictor import LayerEnsemblePredictor
from nnunetv2_le.inference.settings import PredictionSettings

pytestmark = pytest.mark.slow

NUM_VOLUMES, NUM_SLICES = 2, 5


@pytest.mark.parametrize("mirroring", [True, False])
def test_hippocampus_equals_nnunet(data_root: Path, tmp_path: Path, mirroring: bool):
    model = TinyModel(patch=(24, 32, 24)).write(tmp_path / "model")
    files = sorted((data_root / "Dataset004_Hippocampus" / "imagesTs").glob("*.nii.gz"))
    require_equal(model, files[:NUM_VOLUMES], tmp_path, mirroring=mirroring)


def test_lung_nodules_equal_nnunet(data_root: Path, tmp_path: Path):
    model = TinyModel(
        patch=(32, 32),
        spacing=(1.0, 1.0),
        mirror_axes=(0, 1),
        reader="NaturalImage2DIO",
        ending=".png",
    ).write(tmp_path / "model")
    files = sorted((data_root / "Dataset101_LIDC" / "imagesTs").glob("*.png"))
    require_equal(model, files[:NUM_SLICES], tmp_path, mirroring=True)


def require_equal(model: Path, files: list[Path], folder: Path, *, mirroring: bool) -> None:
    """Predict with both and compare every voxel."""
    assert files
    images = [[file] for file in files]
    predict_with_nnunet(
        model, images, folder / "stock", mirroring=mirroring, save_probabilities=False
    )
    settings = PredictionSettings(use_mirroring=mirroring, maps=())
    predictor = LayerEnsemblePredictor.from_model_folder(
        model, settings, folds=[0], show_progress=False
    )
    summary = predictor.predict_folder(images, folder / "ours")
    assert not summary.failed
    seen = set()
    for file in files:
        name = file.name.replace("_0000", "")
        ours, stock = (
            sitk.GetArrayFromImage(sitk.ReadImage(str(folder / which / name)))
            for which in ("ours", "stock")
        )
        np.testing.assert_array_equal(ours, stock, err_msg=name)
        seen |= set(np.unique(stock).tolist())
    assert len(seen) > 1
