"""Which models are predicted tile by tile together, and what all models of a run have to share."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from inference.model_folders import TinyModel
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_le.errors import ModelFolderError
from nnunetv2_le.inference.ensemble import Ensemble, as_ensemble, load_ensemble
from nnunetv2_le.inference.model import Model, load_model


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("model") / "model"
    model = TinyModel(stages=3, num_folds=2, checkpoints=("a.pth", "b.pth"), mirror_axes=(2,))
    return load_model(model.write(folder), checkpoint_name="*.pth")


def with_plans(model: Model, change: Any) -> Model:
    plans = copy.deepcopy(model.plans.plans)
    change(plans, plans["configurations"][model.configuration_name])
    manager = PlansManager(plans)
    configuration = manager.get_configuration(model.configuration_name)
    return replace(model, plans=manager, configuration=configuration)


SEEN = {
    "preprocessor": lambda plans, own: own.update(preprocessor_name="Another"),
    "spacing": lambda plans, own: own.update(spacing=[1.0, 1.0, 1.1]),
    "patch": lambda plans, own: own.update(patch_size=[16, 16, 8]),
    "normalization": lambda plans, own: own.update(normalization_schemes=["NoNormalization"]),
    "resampling": lambda plans, own: own["resampling_fn_data_kwargs"].update(order=1),
    "mask": lambda plans, own: own.update(use_mask_for_norm=[True]),
    "previous stage": lambda plans, own: own.update(previous_stage="3d_lowres"),
    "axes": lambda plans, own: plans.update(transpose_forward=[1, 0, 2]),
    "reader": lambda plans, own: plans.update(image_reader_writer="NibabelIO"),
    "intensities": lambda plans, own: plans["foreground_intensity_properties_per_channel"][
        "0"
    ].update(mean=2.0),
}


@pytest.mark.parametrize("change", SEEN.values(), ids=SEEN)
def test_a_model_that_sees_the_image_otherwise_is_predicted_by_itself(
    loaded: Model, change: Any
) -> None:
    other = with_plans(loaded, change)
    ensemble = Ensemble((loaded, other, loaded), ("a", "b", "c"))
    assert list(ensemble.others) == ["b"]
    assert not ensemble.has_one_kind_of_heads
    assert {network.places["models"] for network in ensemble.networks} == {"a", "c"}
    assert len(ensemble.networks) == 2 * len(loaded.sources)


def test_other_axes_to_mirror_are_another_view(loaded: Model) -> None:
    ensemble = Ensemble((loaded, replace(loaded, mirror_axes=None)), ("a", "b"))
    assert list(ensemble.others) == ["b"]


def test_a_model_that_differs_in_what_no_tile_shows_is_predicted_with_the_first(
    loaded: Model,
) -> None:
    def rename(plans: Any, own: Any) -> None:
        plans.update(plans_name="Others")
        own.update(batch_size=7)

    ensemble = Ensemble((loaded, with_plans(loaded, rename)), ("a", "b"))
    assert not ensemble.others
    assert ensemble.has_one_kind_of_heads


def test_networks_are_the_folds_of_one_checkpoint_then_of_the_next(loaded: Model) -> None:
    networks = Ensemble((loaded,), ("a",)).networks
    places = [(network.places["checkpoints"], network.places["folds"]) for network in networks]
    assert places == [("a", "fold_0"), ("a", "fold_1"), ("b", "fold_0"), ("b", "fold_1")]
    for network, source in zip(networks, loaded.sources, strict=True):
        assert network.source is source


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"folds": (0,)}, r"the same folds \(-f\).*\[0, 1\].*\[0\]"),
        ({"checkpoint_names": ("a.pth", "c.pth")}, r"the same checkpoints \(-chk\).*c\.pth"),
    ],
)
def test_models_with_other_folds_or_checkpoints_are_refused(
    loaded: Model, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelFolderError, match=said):
        as_ensemble([loaded, replace(loaded, **change)])


def test_regions_of_another_order_are_other_labels(loaded: Model) -> None:
    regions = replace(
        loaded.labels,
        values=((1, 2), (2,)),
        has_regions=True,
        region_values=(1, 2),
    )
    one, other = (
        replace(loaded, labels=replace(regions, region_values=order)) for order in ((1, 2), (2, 1))
    )
    with pytest.raises(ModelFolderError, match=r"need the same labels.*regions_class_order"):
        as_ensemble([one, other])


def test_a_folder_and_a_link_to_it_are_one_model_named_twice(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "model")
    with pytest.raises(ModelFolderError, match=r"named twice: .*model\. Name each once"):
        load_ensemble([tmp_path / "model", tmp_path / "link"])


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["x/model"], ("model",)),
        (["x/a/model", "x/b/model"], ("a", "b")),
        (["x/model", "x/y/model"], (".", "y")),
        (["x/a/1", "x/b/2", "x/a/2"], ("a/1", "b/2", "a/2")),
    ],
)
def test_names_are_what_tells_folders_apart(
    loaded: Model, tmp_path: Path, folders: list[str], names: tuple[str, ...]
) -> None:
    models = [replace(loaded, folder=tmp_path / folder) for folder in folders]
    assert as_ensemble(models).names == names
