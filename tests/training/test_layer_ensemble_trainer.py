"""Short trainings on generated data, of every kind that nnU-Net knows."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.run.run_training import maybe_load_checkpoint

from nnunetv2_le.errors import SettingError, UnsupportedArchitectureError
from nnunetv2_le.network.layer_ensemble_unet import LayerEnsembleUNet
from nnunetv2_le.training import lengths
from nnunetv2_le.training.layer_ensemble_trainer import LayerEnsembleTrainer
from nnunetv2_le.training.losses import SummedHeadLoss
from nnunetv2_le.training.pretrained import carry_over_decoder_heads, read_weights
from tests.conftest import NnunetFolders
from tests.helpers import TinyDataset, prepare, train, trainer_for, validate

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # nnU-Net's own warnings

PLAIN = TinyDataset(1)
REGIONS = TinyDataset(
    2, labels={"background": 0, "whole": [1, 2], "core": 2}, regions_class_order=(1, 2)
)
IGNORE = TinyDataset(3, labels={"background": 0, "front": 1, "ignore": 2})
CHANNELS = TinyDataset(4, num_channels=2)
ANISOTROPIC = TinyDataset(5, shape=(8, 32, 32), spacing=(5.0, 1.0, 1.0))
RESIDUAL = TinyDataset(6)
RESIDUAL_PLANS = "nnUNetResEncUNetMPlans"
HEADS = ("encoder_0", "encoder_1", "encoder_2", "decoder_0", "decoder_1")


@pytest.fixture(scope="module")
def plain(module_nnunet_folders: NnunetFolders) -> TinyDataset:
    prepare(PLAIN, ["2d", "3d_fullres", "3d_lowres"], lowres=True)
    return PLAIN


@pytest.fixture(scope="module")
def trained(plain: TinyDataset) -> Any:
    return train(trainer_for(plain, "3d_fullres"))


def assert_learnt(trainer: Any) -> None:
    """The training was finite, moved every parameter and left a checkpoint."""
    losses = trainer.logger.get_value("train_losses", step=None)
    assert all(math.isfinite(loss) for loss in losses)
    fresh = trainer_for_like(trainer)
    same = [
        name
        for (name, parameter), other in zip(
            trainer.network.named_parameters(), fresh.parameters(), strict=True
        )
        if ".weight" in name and torch.equal(parameter, other)
    ]
    assert not [name for name in same if "norm" not in name and "all_modules.1" not in name]
    assert (Path(trainer.output_folder) / "checkpoint_final.pth").is_file()


def trainer_for_like(trainer: Any) -> LayerEnsembleUNet:
    torch.manual_seed(99)
    return trainer.build_network_architecture(
        trainer.plans_manager,
        trainer.configuration_manager,
        trainer.num_input_channels,
        trainer.label_manager.num_segmentation_heads,
    )


def test_3d_training(trained: Any) -> None:
    assert_learnt(trained)
    assert trained.network.head_names == HEADS
    assert isinstance(trained.loss, SummedHeadLoss)


def test_2d_training(plain: TinyDataset) -> None:
    assert_learnt(train(trainer_for(plain, "2d")))


def test_training_on_all_cases(plain: TinyDataset) -> None:
    trainer = train(trainer_for(plain, "3d_fullres", fold="all"))
    assert_learnt(trainer)
    assert Path(trainer.output_folder).name == "fold_all"


def test_cascade_trains_on_what_the_low_resolution_stage_predicted(plain: TinyDataset) -> None:
    low = train(trainer_for(plain, "3d_lowres", fold="all"))
    validate(low)
    cascade = trainer_for(plain, "3d_cascade_fullres")
    assert len(list(Path(cascade.folder_with_segs_from_previous_stage).iterdir())) == 4
    assert_learnt(train(cascade))
    assert cascade.num_input_channels == 3  # the image, and a one-hot channel a label
    validate(cascade)
    assert (Path(cascade.output_folder) / "validation" / "case_0.nii.gz").is_file()


@pytest.mark.parametrize(
    ("dataset", "channels"),
    [(IGNORE, 2), (CHANNELS, 3), (ANISOTROPIC, 3)],
    ids=lambda d: str(d)[:22],
)
def test_training_with(
    module_nnunet_folders: NnunetFolders, dataset: TinyDataset, channels: int
) -> None:
    prepare(dataset, ["3d_fullres"])
    trainer = train(trainer_for(dataset, "3d_fullres"))
    assert_learnt(trainer)
    assert trainer.num_input_channels == dataset.num_channels
    assert {
        z.shape[1] for z in trainer.network(torch.zeros(1, dataset.num_channels, 8, 16, 16))
    } == {channels}


def test_residual_encoder_plans(module_nnunet_folders: NnunetFolders) -> None:
    plans = prepare(RESIDUAL, ["3d_fullres"], planner="nnUNetPlannerResEncM")
    assert plans == RESIDUAL_PLANS
    trainer = train(trainer_for(RESIDUAL, "3d_fullres", plans=plans))
    assert_learnt(trainer)
    assert trainer.network.encoder.stem is not None


def test_regions_are_trained_and_remembered_by_the_checkpoint(
    module_nnunet_folders: NnunetFolders,
) -> None:
    prepare(REGIONS, ["3d_fullres"])
    trainer = train(trainer_for(REGIONS, "3d_fullres"))
    assert_learnt(trainer)
    assert trainer.network.has_regions
    weights = read_weights(Path(trainer.output_folder) / "checkpoint_final.pth")
    fresh = trainer_for_like(trainer)
    assert not fresh.has_regions
    fresh.load_state_dict(weights)
    assert fresh.has_regions


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("LayerEnsembleTrainerDecoderHeads", 2),
        ("LayerEnsembleTrainerProbes", 5),
        ("LayerEnsembleTrainerFullGradient", 5),
        ("LayerEnsembleTrainerBlockHeads", 5),  # one block a stage in these plans
    ],
)
def test_variants_take_a_step(plain: TinyDataset, name: str, heads: int) -> None:
    trainer = trainer_for(plain, "3d_fullres", trainer=name)
    trainer.initialize()
    assert len(trainer.network.head_names) == heads
    patch = trainer.configuration_manager.patch_size
    batch = {"data": torch.randn(2, 1, *patch), "target": [torch.zeros(2, 1, *patch)]}
    assert math.isfinite(trainer.train_step(batch)["loss"])


@pytest.mark.parametrize("epochs", [1, 5, 20, 50, 100, 250])
def test_lengths_are_what_their_names_say(plain: TinyDataset, epochs: int) -> None:
    name = f"LayerEnsembleTrainer_{epochs}epoch{'s' * (epochs > 1)}"
    trainer = trainer_for(plain, "3d_fullres", trainer=name, epochs=None)
    assert type(trainer) is getattr(lengths, name)
    assert trainer.num_epochs == epochs


def test_default_length_is_nnunets(plain: TinyDataset) -> None:
    stock = trainer_for(plain, "3d_fullres", trainer="nnUNetTrainer", epochs=None)
    assert trainer_for(plain, "3d_fullres", epochs=None).num_epochs == stock.num_epochs


def test_continued_training_goes_on_from_the_epoch_with_the_same_heads(plain: TinyDataset) -> None:
    first = train(trainer_for(plain, "3d_fullres", fold=1))
    going_on = trainer_for(plain, "3d_fullres", fold=1, epochs=2, continue_training=True)
    maybe_load_checkpoint(going_on, continue_training=True, validation_only=False)
    assert going_on.current_epoch == 1
    assert going_on.network.head_names == first.network.head_names
    for name, value in going_on.network.state_dict().items():
        assert torch.equal(value, first.network.state_dict()[name])
    train(going_on)
    assert going_on.current_epoch == 2
    assert len(going_on.logger.get_value("train_losses", step=None)) == 2


def test_a_fixed_batch_is_learnt_by_every_head(plain: TinyDataset) -> None:
    torch.manual_seed(0)
    trainer = trainer_for(plain, "3d_fullres")
    trainer.initialize()
    patch = trainer.configuration_manager.patch_size
    target = torch.zeros(2, 1, *patch)
    target[:, :, 4:12, 6:18, 5:15] = 1
    batch = {"data": 3 * target + torch.randn(2, 1, *patch), "target": [target]}

    def losses() -> list[float]:
        with torch.no_grad():
            return [trainer.loss([z], target).item() for z in trainer.network(batch["data"])]

    before = losses()
    for _ in range(15):
        trainer.train_step(batch)
    assert all(b > a for b, a in zip(before, losses(), strict=True))


def test_the_loss_has_no_warning_and_no_weights(plain: TinyDataset) -> None:
    trainer = trainer_for(plain, "3d_fullres")
    assert isinstance(trainer._build_loss(), SummedHeadLoss)
    assert trainer.enable_deep_supervision


@pytest.mark.parametrize(
    "name", ["LayerEnsembleTrainer", "LayerEnsembleTrainerFrozen", "MultiHeadTrainer"]
)
def test_heads_that_would_not_learn_are_refused(plain: TinyDataset, name: str) -> None:
    trainer = trainer_for(plain, "3d_fullres", trainer=name)
    trainer.enable_deep_supervision = False  # as a subclass can
    with pytest.raises(SettingError, match=f"{name} switches nnU-Net's deep supervision off"):
        trainer.run_training()


@pytest.mark.parametrize(
    "architecture",
    [
        "dynamic_network_architectures.architectures.primus.PrimusS",
        "dynamic_network_architectures.architectures.resnet.ResNet18_CIFAR",
    ],
)
def test_an_architecture_without_encoder_and_decoder_is_refused_before_training(
    plain: TinyDataset, module_nnunet_folders: NnunetFolders, architecture: str
) -> None:
    folder = module_nnunet_folders.preprocessed / plain.name
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    plans["plans_name"] = "otherPlans"
    plans["configurations"]["3d_fullres"]["architecture"] |= {
        "network_class_name": architecture,
        "arch_kwargs": {},
        "_kw_requires_import": [],
    }
    (folder / "otherPlans.json").write_text(json.dumps(plans))
    trainer = trainer_for(plain, "3d_fullres", plans="otherPlans")
    with pytest.raises(UnsupportedArchitectureError, match=architecture.rpartition(".")[2]):
        trainer.run_training()


@pytest.fixture(scope="module")
def stock_checkpoint(plain: TinyDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of nnU-Net's own trainer."""
    torch.manual_seed(7)
    stock = trainer_for(plain, "3d_fullres", trainer="nnUNetTrainer")
    stock.initialize()
    file = tmp_path_factory.mktemp("stock") / "checkpoint_final.pth"
    stock.save_checkpoint(str(file))
    return file


