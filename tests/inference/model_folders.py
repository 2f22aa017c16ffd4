"""Tiny models with random weights, saved as nnU-Net saves them, and images for them.

Random weights are enough to compare two predictions: their labels vary from voxel to voxel.
"""

import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_le.training.registry import register_trainers


@dataclass(frozen=True)
class TinyModel:
    """What a generated model looks like.

    Attributes:
        patch: patch size, which decides between 2d and 3d.
        spacing: the network's spacing in the network's order of axes.
        stages: of the network; three give a stock model one trained head, four give two.
        checkpoints: of every fold, each with weights of its own.
        seed: models of another seed have other weights.
    """

    trainer: str = "nnUNetTrainer"
    patch: tuple[int, ...] = (16, 16, 16)
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0)
    stages: int = 4
    features: tuple[int, ...] = (4, 8, 8, 8)
    num_channels: int = 1
    labels: dict[str, Any] = field(default_factory=lambda: {"background": 0, "front": 1, "back": 2})
    regions_class_order: tuple[int, ...] = ()
    transpose_forward: tuple[int, ...] = (0, 1, 2)
    reader: str = "SimpleITKIO"
    ending: str = ".nii.gz"
    mirror_axes: tuple[int, ...] | None = (0, 1, 2)
    previous_stage: str | None = None
    normalization: str = "ZScoreNormalization"
    num_folds: int = 1
    checkpoints: tuple[str, ...] = ("checkpoint_final.pth",)
    seed: int = 0

    def write(self, folder: Path) -> Path:
        """Write plans, dataset and one checkpoint a fold."""
        register_trainers()
        folder.mkdir(parents=True)
        dataset, plans = self._dataset(), self._plans()
        (folder / "dataset.json").write_text(json.dumps(dataset))
        (folder / "plans.json").write_text(json.dumps(plans))
        manager = PlansManager(plans)
        configuration = manager.get_configuration(self.configuration)
        trainer = recursive_find_trainer_class_by_name(self.trainer)
        for fold, name in itertools.product(range(self.num_folds), self.checkpoints):
            torch.manual_seed(fold + 100 * self.checkpoints.index(name) + 10_000 * self.seed)
            network = trainer.build_network_architecture(
                manager,
                configuration,
                determine_num_input_channels(manager, configuration, dataset),
                manager.get_label_manager(dataset).num_segmentation_heads,
                enable_deep_supervision=True,
            )
            _balance_classes(network)
            content = {
                "network_weights": network.state_dict(),
                "optimizer_state": {},
                "trainer_name": self.trainer,
                "init_args": {
                    "configuration": self.configuration,
                    "plans": plans,
                    "dataset_json": dataset,
                },
                "inference_allowed_mirroring_axes": self.mirror_axes,
                "logging": {"losses": [np.float64(1.0), np.float32(0.5)]},
            }
            (folder / f"fold_{fold}").mkdir(exist_ok=True)
            torch.save(content, folder / f"fold_{fold}" / name)
        return folder

    @property
    def configuration(self) -> str:
        if self.previous_stage is not None:
            return "3d_cascade_fullres"
        return "2d" if len(self.patch) == 2 else "3d_fullres"

    def _dataset(self) -> dict[str, Any]:
        channels = {str(number): f"channel_{number}" for number in range(self.num_channels)}
        dataset = {
            "channel_names": channels,
            "labels": self.labels,
            "numTraining": 1,
            "file_ending": self.ending,
        }
        if self.regions_class_order:
            dataset["regions_class_order"] = list(self.regions_class_order)
        return dataset

    def _plans(self) -> dict[str, Any]:
        configurations = {self.configuration: self._configuration()}
        if self.previous_stage is not None:
            configurations[self.configuration]["previous_stage"] = self.previous_stage
        backward = [int(axis) for axis in np.argsort(self.transpose_forward)]
        intensities = dict.fromkeys(("max", "mean", "median", "min", "std"), 1.0)
        intensities |= {"percentile_00_5": 0.0, "percentile_99_5": 1.0}
        return {
            "dataset_name": "Dataset999_Tiny",
            "plans_name": "nnUNetPlans",
            "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
            "original_median_shape_after_transp": [20, 20, 20],
            "image_reader_writer": self.reader,
            "transpose_forward": list(self.transpose_forward),
            "transpose_backward": backward,
            "configurations": configurations,
            "experiment_planner_used": "ExperimentPlanner",
            "label_manager": "LabelManager",
            "foreground_intensity_properties_per_channel": {
                str(channel): intensities for channel in range(self.num_channels)
            },
        }

    def _configuration(self) -> dict[str, Any]:
        dims = len(self.patch)
        resample = {"order": 3, "order_z": 0, "force_separate_z": None, "is_seg": False}
        strides = [[1] * dims] + [[2] * dims] * (self.stages - 1)
        return {
            "data_identifier": "tiny",
            "preprocessor_name": "DefaultPreprocessor",
            "batch_size": 2,
            "patch_size": list(self.patch),
            "median_image_size_in_voxels": [20.0] * dims,
            "spacing": list(self.spacing),
            "normalization_schemes": [self.normalization] * self.num_channels,
            "use_mask_for_norm": [False] * self.num_channels,
            "resampling_fn_data": "resample_data_or_seg_to_shape",
            "resampling_fn_seg": "resample_data_or_seg_to_shape",
            "resampling_fn_data_kwargs": resample,
            "resampling_fn_seg_kwargs": resample | {"is_seg": True, "order": 1},
            "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
            "resampling_fn_probabilities_kwargs": resample | {"order": 1},
            "architecture": {
                "network_class_name": "dynamic_network_architectures.architectures.unet."
                "PlainConvUNet",
                "arch_kwargs": {
                    "n_stages": self.stages,
                    "features_per_stage": list(self.features[: self.stages]),
                    "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
                    "kernel_sizes": [[3] * dims] * self.stages,
                    "strides": strides,
                    "n_conv_per_stage": [1] * self.stages,
                    "n_conv_per_stage_decoder": [1] * (self.stages - 1),
                    "conv_bias": True,
                    "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
                    "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                    "dropout_op": None,
                    "dropout_op_kwargs": None,
                    "nonlin": "torch.nn.LeakyReLU",
                    "nonlin_kwargs": {"inplace": True},
                },
                "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
            },
            "batch_dice": False,
        }


