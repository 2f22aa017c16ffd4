"""Tiny generated data sets in nnU-Net's raw layout, planned and trained by nnU-Net itself.

Volumes are noise with a bright ball a label. Networks have three stages of four to eight features,
trainings one or two iterations: these tests ask whether everything fits together, not how well.
"""

import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import SimpleITK as sitk
import torch

from nnunetv2_le import ext_trainers

TRAINERS_FOLDER = str(Path(ext_trainers.__path__[0]))
PLANS = "nnUNetPlans"


@dataclass(frozen=True)
class TinyDataset:
    """What a generated data set looks like.

    Attributes:
        number: its number in nnU-Net.
        shape: voxels (depth, height, width).
        spacing: millimetres in the same order.
        num_channels: input channels.
        labels: nnU-Net's ``labels``; label values from 1 on get a ball each.
        regions_class_order: for regions.
        num_cases: training cases.
    """

    number: int
    shape: tuple[int, ...] = (16, 24, 20)
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0)
    num_channels: int = 1
    labels: dict[str, Any] = field(default_factory=lambda: {"background": 0, "front": 1, "back": 2})
    regions_class_order: tuple[int, ...] = ()
    num_cases: int = 4

    @property
    def name(self) -> str:
        return f"Dataset{self.number:03d}_Tiny"


def generate(dataset: TinyDataset) -> None:
    """Write the data set below ``nnUNet_raw``."""
    folder = Path(os.environ["nnUNet_raw"]) / dataset.name
    for part in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(dataset.number)
    for case in range(dataset.num_cases):
        labels, image = _volume(dataset, rng)
        _write(labels.astype(np.uint8), dataset, folder / "labelsTr" / f"case_{case}.nii.gz")
        for channel in range(dataset.num_channels):
            for part in ("imagesTr", "imagesTs")[: 2 if case == 0 else 1]:
                file = folder / part / f"case_{case}_{channel:04d}.nii.gz"
                _write(image * (channel + 1), dataset, file)
    description = {
        "channel_names": {str(n): f"channel_{n}" for n in range(dataset.num_channels)},
        "labels": dataset.labels,
        "numTraining": dataset.num_cases,
        "file_ending": ".nii.gz",
    }
    if dataset.regions_class_order:
        description["regions_class_order"] = list(dataset.regions_class_order)
    (folder / "dataset.json").write_text(json.dumps(description))


def prepare(
    dataset: TinyDataset,
    configurations: Sequence[str],
    *,
    planner: str = "ExperimentPlanner",
    lowres: bool = False,
) -> str:
    """Generate, plan, make the network tiny, preprocess; gives the plans' name."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprints,
        plan_experiments,
        preprocess,
    )

    generate(dataset)
    with processes_as_threads():
        with _few_intensities():
            extract_fingerprints(
                [dataset.number], num_processes=1, verbose=False, show_progress_bar=False
            )
        with _networks_fit_into_memory():
            plans_name: str = plan_experiments([dataset.number], planner)
        preprocessed = Path(os.environ["nnUNet_preprocessed"]) / dataset.name
        file = preprocessed / f"{plans_name}.json"
        plans = json.loads(file.read_text())
        for name in ("2d", "3d_fullres"):
            if name in plans["configurations"]:
                _shrink(plans["configurations"][name])
        if lowres:
            _add_cascade(plans)
        file.write_text(json.dumps(plans))
        splits = [
            {
                "train": [f"case_{i}" for i in range(dataset.num_cases) if i % 2 != fold],
                "val": [f"case_{fold}"],
            }
            for fold in range(2)
        ]
        (preprocessed / "splits_final.json").write_text(json.dumps(splits))
        preprocess([dataset.number], plans_name, configurations, [1], False, False)
    return plans_name


def trainer_for(
    dataset: TinyDataset,
    configuration: str,
    *,
    fold: int | str = 0,
    trainer: str = "LayerEnsembleTrainer",
    plans: str = PLANS,
    epochs: int | None = 1,
    continue_training: bool = False,
) -> Any:
    """A trainer as nnU-Net's own command makes it, with a very short training."""
    from nnunetv2.run.run_training import get_trainer_from_args

    with mock.patch.dict(os.environ, {"nnUNet_extTrainer": TRAINERS_FOLDER}):
        made = get_trainer_from_args(
            dataset.name,
            configuration,
            fold,
            trainer,
            plans,
            continue_training,
            device=torch.device("cpu"),
        )
    if epochs is not None:
        made.num_epochs = epochs
    made.num_iterations_per_epoch = 1
    made.num_val_iterations_per_epoch = 1
    return made


