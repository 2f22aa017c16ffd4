"""Heads straight from a model and images, for the effect of skipping them; nothing is written."""

import glob
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from nnunetv2_le.errors import InputError
from nnunetv2_le.evaluation.cases import CaseFiles, require_name
from nnunetv2_le.evaluation.dataset import EvaluationDataset
from nnunetv2_le.evaluation.raters import consensus
from nnunetv2_le.evaluation.skip_heads import HeadCase
from nnunetv2_le.evaluation.volumes import read_segmentation

if TYPE_CHECKING:
    from nnunetv2_le.inference.predictor import LayerEnsemblePredictor


@dataclass(frozen=True)
class PredictedHeads:
    """The heads of a case that was just predicted; probabilities are made when asked for.

    Attributes:
        prediction: a `CasePrediction` that kept the logits of its members.
        numbers: the members that are heads, shallow to deep.
    """

    prediction: Any
    numbers: tuple[int, ...]

    def __len__(self) -> int:
        """Number of heads."""
        return len(self.numbers)

    def __getitem__(self, head: int, /) -> Float[np.ndarray, "channels depth height width"]:
        """Probabilities of a head on the image's grid."""
        logits = self.prediction.accumulated.member_logits[self.numbers[head]]
        return np.asarray(self.prediction.probabilities(logits))


def predictor_of_heads(
    model_folder: Path, *, device: str = "cpu", checkpoint_name: str = "checkpoint_final.pth"
) -> "LayerEnsemblePredictor":
    """A predictor that keeps every head of a model, and nothing else.

    Args:
        model_folder: ``TRAINER__PLANS__CONFIGURATION`` with its folds.
        device: where the network runs.
        checkpoint_name: which checkpoint of each fold.

    Raises:
        LayerEnsembleError: if the model cannot be loaded or has no heads.
    """
    from nnunetv2_le.inference.predictor import LayerEnsemblePredictor  # noqa: PLC0415  torch
    from nnunetv2_le.inference.settings import PredictionSettings  # noqa: PLC0415

    settings = PredictionSettings(families=("heads",), save_heads=True)
    return LayerEnsemblePredictor.from_model_folder(
        model_folder,
        settings,
        checkpoint_name=checkpoint_name,
        device=device,
        show_progress=False,
    )


def predicted_head_cases(
    predictor: Any, files: Iterable[CaseFiles], image_folder: Path, dataset: EvaluationDataset
) -> Iterator[HeadCase]:
    """Predict case after case; only one is in memory.

    Args:
        predictor: from `predictor_of_heads`.
        files: of the cases; their references are used.
        image_folder: with CASE_0000, CASE_0001, ...
        dataset: how files are read.

    Raises:
        InputError: if a case has no image, or the folder a name that is not UTF-8.
        CaseError: if a case cannot be predicted.
    """
    require_name(image_folder)
    for one in files:
        channel = f"_[0-9][0-9][0-9][0-9]{dataset.file_ending}"
        images = sorted(image_folder.glob(f"{glob.escape(one.case)}{channel}"))
        if not images:
            raise InputError(f"{image_folder} has no image {one.case}_0000{dataset.file_ending}")
        prediction = predictor.predict_files(images)
        numbers = [
            tuple(prediction.plan.numbers(family))
            for family in prediction.plan.families
            if family.name == "heads"
        ]
        raters = [read_segmentation(file, dataset.reader).labels for file in one.references]
        reference = raters[0] if len(raters) == 1 else consensus(raters)
        heads = PredictedHeads(prediction, numbers[0] if numbers else ())
        yield HeadCase(one.case, heads, reference)
