"""Multi-head and dropout trainers: short trainings, and what nnU-Net makes of them."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.run.run_training import maybe_load_checkpoint
from torch import nn

from nnunetv2_le.errors import UnsupportedArchitectureError
from nnunetv2_le.inference.model import load_model
from nnunetv2_le.training.pretrained import carry_over_decoder_heads, read_weights
from tests.conftest import NnunetFolders
from tests.helpers import TRAINERS_FOLDER, TinyDataset, prepare, train, trainer_for, validate

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # nnU-Net's own warnings

PLAIN = TinyDataset(1)
REGIONS = TinyDataset(
    2, labels={"background": 0, "whole": [1, 2], "core": 2}, regions_class_order=(1, 2)
)
RESIDUAL = TinyDataset(6)
TRAINERS = ("MultiHeadTrainer", "DropoutTrainer")


@pytest.fixture(scope="module")
def plain(module_nnunet_folders: NnunetFolders) -> TinyDataset:
    prepare(PLAIN, ["2d", "3d_fullres"])
    return PLAIN


@pytest.fixture(scope="module")
def trained(plain: TinyDataset) -> Callable[[str], Any]:
    made: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in made:
            made[name] = train(trainer_for(plain, "3d_fullres", trainer=name))
        return made[name]

    return get


def assert_learnt(trainer: Any) -> None:
    losses = trainer.logger.get_value("train_losses", step=None)
    assert losses
    assert all(math.isfinite(loss) for loss in losses)
    assert (Path(trainer.output_folder) / "checkpoint_final.pth").is_file()


def stock_predictor(folder: Path) -> nnUNetPredictor:
    predictor = nnUNetPredictor(device=torch.device("cpu"), use_mirroring=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), (0,))
    return predictor


def probabilities(folder: Path, image: Path, dataset: TinyDataset) -> Any:
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(image))).astype(np.float32)
    return stock_predictor(folder).predict_single_npy_array(
        array[None], {"spacing": dataset.spacing}, None, None, True
    )[1]


def image_of(folders: NnunetFolders, dataset: TinyDataset) -> Path:
    return folders.raw / dataset.name / "imagesTs" / "case_0_0000.nii.gz"


@pytest.mark.parametrize("name", TRAINERS)
def test_3d_training_validates_and_nnunets_own_predictor_takes_it(
    trained: Any, name: str, module_nnunet_folders: NnunetFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnUNet_extTrainer", TRAINERS_FOLDER)
    trainer = trained(name)
    assert_learnt(trainer)
    validate(trainer)
    folder = Path(trainer.output_folder_base)
    assert (folder / "fold_0" / "validation" / "case_0.nii.gz").is_file()
    image = image_of(module_nnunet_folders, PLAIN)
    first, second = (probabilities(folder, image, PLAIN) for _ in range(2))
    np.testing.assert_array_equal(first, second)  # dropout is off
    np.testing.assert_allclose(first.sum(0), 1, atol=1e-5)


@pytest.mark.parametrize("name", TRAINERS)
def test_2d_training(plain: TinyDataset, name: str) -> None:
    assert_learnt(train(trainer_for(plain, "2d", trainer=name)))


@pytest.mark.parametrize("name", TRAINERS)
def test_continued_training_goes_on_from_the_epoch(plain: TinyDataset, name: str) -> None:
    first = train(trainer_for(plain, "3d_fullres", fold=1, trainer=name))
    more = trainer_for(plain, "3d_fullres", fold=1, trainer=name, epochs=2, continue_training=True)
    maybe_load_checkpoint(more, continue_training=True, validation_only=False)
    assert more.current_epoch == 1
    for key, value in more.network.state_dict().items():
        assert torch.equal(value, first.network.state_dict()[key])
    assert len(train(more).logger.get_value("train_losses", step=None)) == 2


def test_residual_encoder_plans(module_nnunet_folders: NnunetFolders) -> None:
    plans = prepare(RESIDUAL, ["3d_fullres"], planner="nnUNetPlannerResEncM")
    for name in TRAINERS:
        assert_learnt(train(trainer_for(RESIDUAL, "3d_fullres", trainer=name, plans=plans)))


def test_regions_of_a_multi_head_network_are_the_mean_of_probabilities(
    module_nnunet_folders: NnunetFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnUNet_extTrainer", TRAINERS_FOLDER)
    prepare(REGIONS, ["3d_fullres"])
    trainer = train(trainer_for(REGIONS, "3d_fullres", trainer="MultiHeadTrainer"))
    assert_learnt(trainer)
    network: Any = stock_predictor(Path(trainer.output_folder_base)).network
    assert network.has_regions
    patch = torch.randn(1, 1, 16, 24, 20)
    mean = torch.stack([torch.sigmoid(z) for z in network.head_logits(patch)]).mean(0)
    torch.testing.assert_close(torch.sigmoid(network(patch)), mean)


@pytest.mark.parametrize("name", TRAINERS)
def test_our_predictor_loads_the_model(trained: Any, name: str) -> None:
    model = load_model(Path(trained(name).output_folder_base), folds=(0,))
    source = model.sources[0]
    if name == "MultiHeadTrainer":
        assert source.head_names == tuple(f"copy_{number}" for number in range(5))
    else:
        assert source.head_names == ("decoder_1",)  # two stages: the coarser is not trained
    assert any(isinstance(m, nn.Dropout3d) for m in source.modules()) is (name == "DropoutTrainer")


@pytest.mark.parametrize("name", ["MultiHeadTrainer10", "DropoutTrainerHalf"])
def test_variants_take_a_step(plain: TinyDataset, name: str) -> None:
    trainer = trainer_for(plain, "3d_fullres", trainer=name)
    trainer.initialize()
    patch = trainer.configuration_manager.patch_size
    scales = trainer._get_deep_supervision_scales()
    shapes = [[int(n * s) for n, s in zip(patch, scale, strict=True)] for scale in scales]
    batch = {
        "data": torch.randn(2, 1, *patch),
        "target": [torch.zeros(2, 1, *shape) for shape in shapes],
    }
    assert math.isfinite(trainer.train_step(batch)["loss"])
    if name == "MultiHeadTrainer10":
        assert len(trainer.network.head_names) == 10
    else:
        rates = {m.p for m in trainer.network.modules() if isinstance(m, nn.Dropout3d)}
        assert rates == {0.5}


def test_a_checkpoint_of_the_dropout_trainer_is_one_of_nnunets(
    trained: Any, plain: TinyDataset
) -> None:
    stock = trainer_for(plain, "3d_fullres", trainer="nnUNetTrainer")
    stock.initialize()
    weights = read_weights(Path(trained("DropoutTrainer").output_folder) / "checkpoint_final.pth")
    assert stock.network.state_dict().keys() == weights.keys()
    assert not stock.network.load_state_dict(weights).missing_keys


@pytest.mark.parametrize("name", TRAINERS)
def test_an_architecture_without_encoder_and_decoder_is_refused(
    plain: TinyDataset, name: str
) -> None:
    trainer = trainer_for(plain, "3d_fullres", trainer=name)
    architecture = trainer.configuration_manager.configuration["architecture"]
    architecture["network_class_name"] = (
        "dynamic_network_architectures.architectures.primus.PrimusS"
    )
    architecture["arch_kwargs"], architecture["_kw_requires_import"] = {}, []
    with pytest.raises(UnsupportedArchitectureError, match="PrimusS"):
        trainer.initialize()


def test_pretrained_weights_of_a_stock_checkpoint_fill_trunk_and_first_copy(
    plain: TinyDataset, tmp_path: Path
) -> None:
    stock = trainer_for(plain, "3d_fullres", trainer="nnUNetTrainer")
    stock.initialize()
    file = tmp_path / "stock.pth"
    stock.save_checkpoint(str(file))
    trainer = trainer_for(plain, "3d_fullres", trainer="MultiHeadTrainer")
    trainer.initialize()
    load_pretrained_weights(trainer.network, str(file))
    assert len(carry_over_decoder_heads(trainer.network, read_weights(file))) == 4
    image = torch.randn(1, 1, 16, 24, 20)
    assert torch.equal(trainer.network(image)[0], stock.network(image)[0])
