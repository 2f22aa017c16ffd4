"""What a prediction keeps, and what it says of what it leaves out."""

import json
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from inference.model_folders import TinyImage, TinyModel
from scipy import ndimage

from nnunetv2_le.errors import SettingError
from nnunetv2_le.inference import prediction as prediction_module
from nnunetv2_le.inference.cases import prepare_array
from nnunetv2_le.inference.prediction import CasePrediction
from nnunetv2_le.inference.predictor import LayerEnsemblePredictor
from nnunetv2_le.inference.settings import PredictionSettings
from nnunetv2_le.uncertainty import components


@pytest.fixture
def predictor(tmp_path: Path) -> LayerEnsemblePredictor:
    folder = TinyModel(trainer="LayerEnsembleTrainer").write(tmp_path / "model")
    settings = PredictionSettings(maps=("heads_variance",))
    return LayerEnsemblePredictor.from_model_folder(folder, settings, show_progress=False)


def predicted(predictor: LayerEnsemblePredictor) -> CasePrediction:
    image = np.random.default_rng(0).normal(size=(1, 16, 16, 24)).astype(np.float32)
    return predictor.predict_array(image, spacing_mm=(1, 1, 1), name="noise")


def test_no_logits_are_kept_but_those_of_heads(tmp_path: Path) -> None:
    folder = TinyModel(trainer="LayerEnsembleTrainer").write(tmp_path / "model")
    families = ("mirrors", "heads")
    settings = PredictionSettings(families=families, save_heads=True, maps=())
    both = LayerEnsemblePredictor.from_model_folder(folder, settings, show_progress=False)
    kept = predicted(both).accumulated.member_logits
    mirrors, heads = both.plan.families
    assert kept is not None
    assert tuple(kept) == tuple(both.plan.numbers(heads)) == both.plan.head_numbers
    settings = PredictionSettings(families=("heads",), save_heads=True, maps=())
    alone = LayerEnsemblePredictor.from_model_folder(folder, settings, show_progress=False)
    expected = predicted(alone).accumulated.member_logits
    assert expected is not None
    for number, logits in expected.items():
        np.testing.assert_array_equal(kept[number + len(mirrors.members)], logits)


def test_an_image_that_is_forgotten_before_scoring_changes_nothing(
    predictor: LayerEnsemblePredictor,
) -> None:
    image = np.random.default_rng(0).normal(size=(1, 16, 16, 24)).astype(np.float32)
    prepared = prepare_array(image, predictor.model, spacing_mm=(1, 1, 1), name="noise")
    kept = predictor.predict_prepared(prepared)
    forgot = predictor.predict_prepared(prepared, forget_image=True)
    assert kept.scores.scores == forgot.scores.scores
    assert prepared.image.is_meta
    assert prepared.image.shape == (1, 16, 16, 24)


def test_probabilities_take_no_more_memory_than_their_array(
    predictor: LayerEnsemblePredictor,
) -> None:
    prediction = predicted(predictor)
    expected = prediction.probabilities()
    tracemalloc.start()
    try:
        probabilities = prediction.probabilities()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(probabilities, expected)
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, rtol=1e-5)
    assert probabilities.nbytes <= peak < 1.5 * probabilities.nbytes


def test_a_label_in_very_many_pieces_is_said_in_one_line(
    predictor: LayerEnsemblePredictor, monkeypatch: Any, caplog: Any
) -> None:
    for module in (components, prediction_module):
        monkeypatch.setattr(module, "MAX_COMPONENTS", 1)
    found = predicted(predictor).scores.components
    labels = {component.label for component in found}
    assert len(found) == len(labels) > 0
    warnings = [r.getMessage() for r in caplog.records if "components" in r.getMessage()]
    assert len(warnings) == 1
    assert warnings[0].startswith("noise: the table of components has the 1 largest of ")


