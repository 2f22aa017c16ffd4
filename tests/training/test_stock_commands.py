"""What nnU-Net's own commands do with a trained layer ensemble: nothing is retrained or patched."""

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.evaluation.find_best_configuration import find_best_configuration
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.model_sharing.model_export import export_pretrained_model
from nnunetv2.model_sharing.model_import import install_model_from_zip_file
from nnunetv2.training.logging.nnunet_logger import MetaLogger

from nnunetv2_le.network.layer_ensemble_unet import LayerEnsembleUNet
from tests.conftest import NnunetFolders
from tests.helpers import (
    TRAINERS_FOLDER,
    TinyDataset,
    prepare,
    processes_as_threads,
    train,
    trainer_for,
    validate,
)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # nnU-Net's own warnings

DATASET = TinyDataset(1)
REGIONS = TinyDataset(
    2, labels={"background": 0, "whole": [1, 2], "core": 2}, regions_class_order=(1, 2)
)


@pytest.fixture(scope="module")
def models(
    module_nnunet_folders: NnunetFolders, progress_is_not_drawn: Any
) -> dict[TinyDataset | str, Path]:
    """Folders of trained models: two folds with classes, one with regions, all validated."""
    folders: dict[TinyDataset | str, Path] = {}
    for dataset, folds in ((DATASET, (0, 1)), (REGIONS, (0,))):
        prepare(dataset, ["3d_fullres"])
        for fold in folds:
            trainer = trainer_for(dataset, "3d_fullres", fold=fold)
            # what nnU-Net exports has the picture of the progress
            with mock.patch.object(MetaLogger, "plot_progress_png", progress_is_not_drawn):
                train(trainer)
            validate(trainer, npz=True)
            folders[dataset.name] = Path(trainer.output_folder_base)
    return folders


@pytest.fixture
def stock_predictor(monkeypatch: pytest.MonkeyPatch) -> nnUNetPredictor:
    monkeypatch.setenv("nnUNet_extTrainer", TRAINERS_FOLDER)
    return nnUNetPredictor(device=torch.device("cpu"), use_mirroring=False, allow_tqdm=False)


def image_of(folders: NnunetFolders, dataset: TinyDataset) -> Path:
    return folders.raw / dataset.name / "imagesTs" / "case_0_0000.nii.gz"


@pytest.mark.parametrize("dataset", [DATASET, REGIONS], ids=["classes", "regions"])
def test_validation_writes_segmentations_probabilities_and_summary(
    models: Any, dataset: TinyDataset
) -> None:
    folder = models[dataset.name] / "fold_0" / "validation"
    names = {file.name for file in folder.iterdir()}
    assert {"case_0.nii.gz", "case_0.npz", "case_0.pkl", "summary.json"} <= names
    probabilities = np.load(folder / "case_0.npz")["probabilities"].astype(np.float32)
    assert np.isfinite(probabilities).all()
    if dataset is DATASET:
        np.testing.assert_allclose(probabilities.sum(0), 1, atol=5e-3)  # stored as float16
    else:
        assert probabilities.min() >= 0
        assert probabilities.max() <= 1


@pytest.mark.parametrize("dataset", [DATASET, REGIONS], ids=["classes", "regions"])
def test_stock_predictor_loads_the_model_and_predicts(
    models: Any,
    dataset: TinyDataset,
    module_nnunet_folders: NnunetFolders,
    stock_predictor: nnUNetPredictor,
    tmp_path: Path,
) -> None:
    stock_predictor.initialize_from_trained_model_folder(str(models[dataset.name]), (0,))
    assert isinstance(stock_predictor.network, LayerEnsembleUNet)
    assert stock_predictor.network.has_regions is (dataset is REGIONS)
    image = image_of(module_nnunet_folders, dataset)
    stock_predictor.predict_from_files_sequential(
        [[str(image)]], [str(tmp_path / "case")], save_probabilities=False
    )
    segmentation = sitk.ReadImage(str(tmp_path / "case.nii.gz"))
    assert segmentation.GetSize() == sitk.ReadImage(str(image)).GetSize()
    assert set(np.unique(sitk.GetArrayFromImage(segmentation))) <= {0, 1, 2}


def test_find_best_configuration_takes_the_model(
    models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnUNet_extTrainer", TRAINERS_FOLDER)
    model = {
        "plans": "nnUNetPlans",
        "configuration": "3d_fullres",
        "trainer": "LayerEnsembleTrainer",
    }
    with processes_as_threads():
        found = find_best_configuration(
            DATASET.name, [model], allow_ensembling=False, num_processes=1, folds=(0, 1)
        )
    selected = found["best_model_or_ensemble"]["selected_model_or_models"]
    assert [(one["trainer"], one["configuration"]) for one in selected] == [
        (model["trainer"], model["configuration"])
    ]


def test_exported_and_installed_model_predicts_the_same(
    models: Any,
    module_nnunet_folders: NnunetFolders,
    stock_predictor: nnUNetPredictor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    archive, elsewhere = tmp_path / "model.zip", tmp_path / "elsewhere"
    export_pretrained_model(
        DATASET.name,
        str(archive),
        configurations=("3d_fullres",),
        trainer="LayerEnsembleTrainer",
        folds=(0, 1),
    )
    monkeypatch.setenv("nnUNet_results", str(elsewhere))
    install_model_from_zip_file(str(archive))
    original = models[DATASET.name]
    installed = elsewhere / original.relative_to(module_nnunet_folders.results)
    image = sitk.GetArrayFromImage(
        sitk.ReadImage(str(image_of(module_nnunet_folders, DATASET)))
    ).astype(np.float32)
    predictions = []
    for folder in (original, installed):
        stock_predictor.initialize_from_trained_model_folder(str(folder), None)
        assert len(stock_predictor.list_of_parameters) == 2
        predictions.append(
            stock_predictor.predict_single_npy_array(
                image[None], {"spacing": DATASET.spacing}, None, None, True
            )[1]
        )
    np.testing.assert_array_equal(*predictions)
