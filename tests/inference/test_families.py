"""Families add up, and a member is what a run with that fold, checkpoint or model alone gives."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inference.model_folders import TinyImage, TinyModel, predict_with_nnunet

from nnunetv2_le.errors import SettingError
from nnunetv2_le.inference.checkpoints import CheckpointReader
from nnunetv2_le.inference.ensemble import Ensemble, as_ensemble, load_ensemble
from nnunetv2_le.inference.members import TilePredictor
from nnunetv2_le.inference.model import load_model
from nnunetv2_le.inference.networks import Networks
from nnunetv2_le.inference.predictor import LayerEnsemblePredictor
from nnunetv2_le.inference.settings import PredictionSettings

STOCK = TinyModel(
    mirror_axes=(2,), num_folds=2, checkpoints=("checkpoint_cycle_2.pth", "checkpoint_cycle_10.pth")
)
CYCLES = "checkpoint_cycle_*.pth"
TILE = torch.randn((1, 1, 16, 16, 16), generator=torch.Generator().manual_seed(0))
MAPS = Path("/proc/self/maps")
NETWORKS = ("folds", "checkpoints", "models")
EVERY = ("heads", "mirrors", *NETWORKS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models of two folds with two checkpoints each."""
    root = tmp_path_factory.mktemp("models")
    first = STOCK.write(root / "first")
    other = TinyModel(**(STOCK.__dict__ | {"seed": 1})).write(root / "other")
    return [first, other]


@pytest.fixture(scope="module")
def image() -> Any:
    return np.random.default_rng(0).normal(100, 10, (1, 16, 18, 20)).astype(np.float32)


def predictor(
    folders: Sequence[Path],
    families: Sequence[str] | None = None,
    *,
    folds: Sequence[int] = (0, 1),
    checkpoint: str = CYCLES,
    **choices: Any,
) -> LayerEnsemblePredictor:
    chosen = PredictionSettings(families=None if families is None else tuple(families), **choices)
    return LayerEnsemblePredictor.from_model_folder(
        folders, chosen, folds=folds, checkpoint_name=checkpoint, show_progress=False
    )


def predict(run: LayerEnsemblePredictor, image: Any) -> Any:
    return run.predict_array(image, spacing_mm=(1, 1, 1))


def members_of_a_tile(run: LayerEnsemblePredictor) -> dict[str, torch.Tensor]:
    """Logits of each family's members, (members, channels, *space)."""
    with torch.inference_mode():
        logits = torch.stack([member.clone() for member in run._grid.predict_tile(TILE)])
    found = {
        family.name: logits[run.plan.numbers(family).start : run.plan.numbers(family).stop]
        for family in run.plan.families
    }
    return found | {"extra": logits[run.plan.num_family_members :]}


@pytest.fixture(scope="module")
def ensemble(folders: list[Path]) -> Ensemble:
    return load_ensemble(folders, folds=[0, 1], checkpoint_name=CYCLES)


@pytest.fixture(scope="module")
def alone(ensemble: Ensemble) -> dict[str, torch.Tensor]:
    """The members of each family, from a run with this family alone."""
    return {
        name: members_of_a_tile(
            LayerEnsemblePredictor(ensemble, PredictionSettings(families=(name,)))
        )[name]
        for name in EVERY
    }


@settings(max_examples=8)
@given(families=st.lists(st.sampled_from(EVERY), min_size=1, unique=True))
def test_every_family_is_the_same_beside_others_as_alone(
    ensemble: Ensemble, alone: dict[str, torch.Tensor], families: list[str]
):
    chosen = PredictionSettings(families=tuple(families))
    run = LayerEnsemblePredictor(ensemble, chosen, show_progress=False)
    assert [family.name for family in run.plan.families] == families
    together = members_of_a_tile(run)
    for name in families:
        torch.testing.assert_close(together[name], alone[name], rtol=0, atol=0)


def test_agreement_and_maps_of_a_family_are_the_same_beside_others_as_alone(
    folders: list[Path], image: Any
):
    together = predict(predictor(folders, ["mirrors", "models", "folds"]), image)
    for family in together.plan.families:
        alone = predict(predictor(folders, [family.name]), image)
        numbers = together.plan.numbers(family)
        pairs = together.accumulated.counts.pairs[:, numbers][:, :, numbers]
        np.testing.assert_array_equal(pairs, alone.accumulated.counts.pairs)
        for name, values in alone.accumulated.maps.items():
            np.testing.assert_array_equal(together.accumulated.maps[name], values)


