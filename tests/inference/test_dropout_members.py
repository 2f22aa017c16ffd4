"""Dropout samples: one draw for all tiles and cases, and what they are fused with."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from inference import faulty_runs as runs
from inference.model_folders import TinyModel

from nnunetv2_le.errors import SettingError
from nnunetv2_le.inference.networks import seeded
from nnunetv2_le.inference.predictor import LayerEnsemblePredictor
from nnunetv2_le.inference.settings import PredictionSettings

SHAPE = (1, 1, 16, 16, 16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = TinyModel(trainer="DropoutTrainer", stages=3, mirror_axes=(2,), num_folds=2)
    return model.write(tmp_path_factory.mktemp("model") / "model")


def predictor(folder: Path, *families: str, **settings: Any) -> LayerEnsemblePredictor:
    chosen = PredictionSettings(
        families=families or None, num_samples=3 if "dropout" in families else None, **settings
    )
    return LayerEnsemblePredictor.from_model_folder(folder, chosen, show_progress=False)


def tile(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def members(run: LayerEnsemblePredictor, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return torch.stack([logits.clone() for logits in run._grid.predict_tile(images)])


def test_samples_differ_and_are_the_same_again(folder: Path):
    run = predictor(folder, "dropout")
    first = members(run, tile(0))
    members(run, tile(1))  # another tile between
    torch.testing.assert_close(members(run, tile(0)), first, rtol=0, atol=0)
    assert len(first) == 3
    assert not torch.allclose(first[0], first[1])


def test_threads_that_share_a_predictor_get_what_one_gets(folder: Path):
    run = predictor(folder, "mirrors", "dropout")
    images = np.random.default_rng(0).normal(size=(3, 1, 16, 16, 24)).astype(np.float32)

    def scores(image: np.ndarray) -> dict[str, float]:
        return run.predict_array(image, spacing_mm=(1, 1, 1)).scores.scores

    with ThreadPoolExecutor(len(images)) as threads:
        together = list(threads.map(scores, images))
    assert together == [scores(image) for image in images]


def test_a_seed_is_for_one_device_alone():
    generators = (torch.Generator(), torch.Generator())
    before = [made.get_state() for made in (*generators, torch.default_generator)]
    others = (generators[0], torch.default_generator)
    named = mock.patch.object(torch.cuda, "default_generators", generators)
    with named, seeded(torch.device("cuda", 1), 7):
        draws = torch.rand(2, generator=generators[1])
        for other, state in zip(others, (before[0], before[2]), strict=True):
            assert torch.equal(other.get_state(), state)
    assert torch.equal(draws, torch.rand(2, generator=torch.Generator().manual_seed(7)))
    assert torch.equal(generators[1].get_state(), before[1])


def test_a_sample_drops_the_same_channels_of_every_tile(folder: Path):
    run = predictor(folder, "dropout")
    dropped: list[list[tuple[bool, ...]]] = []
    for seed in (0, 1):
        seen: list[tuple[bool, ...]] = []

        def note(layer: Any, inputs: Any, output: Any, seen: Any = seen) -> None:
            seen.append(tuple((output[0].flatten(1) == 0).all(1).tolist()))

        layers = [
            layer
            for layer in run.ensemble.networks[0].source.modules()
            if isinstance(layer, torch.nn.Dropout3d)
        ]
        hooks = [layer.register_forward_hook(note) for layer in layers]
        members(run, tile(seed))
        for hook in hooks:
            hook.remove()
        dropped.append(seen)
    assert dropped[0] == dropped[1]
    samples = [tuple(dropped[0][n : n + len(layers)]) for n in range(0, len(seen), len(layers))]
    assert len(samples) == len(set(samples)) == 3


def test_what_else_draws_goes_on_as_before(folder: Path):
    run = predictor(folder, "dropout")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    members(run, tile(0))
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
    source = run.ensemble.networks[0].source
    assert not any(layer.training for layer in source.modules())


def test_dropout_alone_takes_its_passes_and_no_others(folder: Path):
    run = predictor(folder, "dropout")
    source = type(run.ensemble.networks[0].source)
    with mock.patch.object(source, "forward", autospec=True, side_effect=source.forward) as passes:
        members(run, tile(0))
    assert passes.call_count == 3 * 2  # samples and folds, no mirroring
    assert run.plan.fused == (0, 1, 2)


def test_beside_other_families_the_prediction_is_that_without_dropout(folder: Path):
    image = np.random.default_rng(0).normal(100, 10, (1, 16, 18, 20)).astype(np.float32)
    plain = predictor(folder, "mirrors").predict_array(image, spacing_mm=(1, 1, 1))
    both = predictor(folder, "mirrors", "dropout").predict_array(image, spacing_mm=(1, 1, 1))
    np.testing.assert_array_equal(plain.accumulated.fused_logits, both.accumulated.fused_logits)
    assert both.scores.num_members == 2 + 3
    assert both.scores.scores["dropout_pairwise_dice"] < 1


def test_dropout_alone_is_the_mean_probability_of_its_samples(folder: Path):
    image = np.random.default_rng(0).normal(100, 10, (1, 16, 16, 16)).astype(np.float32)
    run = predictor(folder, "dropout", use_gaussian=False)
    fused = run.predict_array(image, spacing_mm=(1, 1, 1)).accumulated.fused_logits
    normalized = torch.from_numpy((image - image.mean()) / image.std())[None]
    expected = members(run, normalized).softmax(1).mean(0)
    ours = torch.from_numpy(fused).float().softmax(0)
    torch.testing.assert_close(ours, expected, rtol=0, atol=5e-3)


def test_a_network_without_dropout_is_refused_by_name(tmp_path: Path):
    folder = TinyModel(stages=3).write(tmp_path / "stock")
    with pytest.raises(SettingError, match="dropout, but stock has no layer with active dropout"):
        predictor(folder, "mirrors", "dropout")


def test_one_sample_is_no_family():
    with pytest.raises(SettingError, match="-num_samples is a number of dropout samples, 2 or mor"):
        PredictionSettings(families=("dropout",), num_samples=1)


@pytest.mark.slow
def test_order_workers_and_resuming_change_nothing(folder: Path, tmp_path: Path):
    source = runs.write_cases(tmp_path / "in")
    families = ("-members", "mirrors", "dropout", "-num_samples", "2")
    assert runs.predict(folder, source, tmp_path / "whole", *families) == 0
    for case in ("third", "first"):
        runs.write_cases(tmp_path / case, runs.CASES)
        for other in set(runs.CASES) - {case}:
            (tmp_path / case / f"{other}_0000.nii.gz").unlink()
        again = (*families, "--continue_prediction", "-npp", "0", "-nps", "0")
        assert runs.predict(folder, tmp_path / case, tmp_path / "parts", *again) == 0
    again = (*families, "--continue_prediction")
    assert runs.predict(folder, source, tmp_path / "parts", *again) == 0
    runs.require_same_results(tmp_path / "parts", tmp_path / "whole")
