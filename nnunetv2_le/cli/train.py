"""``nnUNetv2_le_train``: nnUNetv2_train that finds the layer-ensemble trainers by itself.

Same arguments, and on top the length of a training and a seed. Everything that trains is nnU-Net's
own; it works for every trainer.
"""

import argparse
import logging
import random
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from nnunetv2_le.cli.argument_types import parse_fold
from nnunetv2_le.cli.common import run_main
from nnunetv2_le.cli.train_arguments import (
    CYCLES,
    FROZEN_TRAINER,
    LENGTHS,
    TrainRequest,
    add_train_arguments,
    build_request,
)
from nnunetv2_le.errors import LayerEnsembleError, SettingError

logger = logging.getLogger("nnunetv2_le.cli.train")


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_le_train",
        description="Trains as nnUNetv2_train does, by default a layer ensemble.",
    )
    add_train_arguments(parser)
    return parser


def run(request: TrainRequest) -> None:
    """Check what can be checked, then train and validate.

    Raises:
        LayerEnsembleError: something is missing or does not fit; said before the training starts.
    """
    from nnunetv2_le.training.preconditions import (
        preprocessed_dataset,
        require_configuration,
        require_folders,
    )
    from nnunetv2_le.training.registry import register_trainers

    fold = parse_fold(request.fold)
    require_folders()
    register_trainers()
    dataset = preprocessed_dataset(request.dataset)
    require_configuration(dataset, request.plans, configuration=request.configuration)
    _require_settings(_require_trainer(request.trainer), request)
    _set_up_device(request)
    if request.num_gpus > 1:
        _train_on_several_gpus(request, dataset)
    else:
        _train(request, dataset.name, fold=fold)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    return run_main(build_parser(), build_request, run=run, argv=argv)


def _require_trainer(name: str) -> type[Any]:
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    try:
        trainer: type[Any] = recursive_find_trainer_class_by_name(name)
    except RuntimeError as error:
        raise SettingError(
            f"No trainer {name!r} in nnU-Net, in this package or in nnUNet_extTrainer. Check the "
            "name given by -tr."
        ) from error
    except AssertionError as error:
        raise SettingError(
            f"{name!r} (-tr) is no trainer: it has to derive from nnUNetTrainer."
        ) from error
    return trainer


def _require_settings(trainer: type[Any], request: TrainRequest) -> None:
    """Flags that only some trainers know."""
    from nnunetv2_le.training.cyclic_trainer import CyclicLearningRateTrainer
    from nnunetv2_le.training.frozen_trainer import LayerEnsembleTrainerFrozen

    if request.frozen and not issubclass(trainer, LayerEnsembleTrainerFrozen):
        raise SettingError(
            f"--frozen trains the heads of a layer ensemble, which -tr {request.trainer} does not. "
            f"Leave out -tr, or name {FROZEN_TRAINER} or a subclass of it."
        )
    given = [name for name in CYCLES if getattr(request, name) is not None]
    if given and not issubclass(trainer, CyclicLearningRateTrainer):
        raise SettingError(
            f"-{', -'.join(given)} need a trainer with cycles of the learning rate, got -tr "
            f"{request.trainer}. Train with -tr CyclicLearningRateTrainer."
        )


def _set_up_device(request: TrainRequest) -> None:
    """Threads as nnU-Net's own command sets them, and the seed."""
    import multiprocessing

    import numpy as np
    import torch

    if request.device == "cpu":
        torch.set_num_threads(multiprocessing.cpu_count())
    elif request.device == "cuda":
        if not torch.cuda.is_available():
            raise SettingError("No GPU was found (-device cuda). Train with -device cpu or mps.")
        if (count := torch.cuda.device_count()) < request.num_gpus:
            raise SettingError(f"-num_gpus {request.num_gpus} is more than torch sees: {count}.")
        torch.set_num_threads(1)
        with suppress(RuntimeError):  # too late once torch has started threads
            torch.set_num_interop_threads(1)
        torch.backends.cudnn.deterministic = False
        torch.backends.cudnn.benchmark = True
    elif not torch.backends.mps.is_available():
        raise SettingError("No Apple GPU was found (-device mps). Train with -device cpu.")
    if request.seed is not None:
        random.seed(request.seed)
        np.random.seed(request.seed)
        torch.manual_seed(request.seed)