@pytest.mark.parametrize("order", [1, 0], ids=["our resampling", "nnU-Net's"])
def test_a_result_can_be_pickled(tmp_path: Path, order: int) -> None:
    folder = TinyModel(stages=3, spacing=(1.5, 1.5, 1.5)).write(tmp_path / "model")
    plans = json.loads((folder / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["resampling_fn_probabilities_kwargs"]["order"] = order
    (folder / "plans.json").write_text(json.dumps(plans))
    settings = PredictionSettings(families=("mirrors",))
    result = predicted(
        LayerEnsemblePredictor.from_model_folder(folder, settings, show_progress=False)
    )
    copy = pickle.loads(pickle.dumps(result))
    np.testing.assert_array_equal(copy.segmentation(), result.segmentation())
    assert repr(copy.scores) == repr(result.scores)


def test_a_map_that_is_not_there_is_named_with_those_that_are(
    predictor: LayerEnsemblePredictor,
) -> None:
    prediction = predicted(predictor)
    with pytest.raises(SettingError, match=r"maps entropy heads_.*; got 'heads_entropy'\. Maps on"):
        prediction.voxel_map("heads_entropy")


def test_a_case_of_one_channel_may_be_given_as_one_path(
    predictor: LayerEnsemblePredictor, tmp_path: Path
) -> None:
    (file,) = TinyImage(shape=(16, 16, 16)).write(tmp_path)
    expected = predictor.predict_files([file]).scores.scores["soft_dice"]
    assert predictor.predict_files(str(file)).scores.scores["soft_dice"] == expected
    assert predictor.predict_files(file).case == "case"


def test_an_ordinary_case_says_nothing(predictor: LayerEnsemblePredictor, caplog: Any) -> None:
    predicted(predictor)
    assert not caplog.records


def test_maps_that_nobody_wants_are_dropped_and_the_rest_stays(
    predictor: LayerEnsemblePredictor,
) -> None:
    whole = predicted(predictor)
    small = whole.without_maps_but(("heads_variance",))
    assert set(small.accumulated.maps) == {"heads_variance"}
    assert small.nbytes < whole.nbytes
    assert small.scores == whole.scores
    np.testing.assert_array_equal(small.segmentation(), whole.segmentation())
    np.testing.assert_array_equal(
        small.voxel_map("heads_variance"), whole.voxel_map("heads_variance")
    )


@pytest.mark.parametrize("regions", [False, True])
def test_volumes_in_the_tables_are_those_of_the_written_segmentation(tmp_path: Path, regions: bool):
    names: dict[str, Any] = {"background": 0, "whole": [1, 2], "core": 2}
    layout = {"labels": names, "regions_class_order": (1, 2)} if regions else {}
    model = TinyModel(spacing=(3.0, 1.2, 1.2), mirror_axes=None, **layout).write(tmp_path / "model")
    TinyImage((12, 40, 44), (8.0, 1.0, 0.9), border=2).write(tmp_path / "in")
    predictor = LayerEnsemblePredictor.from_model_folder(model, show_progress=False)
    assert predictor.predict_folder(tmp_path / "in", tmp_path / "out").done == ("case",)
    image = sitk.ReadImage(str(tmp_path / "out" / "case.nii.gz"))
    written, voxel_ml = sitk.GetArrayFromImage(image), np.prod(image.GetSpacing()) / 1000
    row = pd.read_csv(tmp_path / "out" / "uncertainty.csv").iloc[0]
    assert row["volume_ml"] == pytest.approx((written > 0).sum() * voxel_ml, rel=1e-5)
    rows = pd.read_csv(tmp_path / "out" / "uncertainty_per_label.csv").set_index("label_name")
    values = {"whole": [1, 2], "core": [2]} if regions else {"front": [1], "back": [2]}
    for label, parts in values.items():
        expected = np.isin(written, parts).sum() * voxel_ml
        assert rows.loc[label, "volume_ml"] == pytest.approx(expected, rel=1e-5)
    case = next(iter(predictor.predict_files([path]) for path in (tmp_path / "in").iterdir()))
    assert case.is_resampled
    assert case.scores.scores["volume_ml"] != pytest.approx(row["volume_ml"], rel=1e-3)


def test_the_volume_of_a_region_is_that_of_the_labels_written_for_it(tmp_path: Path):
    """Where a smaller region reaches beyond the one around it, both are larger in the file."""
    regions: dict[str, Any] = {"background": 0, "whole": [1, 2], "core": 2}
    model = TinyModel(mirror_axes=(2,), labels=regions, regions_class_order=(1, 2))
    TinyImage((12, 18, 16)).write(tmp_path / "in")
    folder = model.write(tmp_path / "model")
    predictor = LayerEnsemblePredictor.from_model_folder(folder, show_progress=False)
    assert predictor.predict_folder(tmp_path / "in", tmp_path / "out").done == ("case",)
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "case.nii.gz")))
    rows = pd.read_csv(tmp_path / "out" / "uncertainty_per_label.csv").set_index("label_name")
    assert rows.loc["core", "volume_ml"] == pytest.approx((written == 2).sum() / 1000)
    assert rows.loc["whole", "volume_ml"] == pytest.approx((written > 0).sum() / 1000)
    case = predictor.predict_files([tmp_path / "in" / "case_0000.nii.gz"])
    masks = case.accumulated.fused_masks
    assert (masks[1] & ~masks[0]).any()
    assert not case.is_resampled


def test_centres_of_components_are_those_of_the_file(tmp_path: Path):
    layout = {"stages": 3, "mirror_axes": (2,), "reader": "SimpleITKIOWithReorient"}
    model = TinyModel(**layout).write(tmp_path / "model")
    turned = (0.0, 0.0, -1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    TinyImage((12, 16, 20), direction=turned).write(tmp_path / "in")
    predictor = LayerEnsemblePredictor.from_model_folder(model, show_progress=False)
    assert predictor.predict_folder(tmp_path / "in", tmp_path / "out").done == ("case",)
    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "case.nii.gz"))) == 1
    pieces, count = ndimage.label(mask, np.ones((3, 3, 3)))
    expected = ndimage.center_of_mass(mask, pieces, range(1, count + 1))
    table = pd.read_csv(tmp_path / "out" / "uncertainty_per_component.csv")
    centres = table.loc[table["label"] == 1, ["centre_z", "centre_y", "centre_x"]]
    np.testing.assert_allclose(sorted(map(tuple, centres.to_numpy())), sorted(expected), atol=1e-6)
