"""Predictions on a simulated GPU: no devices are mixed, and counts are exact in mixed precision."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inference.model_folders import TinyImage, TinyModel

from nnunetv2_le.errors import CaseError
from nnunetv2_le.inference import grid_predictor
from nnunetv2_le.inference.model import load_model
from nnunetv2_le.inference.prediction import CasePrediction
from nnunetv2_le.inference.predictor import LayerEnsemblePredictor
from nnunetv2_le.inference.settings import PredictionSettings
from tests.simulated_gpu import GPU, gpu_autocast, needs_simulated_gpu, simulated_gpu

pytestmark = needs_simulated_gpu

LAYERS = TinyModel("LayerEnsembleTrainer", stages=3, num_folds=2)
REGIONS = TinyModel(
    "LayerEnsembleTrainer",
    stages=3,
    labels={"background": 0, "whole": [1, 2], "core": 2},
    regions_class_order=(1, 2),
)
SLICES = TinyModel(
    "LayerEnsembleTrainer", patch=(16, 16), spacing=(1.0, 1.0), stages=3, mirror_axes=(0, 1)
)
DROPOUT = TinyModel("DropoutTrainer", stages=3)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(grid_predictor, "_autocast", lambda device: gpu_autocast())
    with simulated_gpu():
        yield


def predict(
    model: TinyModel, folder: Path, *, device: str, folds: tuple[int, ...] = (0,), **settings: Any
) -> CasePrediction:
    model_folder = folder / "model"
    if not model_folder.is_dir():
        model.write(model_folder)
    files = TinyImage(shape=(12, 20, 16)).write(folder)
    predictor = LayerEnsemblePredictor.from_model_folder(
        model_folder,
        PredictionSettings(**settings),
        folds=folds,
        device=device,
        show_progress=False,
    )
    return predictor.predict_files(files)


CASES: dict[str, tuple[TinyModel, dict[str, Any]]] = {
    "heads and mirrors": (LAYERS, {}),
    "tiles are blended on the CPU": (LAYERS, {"perform_everything_on_device": False}),
    "folds": (LAYERS, {"families": ("heads", "folds"), "folds": (0, 1)}),
    "folds as nnU-Net": (LAYERS, {"fusion": "nnunet", "folds": (0, 1)}),
    "heads are kept": (LAYERS, {"save_heads": True, "use_mirroring": False}),
    "majority": (LAYERS, {"fusion": "majority"}),
    "staple": (LAYERS, {"fusion": "staple"}),
    "lowest uncertainty": (
        LAYERS,
        {"fusion": "lowest_uncertainty", "families": ("folds",), "folds": (0, 1)},
    ),
    "maps on demand": (
        LAYERS,
        {"maps": ("heads_ttest", "heads_entropy", "heads_total_entropy"), "use_mirroring": False},
    ),
    "regions": (REGIONS, {}),
    "regions by majority": (REGIONS, {"fusion": "majority", "maps": ("heads_ttest",)}),
    "slices": (SLICES, {}),
    "dropout": (DROPOUT, {"families": ("dropout",), "num_samples": 3, "use_mirroring": False}),
}


@pytest.mark.parametrize(("model", "settings"), CASES.values(), ids=CASES)
def test_a_prediction_is_that_of_a_cpu(
    model: TinyModel, settings: dict[str, Any], tmp_path: Path, gpu: None
):
    on_cpu = predict(model, tmp_path, device="cpu", **settings)
    on_gpu = predict(model, tmp_path, device="cuda", **settings)
    accumulated = on_gpu.accumulated
    exact = [int(mask.sum()) for mask in _masks(accumulated.decisions)]
    assert accumulated.counts.fused.tolist() == exact
    assert (on_cpu.accumulated.decisions == accumulated.decisions).mean() > 0.98
    for name, expected in on_cpu.accumulated.maps.items():
        found = accumulated.maps[name]
        assert np.nanmean(np.abs(found - expected)) < 0.02, name
    for name in ("consensus_dice", "aula", "soft_dice"):
        if name in on_cpu.scores.scores:
            difference = on_cpu.scores.scores[name] - on_gpu.scores.scores[name]
            assert not abs(difference) > 0.02, name


def test_models_of_other_grids(tmp_path: Path, gpu: None):
    one = LAYERS.write(tmp_path / "model")
    other = TinyModel("LayerEnsembleTrainer", stages=3, spacing=(1.5, 1.5, 1.5), seed=1)
    folders = [one, other.write(tmp_path / "other")]
    files = TinyImage(shape=(12, 20, 16)).write(tmp_path)
    settings = PredictionSettings(families=("models",), use_mirroring=False)
    found = [
        LayerEnsemblePredictor.from_model_folder(
            folders, settings, folds=(0,), device=device, show_progress=False
        ).predict_files(files)
        for device in ("cpu", "cuda")
    ]
    decisions = [prediction.accumulated.decisions for prediction in found]
    assert (decisions[0] == decisions[1]).mean() > 0.98


def test_a_model_stays_where_it_is_and_serves_several_devices(tmp_path: Path, gpu: None):
    model = load_model(LAYERS.write(tmp_path / "model"), folds=(0,))
    image = np.random.default_rng(0).normal(size=(1, 12, 20, 16)).astype(np.float32)
    settings = PredictionSettings(use_mirroring=False)
    on_cpu, on_gpu = (
        LayerEnsemblePredictor(model, settings, device=device, show_progress=False)
        for device in ("cpu", "cuda")
    )
    assert on_gpu.device == GPU  # the one that is current, whatever is later
    assert {value.device.type for value in model.sources[0].parameters()} == {"cpu"}
    found = [
        predictor.predict_array(image, spacing_mm=(1, 1, 1)).accumulated.decisions
        for predictor in (on_cpu, on_gpu, on_cpu)
    ]
    assert (found[0] == found[1]).mean() > 0.98
    assert (found[0] == found[2]).all()


def test_convolutions_of_a_gpu_are_chosen_by_their_speed(
    tmp_path: Path, gpu: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    predict(LAYERS, tmp_path, device="cpu", use_mirroring=False)
    assert not torch.backends.cudnn.benchmark
    predict(LAYERS, tmp_path, device="cuda", use_mirroring=False)
    assert torch.backends.cudnn.benchmark


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory.\nSee the documentation"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
    ],
    ids=["torch", "cuDNN"],
)
def test_without_memory_tiles_are_blended_on_the_cpu(
    tmp_path: Path,
    gpu: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: Any,
    error: RuntimeError,
):
    expected = predict(LAYERS, tmp_path, device="cuda", perform_everything_on_device=False)
    calls = _fail_on_the_gpu(monkeypatch, error)
    found = predict(LAYERS, tmp_path, device="cuda")
    assert calls == ["cuda", "cpu"]
    said = str(error).splitlines()[0]
    assert f"for lack of memory ({said}): predicting case with tiles" in caplog.text
    assert (found.accumulated.decisions == expected.accumulated.decisions).mean() > 0.98


def test_an_image_that_cannot_be_predicted_is_not_tried_again(
    tmp_path: Path, gpu: None, monkeypatch: pytest.MonkeyPatch
):
    calls = _fail_on_the_gpu(monkeypatch, CaseError("not a number"))
    with pytest.raises(CaseError, match="not a number"):
        predict(LAYERS, tmp_path, device="cuda")
    assert calls == ["cuda"]


def _fail_on_the_gpu(monkeypatch: pytest.MonkeyPatch, error: RuntimeError) -> list[str]:
    """Where tiles are blended, noted at every attempt."""
    window = grid_predictor.Window.slabs
    calls = []

    def failing(self: grid_predictor.Window, *arguments: Any, **keywords: Any) -> Any:
        calls.append(self.results_device.type)
        if self.results_device.type == "cuda":
            raise error
        return window(self, *arguments, **keywords)

    monkeypatch.setattr(grid_predictor.Window, "slabs", failing)
    return calls


def _masks(decisions: np.ndarray) -> list[np.ndarray]:
    return list(decisions) if decisions.dtype == bool else [decisions == 1, decisions == 2]