def _train_on_several_gpus(request: TrainRequest, dataset: Path) -> None:
    from nnunetv2.run.run_training import run_training
    from torch.multiprocessing.spawn import ProcessRaisedException

    from nnunetv2_le.training.preconditions import require_batch_for

    require_batch_for(
        request.num_gpus, dataset / f"{request.plans}.json", configuration=request.configuration
    )
    if request.pretrained_weights is not None:
        from nnunetv2_le.training.pretrained import read_weights

        read_weights(request.pretrained_weights)
        logger.warning("With several GPUs the trunk alone starts from -pretrained_weights.")
    try:
        run_training(
            dataset.name,
            request.configuration,
            request.fold,
            request.trainer,
            request.plans,
            _text(request.pretrained_weights),
            request.num_gpus,
            request.export_probabilities,
            request.continue_training,
            request.only_validation,
            request.disable_checkpointing,
            request.validate_best,
        )
    except ProcessRaisedException as error:
        raise LayerEnsembleError(
            f"The process of GPU {error.error_index} ended with {_end_of_traceback(str(error))}"
        ) from error


def _end_of_traceback(text: str) -> str:
    """The error at the end of a traceback, which is all that is left of it from another process."""
    lines = text.strip().splitlines()
    last_code = max((n for n, line in enumerate(lines) if line.startswith(" ")), default=-1)
    return "\n".join(lines[last_code + 1 :]) or lines[-1]


def _train(request: TrainRequest, dataset: str, *, fold: int | str) -> None:
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args

    from nnunetv2_le.training.own_checkpoints import load_for_validation
    from nnunetv2_le.training.preconditions import require_previous_stage

    trainer = get_trainer_from_args(
        dataset,
        request.configuration,
        fold,
        request.trainer,
        request.plans,
        request.continue_training,
        device=torch.device(request.device),
    )
    for name in (*LENGTHS, *CYCLES):
        if (value := getattr(request, name)) is not None:
            setattr(trainer, name, value)
    trainer.disable_checkpointing |= request.disable_checkpointing
    _load(trainer, request)
    require_previous_stage(trainer, only_validation=request.only_validation)
    if not request.only_validation:
        trainer.run_training()
    if request.validate_best:
        load_for_validation(trainer, "checkpoint_best.pth")
    trainer.perform_actual_validation(request.export_probabilities)


def _load(trainer: Any, request: TrainRequest) -> None:
    """The checkpoint to continue, validate or start from, as nnU-Net's own command does it."""
    from nnunetv2_le.training.frozen_trainer import LayerEnsembleTrainerFrozen
    from nnunetv2_le.training.own_checkpoints import load_for_validation, load_to_continue
    from nnunetv2_le.training.pretrained import (
        carry_over_decoder_heads,
        read_weights,
        take_over_trunk,
    )

    file = request.pretrained_weights
    weights = None if file is None or request.only_validation else read_weights(file)
    if isinstance(trainer, LayerEnsembleTrainerFrozen):  # it takes the file over as a whole
        trainer.stock_checkpoint, weights = file, None
    if request.only_validation:
        load_for_validation(trainer, "checkpoint_final.pth")
    elif request.continue_training:
        load_to_continue(trainer, needs_one=isinstance(trainer, LayerEnsembleTrainerFrozen))
    elif file is not None and weights is not None:
        trainer.initialize()
        take_over_trunk(trainer.network, weights, file)
        carry_over_decoder_heads(trainer.network, weights)


def _text(file: Path | None) -> str | None:
    return None if file is None else str(file)


if __name__ == "__main__":
    sys.exit(main())
