"""Two processes on the CPU (gloo): every head learns, and both processes learn the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_le.network.frozen_layer_ensemble_unet import FrozenLayerEnsembleUNet
from nnunetv2_le.network.layer_ensemble_unet import LayerEnsembleUNet
from nnunetv2_le.network.multi_head_unet import MultiHeadUNet
from nnunetv2_le.training.losses import MultiHeadLoss, SummedHeadLoss

WORLD = 2
KINDS = ("layer ensemble", "multi-head", "frozen")


def network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    unet = PlainConvUNet(
        1, 3, [4, 4, 4], nn.Conv2d, 3, [1, 2, 2], 1, 2, 1,
        norm_op=nn.InstanceNorm2d, norm_op_kwargs={"affine": True},
        nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True}, deep_supervision=True,
    )  # fmt: skip
    if kind == "multi-head":
        return MultiHeadUNet(unet, num_heads=3)
    if kind == "frozen":
        return FrozenLayerEnsembleUNet(unet)
    return LayerEnsembleUNet(unet, encoder_gradient=0.2)


def loss(kind: str, *, batch_dice: bool, ddp: bool) -> Any:
    dice = {"batch_dice": batch_dice, "smooth": 1e-5, "do_bg": False, "ddp": ddp}
    single = DC_and_CE_loss(dice, {}, dice_class=MemoryEfficientSoftDiceLoss)
    if kind == "multi-head":
        return MultiHeadLoss(DeepSupervisionWrapper(single, [1, 0.5]), 3)
    return SummedHeadLoss(single)


def batch() -> tuple[torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn((WORLD, 1, 8, 8), generator=generator)
    target = torch.randint(0, 2, (WORLD, 1, 8, 8), generator=generator)
    return images, [target, target[..., ::2, ::2]]


CASES = [(kind, batch_dice) for kind in KINDS for batch_dice in (False, True)]


def work(rank: int, folder: str) -> None:
    """One process: a step on its own image with either Dice; its gradients go to a file."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD
    )
    images, targets = batch()
    own = [target[rank : rank + 1] for target in targets]
    gradients = {}
    for kind, batch_dice in CASES:
        parallel = DistributedDataParallel(network(kind))
        outputs = parallel(images[rank : rank + 1])
        loss(kind, batch_dice=batch_dice, ddp=True)(outputs, own).backward()
        gradients[kind, batch_dice] = {n: p.grad for n, p in parallel.module.named_parameters()}
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
    for case in CASES:
        kind, batch_dice = case
        alone = network(kind)
        loss(kind, batch_dice=batch_dice, ddp=False)(alone(images), targets).backward()
        for name, parameter in alone.named_parameters():
            gradient = first[case][name]
            if not parameter.requires_grad:
                assert kind == "frozen"
                assert gradient is None
                continue
            assert gradient.any(), name
            assert torch.equal(gradient, second[case][name])
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-3, atol=1e-5)
