from pathlib import Path

import numpy as np
import pytest
import torch
from inference.model_folders import TinyImage, TinyModel

from nnunetv2_le.inference.members import TilePredictor
from nnunetv2_le.inference.predictor import LayerEnsemblePredictor
from nnunetv2_le.inference.settings import PredictionSettings


@pytest.fixture
def predictor(tmp_path: Path) -> LayerEnsemblePredictor:
    folder = TinyModel(trainer="LayerEnsembleTrainer", num_folds=2).write(tmp_path / "model")
    settings = PredictionSettings(save_features=True, maps=())
    return LayerEnsemblePredictor.from_model_folder(folder, settings, show_progress=False)


@pytest.mark.parametrize("separate_folds", [False, True])
@pytest.mark.parametrize("batch_passes", [False, True])
def test_features_are_those_of_the_first_fold_and_the_unmirrored_pass(
    predictor: LayerEnsemblePredictor, separate_folds: bool, batch_passes: bool
) -> None:
    sources = predictor.model.sources
    predict = TilePredictor(
        predictor.ensemble.networks,
        predictor.plan,
        device=torch.device("cpu"),
        mirror_axes=(0, 1, 2),
        has_regions=False,
        separate_networks=separate_folds,
    )
    predict.batch_passes = batch_passes
    tile = torch.randn((1, 1, 16, 16, 16), generator=torch.Generator().manual_seed(0))
    noted: list[torch.Tensor] = []
    with torch.inference_mode():
        list(predict(tile, note_features=noted.append))
        expected = sources[0](tile).features
    assert len(noted) == 1
    assert expected is not None
    assert torch.allclose(noted[0], expected[0], atol=1e-5)


def test_a_case_has_the_mean_of_its_tiles(predictor: LayerEnsemblePredictor) -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(1, 16, 16, 24)).astype(np.float32)
    prediction = predictor.predict_array(image, spacing_mm=(1, 1, 1))
    normalized = torch.from_numpy((image - image.mean()) / image.std())[None]
    with torch.inference_mode():
        tiles = [predictor.model.sources[0](normalized[..., n : n + 16]).features for n in (0, 8)]
    expected = torch.stack([tile for tile in tiles if tile is not None]).mean(0)[0]
    assert prediction.features is not None
    assert np.allclose(prediction.features, expected.numpy(), atol=1e-4)


def test_features_are_written_when_asked_for(
    predictor: LayerEnsemblePredictor, tmp_path: Path
) -> None:
    TinyImage().write(tmp_path / "in")
    predictor.predict_folder(tmp_path / "in", tmp_path / "out")
    features = np.load(tmp_path / "out" / "features" / "case.npy")
    assert features.dtype == np.float32
    assert features.shape == (2 * (4 + 8 + 8 + 8),)
    assert np.isfinite(features).all()
    plain = LayerEnsemblePredictor(predictor.model, PredictionSettings(), show_progress=False)
    plain.predict_folder(tmp_path / "in", tmp_path / "plain")
    assert not (tmp_path / "plain" / "features").exists()