def _balance_classes(network: torch.nn.Module) -> None:
    """No class wins everywhere: heads look at differences of features alone, and strongly."""
    heads = {
        name: module
        for name, module in network.named_modules()
        if "seg_layers." in name and set(getattr(module, "kernel_size", ())) == {1}
    }
    with torch.no_grad():
        for head in heads.values():
            head.weight -= head.weight.mean(dim=1, keepdim=True)
            head.weight *= 3
            head.bias.zero_()


@dataclass(frozen=True)
class TinyImage:
    """What a generated image looks like.

    Attributes:
        shape: voxels (z, y, x).
        spacing: millimetres in the same order.
        border: voxels of zeros around it, which nnU-Net crops.
        direction: direction cosines as SimpleITK has them.
    """

    shape: tuple[int, ...] = (20, 24, 28)
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0)
    border: int = 0
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    num_channels: int = 1

    def write(self, folder: Path, case: str = "case", ending: str = ".nii.gz") -> list[Path]:
        """Write one file a channel."""
        folder.mkdir(parents=True, exist_ok=True)
        return [self._write_channel(n, folder, f"{case}_{n:04d}{ending}") for n in self._channels]

    @property
    def _channels(self) -> range:
        return range(self.num_channels)

    def _write_channel(self, channel: int, folder: Path, name: str) -> Path:
        rng = np.random.default_rng(sum(name.encode()))
        if name.endswith(".png"):
            image = sitk.GetImageFromArray(rng.integers(0, 255, self.shape[1:], dtype=np.uint8))
        else:
            image = sitk.GetImageFromArray(np.pad(self._smooth_noise(rng), self.border))
            image.SetSpacing(self.spacing[::-1])
            image.SetOrigin((3.0, -4.0, 5.0))
            image.SetDirection(self.direction)
        sitk.WriteImage(image, str(folder / name))
        return folder / name

    def _smooth_noise(self, rng: np.random.Generator) -> Any:
        noise = rng.normal(100, 10, self.shape)
        for axis in range(3):
            noise = noise + np.roll(noise, 1, axis)
        return noise.astype(np.float32)


def predict_with_nnunet(
    model_folder: Path,
    images: list[list[Path]],
    output: Path,
    *,
    folds: tuple[int, ...] = (0,),
    mirroring: bool = True,
    step_size: float = 0.5,
    save_probabilities: bool = True,
    previous_stage: Path | None = None,
    checkpoint: str = "checkpoint_final.pth",
) -> Path:
    """nnU-Net's own prediction and export, in this process."""
    output.mkdir(parents=True, exist_ok=True)
    predictor = nnUNetPredictor(
        tile_step_size=step_size,
        use_mirroring=mirroring,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    with mock.patch.dict("os.environ", {"nnUNet_compile": "f"}):
        predictor.initialize_from_trained_model_folder(str(model_folder), folds, checkpoint)
    predictor.predict_from_files_sequential(
        [[str(path) for path in paths] for paths in images],
        str(output),
        save_probabilities=save_probabilities,
        folder_with_segs_from_prev_stage=None if previous_stage is None else str(previous_stage),
    )
    return output
