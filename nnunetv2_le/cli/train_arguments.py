"""What ``nnUNetv2_le_train`` can be told: nnUNetv2_train's arguments, and ours on top."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_le.cli.argument_types import path
from nnunetv2_le.errors import SettingError

LENGTHS = ("num_epochs", "num_iterations_per_epoch", "num_val_iterations_per_epoch")
CYCLES = ("num_cycles", "keep_checkpoints")
DEFAULT_TRAINER = "LayerEnsembleTrainer"
FROZEN_TRAINER = "LayerEnsembleTrainerFrozen"
MAX_SEED = 2**32 - 1  # NumPy's


@dataclass(frozen=True)
class TrainRequest:
    """What to train; names and defaults are nnUNetv2_train's.

    Attributes:
        dataset: name or number.
        configuration: for example ``3d_fullres``.
        fold: a number or ``all``.
        trainer: name of the trainer class.
        plans: name of the plans.
        pretrained_weights: a checkpoint to start from.
        num_gpus: GPUs to train on.
        export_probabilities: save probabilities of the validation.
        continue_training: go on from the latest checkpoint.
        only_validation: validate a finished training.
        validate_best: validate with checkpoint_best.
        disable_checkpointing: write no checkpoints.
        device: ``cuda``, ``cpu`` or ``mps``.
        num_epochs: None leaves the trainer's own, as for the next three.
        num_iterations_per_epoch: training iterations.
        num_val_iterations_per_epoch: validation iterations.
        seed: of torch, NumPy and random in this process.
        num_cycles: of a trainer with cycles of the learning rate, as the next one.
        keep_checkpoints: which of their checkpoints are kept.
        frozen: train heads alone, on the finished model of ``pretrained_weights``.
    """

    dataset: str
    configuration: str
    fold: str
    trainer: str = DEFAULT_TRAINER
    plans: str = "nnUNetPlans"
    pretrained_weights: Path | None = None
    num_gpus: int = 1
    export_probabilities: bool = False
    continue_training: bool = False
    only_validation: bool = False
    validate_best: bool = False
    disable_checkpointing: bool = False
    device: str = "cuda"
    num_epochs: int | None = None
    num_iterations_per_epoch: int | None = None
    num_val_iterations_per_epoch: int | None = None
    seed: int | None = None
    num_cycles: int | None = None
    keep_checkpoints: str | None = None
    frozen: bool = False


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """nnUNetv2_train's arguments, and ours."""
    add = parser.add_argument
    add("dataset_name_or_id", help="Name or number of the data set.")
    add("configuration", help="Configuration to train, for example 3d_fullres.")
    add("fold", help="Fold of the cross-validation, 0 to 4, or all.")
    add("-tr", default=DEFAULT_TRAINER, help="Trainer. Default: %(default)s")
    add("-p", default="nnUNetPlans", help="Plans. Default: %(default)s")
    add(
        "-pretrained_weights",
        type=path,
        help="Checkpoint to start from. A layer ensemble takes over the trunk and, where the "
        "number of classes is the same, the decoder heads.",
    )
    add("-num_gpus", type=int, default=1, help="GPUs to train on. Default: %(default)s")
    add("--npz", action="store_true", help="Save the probabilities of the final validation.")
    add("--c", action="store_true", help="Continue from the latest checkpoint.")
    add("--val", action="store_true", help="Only validate; the training has to be finished.")
    add("--val_best", action="store_true", help="Validate with checkpoint_best.")
    add("--disable_checkpointing", action="store_true", help="Write no checkpoints.")
    add("-device", choices=("cuda", "cpu", "mps"), default="cuda", help="Default: %(default)s")
    _add_own_arguments(parser)


