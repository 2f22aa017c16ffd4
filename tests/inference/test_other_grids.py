"""Models of other configurations or plans join as members on the first model's grid."""

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from inference.model_folders import TinyImage, TinyModel, predict_with_nnunet

from nnunetv2_le.errors import CaseError, ModelFolderError, SettingError
from nnunetv2_le.inference.cases import PreparedCase
from nnunetv2_le.inference.model import Model
from nnunetv2_le.inference.other_grids import to_grid
from nnunetv2_le.inference.predictor import LayerEnsemblePredictor
from nnunetv2_le.inference.settings import PredictionSettings

VOLUMES = TinyModel(stages=3, mirror_axes=(2,))
SLICES = TinyModel(stages=3, patch=(16, 16), spacing=(1.0, 1.0), mirror_axes=(1,))


def predictor(folders: list[Path], *families: str, **settings: Any) -> LayerEnsemblePredictor:
    chosen = PredictionSettings(families=families or None, **settings)
    return LayerEnsemblePredictor.from_model_folder(folders, chosen, folds=[0], show_progress=False)


def case(shape: tuple[int, ...], box: list[list[int]]) -> PreparedCase:
    return PreparedCase("case", torch.zeros((1, *shape)), {"bbox_used_for_cropping": box})


def model(*axes: int) -> Any:
    made = mock.Mock(spec=Model, folder=str(axes))
    made.plans = mock.Mock(transpose_forward=list(axes))
    return made


def to(logits: Any, given: Any, wanted: Any) -> Any:
    return to_grid(logits, case=given[0], model=given[1], target=wanted[0], target_model=wanted[1])


def test_the_same_grid_is_left_as_it_is():
    logits = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float16)
    here = (case((3, 4, 5), [[0, 3], [0, 4], [0, 5]]), model(0, 1, 2))
    np.testing.assert_array_equal(to(logits, here, here).numpy(), logits)


def test_other_axes_are_turned():
    image = np.random.default_rng(0).normal(size=(1, 3, 4, 5)).astype(np.float16)
    box = np.array([[0, 3], [0, 4], [1, 6]])
    forward, other = (2, 0, 1), (1, 2, 0)
    given = (case((5, 3, 4), box[list(forward)].tolist()), model(*forward))
    wanted = (case((4, 5, 3), box[list(other)].tolist()), model(*other))
    turned = to(image.transpose(0, 3, 1, 2), given, wanted)
    np.testing.assert_array_equal(turned.numpy(), image.transpose(0, 2, 3, 1))


def test_a_coarser_grid_is_refined_linearly_with_aligned_borders():
    ramp = np.arange(4, dtype=np.float16).reshape(1, 1, 1, 4)
    box = [[0, 1], [0, 1], [0, 8]]
    fine = to(ramp, (case((1, 1, 4), box), model(0, 1, 2)), (case((1, 1, 8), box), model(0, 1, 2)))
    expected = np.clip((np.arange(8) + 0.5) / 2 - 0.5, 0, 3)
    np.testing.assert_allclose(fine.numpy().ravel(), expected, atol=1e-3)


def test_other_crops_are_refused():
    logits = np.zeros((1, 2, 2, 2), dtype=np.float16)
    given = (case((2, 2, 2), [[0, 2], [0, 2], [0, 2]]), model(0, 1, 2))
    wanted = (case((2, 2, 2), [[0, 2], [0, 2], [1, 3]]), model(0, 1, 2))
    with pytest.raises(CaseError, match="crop case differently"):
        to(logits, given, wanted)


@pytest.mark.slow
def test_slices_beside_volumes_are_the_member_that_nnunet_predicts(tmp_path: Path):
    folders = [VOLUMES.write(tmp_path / "volumes"), SLICES.write(tmp_path / "slices")]
    images = TinyImage(shape=(8, 20, 20), border=1).write(tmp_path / "in")
    run = predictor(folders)  # models are the only family, so they are the default
    prediction = run.predict_files(images)
    assert [family.members for family in prediction.plan.families] == [("volumes", "slices")]
    counts = prediction.accumulated.counts
    for number, folder in enumerate(folders):
        out = tmp_path / f"stock_{number}"
        predict_with_nnunet(folder, [images], out, save_probabilities=False)
        labels = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "case.nii.gz")))
        sizes = np.bincount(labels.ravel(), minlength=3)[1:]
        np.testing.assert_array_equal(counts.pairs[:, number, number], sizes)
    assert counts.pairs[0, 0, 1] < counts.pairs[0, 0, 0]


@pytest.mark.slow
def test_the_order_of_models_is_kept_and_the_surest_can_be_from_elsewhere(tmp_path: Path):
    other = TinyModel(stages=3, mirror_axes=(2,), seed=1, spacing=(1.0, 1.3, 1.2))
    folders = [
        VOLUMES.write(tmp_path / "a"),
        other.write(tmp_path / "b"),
        TinyModel(**(VOLUMES.__dict__ | {"seed": 2})).write(tmp_path / "c"),
    ]
    image = np.random.default_rng(0).normal(100, 10, (1, 16, 18, 20)).astype(np.float32)
    run = predictor(folders, "models", fusion="lowest_uncertainty")
    assert list(run.ensemble.others) == ["b"]
    prediction = run.predict_array(image, spacing_mm=(1, 1, 1))
    choice = prediction.accumulated.choice
    assert choice is not None
    assert list(choice.entropy_boundary_ratio) == ["a", "b", "c"]
    for name in "ac":
        alone = predictor([tmp_path / name], "mirrors").predict_array(image, spacing_mm=(1, 1, 1))
        assert choice.entropy_boundary_ratio[name] == pytest.approx(
            alone.scores.scores["entropy_boundary_ratio"], rel=1e-3
        )


def test_other_families_beside_other_grids_are_refused(tmp_path: Path):
    folders = [VOLUMES.write(tmp_path / "volumes"), SLICES.write(tmp_path / "slices")]
    with pytest.raises(SettingError, match=r"slices and volumes see an image differently.*mirrors"):
        predictor(folders, "models", "mirrors")


UNLIKE = {
    "labels": ({"labels": {"background": 0, "front": 1}}, "need the same labels"),
    "channels": ({"num_channels": 2}, "need the same channels"),
    "ending": ({"ending": ".mha"}, "need the same file ending"),
}


@pytest.mark.parametrize(("change", "reason"), UNLIKE.values(), ids=UNLIKE)
def test_models_that_cannot_be_joined_are_refused(tmp_path: Path, change: Any, reason: str):
    other = TinyModel(**(VOLUMES.__dict__ | change))
    folders = [VOLUMES.write(tmp_path / "a"), other.write(tmp_path / "b")]
    with pytest.raises(ModelFolderError, match=reason):
        predictor(folders, "models")