def initialized(plain: TinyDataset) -> LayerEnsembleTrainer:
    trainer = trainer_for(plain, "3d_fullres")
    trainer.initialize()
    return trainer


def test_nnunets_own_loader_takes_the_trunk_of_a_stock_checkpoint(
    plain: TinyDataset, stock_checkpoint: Path
) -> None:
    trainer = initialized(plain)
    heads = {k: v.clone() for k, v in trainer.network.state_dict().items() if ".seg_layers." in k}
    load_pretrained_weights(trainer.network, str(stock_checkpoint))
    stock = read_weights(stock_checkpoint)
    for name, value in trainer.network.state_dict().items():
        assert torch.equal(value, heads[name] if name in heads else stock[name])


def test_decoder_heads_of_a_stock_checkpoint_are_carried_over(
    plain: TinyDataset, stock_checkpoint: Path
) -> None:
    trainer = initialized(plain)
    load_pretrained_weights(trainer.network, str(stock_checkpoint))
    stock = read_weights(stock_checkpoint)
    copied = carry_over_decoder_heads(trainer.network, stock)
    assert len(copied) == 4  # weight and bias of two heads
    stock_trainer = trainer_for(plain, "3d_fullres", trainer="nnUNetTrainer")
    stock_trainer.initialize()
    stock_trainer.network.load_state_dict(stock)
    image = torch.randn(1, 1, 16, 24, 20)
    assert torch.equal(trainer.network(image)[0], stock_trainer.network(image)[0])
    assert carry_over_decoder_heads(stock_trainer.network, stock) == ()