def build_request(arguments: argparse.Namespace) -> TrainRequest:
    """Arguments to request.

    Raises:
        SettingError: options that do not go together, or a length below 1.
    """
    frozen: bool = arguments.frozen
    request = TrainRequest(
        dataset=arguments.dataset_name_or_id,
        configuration=arguments.configuration,
        fold=arguments.fold,
        trainer=FROZEN_TRAINER if frozen and arguments.tr == DEFAULT_TRAINER else arguments.tr,
        plans=arguments.p,
        pretrained_weights=arguments.pretrained_weights,
        num_gpus=arguments.num_gpus,
        export_probabilities=arguments.npz,
        continue_training=arguments.c,
        only_validation=arguments.val,
        validate_best=arguments.val_best,
        disable_checkpointing=arguments.disable_checkpointing,
        device=arguments.device,
        seed=arguments.seed,
        frozen=frozen,
        **{name: getattr(arguments, name) for name in (*LENGTHS, *CYCLES)},
    )
    _require_possible(request)
    return request


def _add_own_arguments(parser: argparse.ArgumentParser) -> None:
    """What nnUNetv2_train lacks."""
    group = parser.add_argument_group("beyond nnUNetv2_train (one GPU or CPU)")
    group.add_argument("-num_epochs", type=int, help="Default: the trainer's own.")
    group.add_argument("-num_iterations_per_epoch", type=int, help="Default: the trainer's own.")
    group.add_argument(
        "-num_val_iterations_per_epoch", type=int, help="Default: the trainer's own."
    )
    group.add_argument(
        "-seed",
        type=int,
        help="Seed of torch, NumPy and random. nnU-Net's augmentation runs in processes that stay "
        "random, so that two trainings still differ; with nnUNet_n_proc_DA=0 it runs in this one.",
    )
    group.add_argument(
        "--frozen",
        action="store_true",
        help="Train heads alone on the finished model that -pretrained_weights names; the model "
        f"and its segmentation do not change (trainer {FROZEN_TRAINER}).",
    )
    group.add_argument(
        "-num_cycles", type=int, help="Cycles of the learning rate (CyclicLearningRateTrainer)."
    )
    group.add_argument(
        "-keep_checkpoints",
        choices=("late", "sparse"),
        help="Checkpoints kept of each cycle: the last 10, or 6 from 0.7 of the cycle on.",
    )


def _require_possible(request: TrainRequest) -> None:
    """Combinations of options that make no sense."""
    ours = [name for name in (*LENGTHS, *CYCLES, "seed") if getattr(request, name) is not None]
    starts_new = not (request.continue_training or request.only_validation)
    wrong = {
        "--c and --val exclude each other: continue a training, or validate a finished one.": (
            request.continue_training and request.only_validation
        ),
        "--c and -pretrained_weights exclude each other: weights start a new training.": (
            request.continue_training and request.pretrained_weights is not None
        ),
        "--val_best needs a checkpoint, so it excludes --disable_checkpointing.": (
            request.validate_best and request.disable_checkpointing
        ),
        "--frozen needs a finished model: name its checkpoint by -pretrained_weights.": (
            request.frozen and starts_new and request.pretrained_weights is None
        ),
        "--frozen cannot reach the processes of several GPUs: train the heads with -num_gpus 1.": (
            request.frozen and request.num_gpus > 1
        ),
        f"-num_gpus has to be 1 or more, got {request.num_gpus}.": request.num_gpus < 1,
        f"-num_gpus {request.num_gpus} needs -device cuda, got {request.device!r}.": (
            request.num_gpus > 1 and request.device != "cuda"
        ),
        f"-{', -'.join(ours)} cannot reach the processes of several GPUs: train with -num_gpus 1, "
        "or choose a trainer of that length, for example -tr LayerEnsembleTrainer_50epochs.": (
            request.num_gpus > 1 and bool(ours)
        ),
    } | {
        f"-{name} has to be 1 or more, got {getattr(request, name)}.": getattr(request, name) < 1
        for name in (*LENGTHS, "num_cycles")
        if getattr(request, name) is not None
    }
    if request.seed is not None:
        message = f"-seed has to be between 0 and {MAX_SEED}, got {request.seed}."
        wrong[message] = not 0 <= request.seed <= MAX_SEED
    for message, is_wrong in wrong.items():
        if is_wrong:
            raise SettingError(message)