def test_members_of_networks_are_the_runs_of_these_networks_alone(folders: list[Path]):
    found = members_of_a_tile(predictor(folders, NETWORKS))
    ways: dict[str, list[dict[str, Any]]] = {
        "folds": [{"folds": [fold]} for fold in (0, 1)],
        "checkpoints": [{"checkpoint": f"checkpoint_cycle_{number}.pth"} for number in (2, 10)],
        "models": [{"folders": [folder]} for folder in folders],
    }
    for name, options in ways.items():
        for member, choice in zip(found[name], options, strict=True):
            alone = predictor(**({"folders": folders, "families": ["mirrors"]} | choice))
            torch.testing.assert_close(
                member, members_of_a_tile(alone)["extra"][0], rtol=1e-5, atol=1e-5
            )


def test_a_fold_of_a_layer_ensemble_is_the_mean_probability_of_its_last_heads(tmp_path: Path):
    model = TinyModel(trainer="LayerEnsembleTrainer", stages=3, mirror_axes=(2,), num_folds=2)
    folder = model.write(tmp_path / "model")
    choices: dict[str, Any] = {"checkpoint": "checkpoint_final.pth"}
    folds = members_of_a_tile(predictor([folder], ["folds"], **choices))["folds"]
    for number in (0, 1):
        run = predictor([folder], ["mirrors"], folds=[number], **choices)
        fused = members_of_a_tile(run)["extra"].softmax(1).mean(0)
        torch.testing.assert_close(folds[number].softmax(0), fused, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("families", [["mirrors"], ["heads", "mirrors", *NETWORKS]])
def test_families_take_no_more_passes_than_nnunet(folders: list[Path], families: list[str]):
    run = predictor(folders, families)
    sources = [network.source for network in run.ensemble.networks]
    with mock.patch.object(
        type(sources[0]), "forward", autospec=True, side_effect=type(sources[0]).forward
    ) as forward:
        members_of_a_tile(run)
    assert len(sources) == 8
    assert forward.call_count == len(sources) * 2  # mirroring along one axis


def test_networks_that_share_a_place_give_what_each_gives_by_itself(folders: list[Path]):
    ensemble = load_ensemble(folders, folds=[0, 1], checkpoint_name=CYCLES)
    sources = [network.source for network in ensemble.networks]
    shared = Networks(sources, torch.device("cpu"), share_place=True)
    with torch.inference_mode():
        for number in (3, 0, 0, 7):
            given = shared.use(number)(TILE).heads
            for ours, theirs in zip(given, sources[number](TILE).heads, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert len(shared._places) == 1


def test_networks_that_share_a_place_do_so_in_mixed_precision(folders: list[Path]):
    ensemble = load_ensemble(folders, folds=[0], checkpoint_name="checkpoint_cycle_2.pth")
    sources = [network.source for network in ensemble.networks]
    shared = Networks(sources, torch.device("cpu"), share_place=True)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        for number in (0, 1, 0):
            given = shared.use(number)(TILE).heads[-1]
            with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
                expected = sources[number](TILE).heads[-1]
            torch.testing.assert_close(given, expected, rtol=0, atol=0)


def test_weights_beyond_the_limit_stay_in_their_file_and_are_the_same(folders: list[Path]):
    copied = load_model(folders[0], folds=[0, 1], checkpoint_name=CYCLES)
    mapped = load_model(
        folders[0], folds=[0, 1], checkpoint_name=CYCLES, reader=CheckpointReader(0)
    )
    for ours, theirs in zip(mapped.sources, copied.sources, strict=True):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.skipif(not MAPS.exists(), reason="the system does not say what is mapped")
def test_weights_up_to_the_limit_leave_nothing_of_their_file(tmp_path: Path):
    folder = TinyModel(stages=3).write(tmp_path / "model")
    path = str(folder / "fold_0" / "checkpoint_final.pth")
    copied = load_model(folder, folds=[0])
    assert path not in MAPS.read_text()
    mapped = load_model(folder, folds=[0], reader=CheckpointReader(0))
    assert path in MAPS.read_text()
    assert copied.folds == mapped.folds


@pytest.mark.slow
def test_folds_as_members_leave_the_segmentation_nnunets(tmp_path: Path):
    model = TinyModel(mirror_axes=(2,), num_folds=2).write(tmp_path / "model")
    images = TinyImage().write(tmp_path / "in")
    folds = (0, 1)
    predict_with_nnunet(model, [images], tmp_path / "stock", folds=folds, save_probabilities=False)
    choices: dict[str, Any] = {"checkpoint": "checkpoint_final.pth", "fusion": "nnunet"}
    run = predictor([model], ["heads", "folds", "mirrors"], folds=folds, **choices)
    run.predict_folder(tmp_path / "in", tmp_path / "ours")
    np.testing.assert_array_equal(labels(tmp_path / "ours"), labels(tmp_path / "stock"))
    counts = run.predict_files(images).accumulated.counts
    family = next(family for family in run.plan.families if family.name == "folds")
    for fold, number in zip(folds, run.plan.numbers(family), strict=True):
        alone = tmp_path / f"fold_{fold}"
        predict_with_nnunet(model, [images], alone, folds=(fold,), save_probabilities=False)
        sizes = np.bincount(labels(alone).ravel(), minlength=3)[1:]
        np.testing.assert_array_equal(counts.pairs[:, number, number], sizes)


@pytest.mark.slow
@pytest.mark.parametrize("family", NETWORKS)
def test_the_surest_member_is_the_segmentation_that_nnunet_gives_with_it_alone(
    folders: list[Path], tmp_path: Path, family: str
):
    images = TinyImage().write(tmp_path / "in")
    which = {"folds": (folders[:1], [0, 1], "checkpoint_cycle_2.pth")}
    which["checkpoints"] = (folders[:1], [0], CYCLES)
    which["models"] = (folders, [0], "checkpoint_cycle_2.pth")
    chosen, folds, checkpoint = which[family]
    run = predictor(
        chosen,
        [family, "mirrors"],
        folds=folds,
        checkpoint=checkpoint,
        fusion="lowest_uncertainty",
    )
    choice = run.predict_files(images).accumulated.choice
    assert choice is not None
    assert choice.family == family
    assert choice.entropy_boundary_ratio[choice.member] == min(
        choice.entropy_boundary_ratio.values()
    )
    run.predict_folder(tmp_path / "in", tmp_path / "ours")
    model = chosen[choice.number if family == "models" else 0]
    fold = folds[choice.number if family == "folds" else 0]
    name = ("checkpoint_cycle_2.pth", "checkpoint_cycle_10.pth")[
        choice.number if family == "checkpoints" else 0
    ]
    predict_with_nnunet(
        model,
        [images],
        tmp_path / "stock",
        folds=(fold,),
        checkpoint=name,
        save_probabilities=False,
    )
    np.testing.assert_array_equal(labels(tmp_path / "ours"), labels(tmp_path / "stock"))


@pytest.mark.slow
def test_several_models_are_averaged_as_nnunet_averages_folds(tmp_path: Path):
    images = TinyImage().write(tmp_path / "in")
    folds = TinyModel(mirror_axes=(2,), num_folds=2).write(tmp_path / "folds")
    models = []
    for number in (0, 1):
        model = TinyModel(mirror_axes=(2,)).write(tmp_path / f"model_{number}")
        weights = folds / f"fold_{number}" / "checkpoint_final.pth"
        (model / "fold_0" / "checkpoint_final.pth").write_bytes(weights.read_bytes())
        models.append(model)
    run = predictor(
        models, ["models"], folds=[0], checkpoint="checkpoint_final.pth", fusion="nnunet"
    )
    run.predict_folder(tmp_path / "in", tmp_path / "ours")
    predict_with_nnunet(folds, [images], tmp_path / "stock", folds=(0, 1), save_probabilities=False)
    np.testing.assert_array_equal(labels(tmp_path / "ours"), labels(tmp_path / "stock"))


def test_fused_is_what_a_run_without_further_families_fuses(folders: list[Path], image: Any):
    plain = predict(predictor(folders), image)
    more = predict(predictor(folders, ["mirrors", *NETWORKS]), image)
    np.testing.assert_array_equal(plain.accumulated.fused_logits, more.accumulated.fused_logits)
    assert [family.name for family in plain.plan.families] == ["heads", "mirrors"]


def test_models_with_other_heads_are_members_whose_mean_probability_is_fused(
    tmp_path: Path, image: Any
):
    stock = TinyModel(mirror_axes=(2,)).write(tmp_path / "stock")
    heads = TinyModel(trainer="LayerEnsembleTrainer", mirror_axes=(2,)).write(tmp_path / "heads")
    choices: dict[str, Any] = {"folds": [0], "checkpoint": "checkpoint_final.pth"}
    run = predictor([stock, heads], **choices)
    assert [family.name for family in run.plan.families] == ["mirrors"]
    assert run.plan.extra == ("stock", "heads")
    found = members_of_a_tile(run)["extra"]
    for member, folder in zip(found, (stock, heads), strict=True):
        single = members_of_a_tile(predictor([folder], ["mirrors"], **choices))["extra"]
        fused = single.softmax(1).mean(0)
        torch.testing.assert_close(member.softmax(0), fused, rtol=1e-4, atol=1e-5)
    with pytest.raises(
        SettingError, match=r"heads, but the models differ in their heads.*stock: 2"
    ):
        predictor([stock, heads], ["heads"], **choices)


def test_models_that_fuse_other_heads_are_told_so(tmp_path: Path) -> None:
    folders = [
        TinyModel(trainer=f"LayerEnsembleTrainer{end}", stages=3).write(tmp_path / (end or "All"))
        for end in ("", "Frozen")
    ]
    with pytest.raises(
        SettingError, match=r"differ in how many heads make the segmentation \(All: 2, Frozen: 1\)"
    ):
        predictor(folders, ["heads"], folds=[0], checkpoint="checkpoint_final.pth")


def test_copies_of_a_head_are_a_family_without_order(tmp_path: Path, image: Any):
    model = TinyModel(trainer="MultiHeadTrainer", stages=3, mirror_axes=(2,))
    folder = model.write(tmp_path / "model")
    choices: dict[str, Any] = {"folds": [0], "checkpoint": "checkpoint_final.pth"}
    run = predictor([folder], **choices)  # the heads that there are, and mirrors
    copies, mirrors = run.plan.families
    assert (copies.name, copies.ordered, mirrors.name) == ("multi_head", False, "mirrors")
    assert run.plan.fused == tuple(range(len(copies.members)))
    scores = predict(run, image).scores
    assert np.isnan(scores.scores["aula"])
    assert 0 < scores.scores["multi_head_pairwise_dice"] < 1
    with pytest.raises(SettingError, match="heads are of the family multi_head"):
        predictor([folder], ["heads", "mirrors"], **choices)


def test_a_family_of_one_member_is_left_out_and_said(folders: list[Path], caplog: Any):
    with caplog.at_level("INFO"):
        run = predictor(folders[:1], ["mirrors", *NETWORKS], folds=[1])
    assert [family.name for family in run.plan.families] == ["mirrors", "checkpoints"]
    assert "No folds in this run: -f names one." in caplog.text
    assert "No models in this run: -m names one." in caplog.text


def test_checkpoints_come_in_the_order_of_their_numbers(folders: list[Path]):
    run = predictor(folders[:1], ["checkpoints"])
    assert run.plan.families[0].members == ("checkpoint_cycle_2", "checkpoint_cycle_10")


def test_models_are_named_by_what_tells_their_folders_apart(tmp_path: Path):
    folders = [tmp_path / seed / "Dataset" / "model" for seed in ("seed_0", "seed_1")]
    for folder in folders:
        TinyModel(stages=3).write(folder)
    ensemble = as_ensemble([load_model(folder) for folder in folders])
    assert ensemble.names == ("seed_0", "seed_1")


def test_several_networks_are_blended_by_themselves_with_fusion_nnunet(folders: list[Path]):
    together = predictor(folders, ["heads", "folds", "mirrors"])
    separate = TilePredictor(
        together.ensemble.networks,
        together.plan,
        device=torch.device("cpu"),
        mirror_axes=(2,),
        has_regions=False,
        separate_networks=True,
    )
    with torch.inference_mode():
        blended = torch.stack([logits.clone() for logits in separate(TILE)])
        members = separate.combine(blended)
        expected = torch.stack([logits.clone() for logits in together._grid.predict_tile(TILE)])
    assert len(blended) == separate.num_blended == 8 * (2 + 2 + 1)
    torch.testing.assert_close(members, expected, rtol=1e-4, atol=1e-5)


def labels(folder: Path) -> Any:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "case.nii.gz")))
