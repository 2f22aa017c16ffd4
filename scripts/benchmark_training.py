#!/usr/bin/env python3
"""Time of a training iteration: a layer ensemble against nnU-Net's own trainer, in turn (A B A B).

Each step is nnU-Net's own ``train_step`` (forward, loss, backward, clipping, optimizer) on random
images with blob labels. Wall-clock and CPU time are measured; the ratio is taken pair by pair, so
that load from other programs falls on both. Example::

    python scripts/benchmark_training.py --pairs 15 --threads 1
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import (
    DownsampleSegForDSTransform,
)
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_le.ext_trainers import nnunetv2_le_trainers


@dataclass(frozen=True)
class Case:
    """A training configuration: patch, network and batch."""

    name: str
    patch: tuple[int, ...]
    features: tuple[int, ...]
    batch: int
    num_classes: int
    batch_dice: bool


@dataclass(frozen=True)
class Ratio:
    """Seconds of a step and the median over pairs of ours divided by stock's."""

    case: str
    trainer: str
    pairs: int
    stock_s: float
    ours_s: float
    wall_ratio: float
    cpu_ratio: float


CASES = (
    Case("3d hippocampus-like", (40, 56, 40), (16, 32, 64, 128), 2, 3, False),
    Case("2d lung-nodule-like", (128, 128), (16, 32, 64, 128, 256, 256), 16, 2, True),
)


def main() -> int:
    """Run every case and print one JSON line a result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--case", choices=("2d", "3d", "all"), default="all")
    parser.add_argument("-tr", nargs="+", default=["LayerEnsembleTrainer"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(nnUNet_results=folder, nnUNet_preprocessed=folder, nnUNet_raw=folder)
        os.environ.setdefault("nnUNet_compile", "false")
        for case in CASES:
            if arguments.case in ("all", case.name[:2]):
                for trainer in arguments.tr:
                    result = compare(
                        case, trainer, pairs=arguments.pairs, device=torch.device(arguments.device)
                    )
                    sys.stdout.write(json.dumps(asdict(result)) + "\n")
                    sys.stdout.flush()
    return 0


def compare(case: Case, trainer_name: str, *, pairs: int, device: torch.device) -> Ratio:
    """Time ``pairs`` pairs of steps, stock first and ours first in turn."""
    stock = prepare(nnUNetTrainer, case, device)
    ours = prepare(getattr(nnunetv2_le_trainers, trainer_name), case, device)
    for _ in range(2):
        stock(), ours()
    times = []
    for pair in range(pairs):
        if pair % 2:
            b, a = timed(ours, device), timed(stock, device)
        else:
            a, b = timed(stock, device), timed(ours, device)
        times.append((a, b))
    return Ratio(
        case.name,
        trainer_name,
        pairs,
        stock_s=statistics.median(a[0] for a, _ in times),
        ours_s=statistics.median(b[0] for _, b in times),
        wall_ratio=statistics.median(b[0] / a[0] for a, b in times),
        cpu_ratio=statistics.median(b[1] / a[1] for a, b in times),
    )


def timed(step: Callable[[], Any], device: torch.device) -> tuple[float, float]:
    """Wall-clock and CPU seconds of one step."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def prepare(trainer_class: Any, case: Case, device: torch.device) -> Callable[[], Any]:
    """A trainer with network, loss and optimizer; the function does one step on a fixed batch."""
    torch.manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = trainer_class(plans(case), "benchmark", 0, dataset_json(case), device)
    trainer.network = trainer_class.build_network_architecture(
        trainer.plans_manager, trainer.configuration_manager, 1, case.num_classes, True
    ).to(device)
    trainer.optimizer, _ = trainer.configure_optimizers()
    trainer.loss = trainer._build_loss()
    trainer.network.train()
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.normal(size=(case.batch, 1, *case.patch)).astype(np.float32))
    downsample = DownsampleSegForDSTransform(trainer._get_deep_supervision_scales())
    samples = [downsample(segmentation=blobs(case, rng))["segmentation"] for _ in range(case.batch)]
    targets = [torch.stack(scale) for scale in zip(*samples, strict=True)]
    return lambda: trainer.train_step({"data": images, "target": targets})


def blobs(case: Case, rng: np.random.Generator) -> torch.Tensor:
    """One ball a foreground label, as int16 (1, *patch)."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in case.patch), indexing="ij"))
    labels = np.zeros(case.patch, dtype=np.int16)
    for label in range(1, case.num_classes):
        centre = rng.uniform(0.3, 0.7, len(case.patch)) * case.patch
        distance = np.sqrt(((grid - centre.reshape(-1, *[1] * len(case.patch))) ** 2).sum(0))
        labels[distance < 0.2 * min(case.patch)] = label
    return torch.from_numpy(labels[None])


def dataset_json(case: Case) -> dict[str, Any]:
    """What nnU-Net has to know of the data."""
    names = ["background", *(f"label_{n}" for n in range(1, case.num_classes))]
    return {"labels": {name: n for n, name in enumerate(names)}, "channel_names": {"0": "random"}}


def plans(case: Case) -> dict[str, Any]:
    """Plans as nnU-Net writes them, with what a training step reads."""
    dim, stages = len(case.patch), len(case.features)
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": list(case.features),
            "conv_op": f"torch.nn.modules.conv.Conv{dim}d",
            "kernel_sizes": [[3] * dim] * stages,
            "strides": [[1] * dim] + [[2] * dim] * (stages - 1),
            "n_conv_per_stage": [2] * stages,
            "n_conv_per_stage_decoder": [2] * (stages - 1),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dim}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    configuration = {
        "data_identifier": "benchmark",
        "patch_size": list(case.patch),
        "batch_size": case.batch,
        "batch_dice": case.batch_dice,
        "architecture": architecture,
    }
    return {
        "dataset_name": "Dataset001_Benchmark",
        "plans_name": "benchmark",
        "continue_training": False,
        "label_manager": "LabelManager",
        "configurations": {"benchmark": configuration},
    }


if __name__ == "__main__":
    sys.exit(main())
