"""Two processes on the CPU (gloo): every head learns, and both processes learn the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_le.network.layer_ensemble_unet import LayerEnsembleUNet
from nnunetv2_le.training.losses import SummedHeadLoss

WORLD = 2


def network() -> LayerEnsembleUNet:
    torch.manual_seed(0)
    unet = PlainConvUNet(
        1, 3, [4, 4, 4], nn.Conv2d, 3, [1, 2, 2], 1, 2, 1,
        norm_op=nn.InstanceNorm2d, norm_op_kwargs={"affine": True},
        nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True}, deep_supervision=True,
    )  # fmt: skip
    return LayerEnsembleUNet(unet, encoder_gradient=0.2)


def loss(*, batch_dice: bool, ddp: bool) -> Any:
    dice = {"batch_dice": batch_dice, "smooth": 1e-5, "do_bg": False, "ddp": ddp}
    return SummedHeadLoss(DC_and_CE_loss(dice, {}, dice_class=MemoryEfficientSoftDiceLoss))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn((WORLD, 1, 8, 8), generator=generator)
    return images, torch.randint(0, 2, (WORLD, 1, 8, 8), generator=generator)


def work(rank: int, folder: str) -> None:
    """One process: a step on its own image with either Dice; its gradients go to a file."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD
    )
    images, targets = (part[rank : rank + 1] for part in batch())
    gradients = {}
    for batch_dice in (False, True):
        parallel = DistributedDataParallel(network())
        loss(batch_dice=batch_dice, ddp=True)(parallel(images), [targets]).backward()
        gradients[batch_dice] = {name: p.grad for name, p in parallel.module.named_parameters()}
    torch.save(gradients, Path(folder) / f"rank_{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_two_processes_learn_what_one_learns_on_the_whole_batch(
    tmp_path: Path,
) -> None:
    mp.spawn(work, args=(str(tmp_path),), nprocs=WORLD, join=True)
    first, second = (torch.load(tmp_path / f"rank_{rank}.pt") for rank in range(WORLD))
    images, targets = batch()
    for batch_dice in (False, True):
        alone = network()
        loss(batch_dice=batch_dice, ddp=False)(alone(images), [targets]).backward()
        for name, parameter in alone.named_parameters():
            gradient = first[batch_dice][name]
            assert gradient.any(), name
            assert torch.equal(gradient, second[batch_dice][name])
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-3, atol=1e-5)