def train(trainer: Any) -> Any:
    """Train; gives the trainer back."""
    trainer.run_training()
    return trainer


def validate(trainer: Any, *, npz: bool = False) -> None:
    """nnU-Net's own validation, its worker processes as threads."""
    with processes_as_threads():
        trainer.perform_actual_validation(npz)


@contextmanager
def processes_as_threads() -> Iterator[None]:
    """Let nnU-Net's pools of spawned processes be threads: starting a process takes seconds."""
    real = multiprocessing.get_context

    class Threads:
        Pool = staticmethod(lambda processes=None, **_: ThreadPool(processes))

        def __getattr__(self, name: str) -> Any:
            return getattr(real("spawn"), name)

    with mock.patch("multiprocessing.get_context", return_value=Threads()):
        yield


def _few_intensities() -> Any:
    """nnU-Net draws 100 million intensities from a data set, also from the smallest."""
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (
        DatasetFingerprintExtractor,
    )

    real = DatasetFingerprintExtractor.__init__

    def initialise(extractor: Any, *args: Any, **settings: Any) -> None:
        real(extractor, *args, **settings)
        extractor.num_foreground_voxels_for_intensitystats = 1e5

    return mock.patch.object(DatasetFingerprintExtractor, "__init__", initialise)


def _networks_fit_into_memory() -> Any:
    """Skip the planner's estimate, for which it builds networks of full width over and over."""
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (
        ExperimentPlanner,
    )

    return mock.patch.object(ExperimentPlanner, "static_estimate_VRAM_usage", return_value=1e6)


def _volume(dataset: TinyDataset, rng: np.random.Generator) -> tuple[Any, Any]:
    values = sorted({v for entry in dataset.labels.values() for v in np.atleast_1d(entry)} - {0})
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in dataset.shape), indexing="ij"))
    labels = np.zeros(dataset.shape, dtype=np.uint8)
    for place, value in enumerate(values):
        centre = np.array(dataset.shape) * (place + 1) / (len(values) + 1)
        scaled = (grid - centre.reshape(-1, 1, 1, 1)) / np.reshape(dataset.shape, (-1, 1, 1, 1))
        labels[np.sqrt((scaled**2).sum(0)) < 0.18] = value
    image = rng.normal(size=dataset.shape) + 3.0 * labels
    return labels, image.astype(np.float32)


def _write(array: Any, dataset: TinyDataset, file: Path) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(dataset.spacing[::-1])
    sitk.WriteImage(image, str(file))


def _shrink(configuration: dict[str, Any]) -> None:
    """At most three stages of four to eight features, one block each, batches of two."""
    arguments = configuration["architecture"]["arch_kwargs"]
    stages = arguments["n_stages"] = min(3, arguments["n_stages"])
    arguments["features_per_stage"] = [4, 8, 8][:stages]
    for name in ("kernel_sizes", "strides", "n_conv_per_stage", "n_blocks_per_stage"):
        if name in arguments:
            arguments[name] = arguments[name][:stages]
    for name in ("n_conv_per_stage", "n_blocks_per_stage"):
        if name in arguments:
            arguments[name] = [1] * stages
    arguments["n_conv_per_stage_decoder"] = [1] * (stages - 1)
    configuration["batch_size"] = 2


def _add_cascade(plans: dict[str, Any]) -> None:
    """A low-resolution stage and a second stage; nnU-Net plans them for large images alone."""
    full = plans["configurations"]["3d_fullres"]
    plans["configurations"]["3d_lowres"] = {
        "inherits_from": "3d_fullres",
        "data_identifier": f"{plans['plans_name']}_3d_lowres",
        "spacing": [1.5 * mm for mm in full["spacing"]],
        "next_stage": "3d_cascade_fullres",
    }
    plans["configurations"]["3d_cascade_fullres"] = {
        "inherits_from": "3d_fullres",
        "previous_stage": "3d_lowres",
    }
