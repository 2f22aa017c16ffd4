"""Scores from the predictions of a network's layers, for three tasks.

Conventions:
    Predictions are a mapping from layer to tensor, shallow to deep, the network's own last; that
    one is the decision, so that a score is about what the network says. Segmentation and
    classification take logits. Natural logarithms (nats).

Metrics:
    Segmentation: the scores and maps of every prediction of the package (``score_case``). With
    p_m the probabilities of layer m and p their mean, classification: entropy of p, mutual
    information (entropy of p minus the mean entropy of p_m), agreement (share of layers whose
    decision is the network's). Regression: mean and standard deviation (divisor: layers).

References:
    Kushibar et al., MICCAI 2022, arXiv:2203.08878 (segmentation). Depeweg et al., ICML 2018
    (mutual information).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from nnunetv2_le.errors import InputError, SettingError
from nnunetv2_le.types import Accumulated, CaseScores, Family, Labels, MemberPlan
from nnunetv2_le.uncertainty.accumulator import Accumulator
from nnunetv2_le.uncertainty.decisions import agreement, decide
from nnunetv2_le.uncertainty.map_names import map_names, on_demand_maps
from nnunetv2_le.uncertainty.probabilities import mean_over, probabilities
from nnunetv2_le.uncertainty.scores import score_case
from nnunetv2_le.uncertainty.voxel_maps import entropy_nats, mutual_information_nats


@dataclass(frozen=True)
class SegmentationScores:
    """One image of a batch.

    Attributes:
        scores: ``aula``, ``consensus_dice``, ``heads_pairwise_dice`` and the other columns of the
            tables; ``layer_agreement`` is the curve under which AULA is the area.
        accumulated: the fused segmentation, voxel maps and overlaps; a 2D image has depth 1.
        segmentation: the network's own segmentation: numbers of classes, or one mask a region.
    """

    scores: CaseScores
    accumulated: Accumulated
    segmentation: Shaped[np.ndarray, "..."]


@dataclass(frozen=True)
class ClassificationScores:
    """A batch of images; everything has one entry an image.

    Attributes:
        decision: class of the network's own output; multi-label: one truth value a label.
        probability: mean over layers.
        entropy_nats: entropy of that mean.
        mutual_information_nats: how much the layers contradict each other.
        agreement: share of layers that decide as the network does; multi-label: mean over labels.
    """

    decision: Shaped[Tensor, "batch *labels"]
    probability: Float[Tensor, "batch classes"]
    entropy_nats: Float[Tensor, "batch"]
    mutual_information_nats: Float[Tensor, "batch"]
    agreement: Float[Tensor, "batch"]


@dataclass(frozen=True)
class RegressionScores:
    """A batch of predictions.

    Attributes:
        mean: mean over layers.
        std: standard deviation over layers, with the divisor layers.
    """

    mean: Float[Tensor, "batch *shape"]
    std: Float[Tensor, "batch *shape"]


@torch.inference_mode()
def score_segmentation(
    predictions: Mapping[str, Float[Tensor, "batch channels *space"]],
    *,
    has_regions: bool = False,
    label_names: Sequence[str] | None = None,
    spacing_mm: Sequence[float] | None = None,
    skip_heads: int = 0,
    maps: Collection[str] = (),
) -> list[SegmentationScores]:
    """Layer agreement, AULA, consensus Dice, voxel maps and all other scores of each image.

    Args:
        predictions: logits of each layer, all of one shape; 2D or 3D.
        has_regions: channels are overlapping regions (a sigmoid each) instead of classes (a softmax
            with the background first).
        label_names: names of the foreground labels or regions; default ``1``, ``2``, ...
        spacing_mm: voxel size along each axis of space, for volumes; without it they are NaN.
        skip_heads: how many of the first layers do not enter the layer agreement.
        maps: voxel maps that are made on demand (``heads_entropy``,
            ``heads_ttest``, ``heads_total_entropy``).

    Raises:
        InputError: fewer than two layers, other axes than expected, one channel without regions,
            numbers that are not finite, or names of labels that do not fit.
        SettingError: there is no such map, or ``spacing_mm`` has other axes.
    """
    logits = _stacked(predictions)
    if logits.ndim not in (5, 6):
        raise InputError(
            "Expected logits (batch, channels, height, width) or (batch, channels, depth, height, "
            f"width) of each layer; got {tuple(logits.shape[1:])}. Score vectors with "
            "score_classification or score_regression."
        )
    volumes = logits if logits.ndim == 6 else logits.unsqueeze(3)
    family = Family("heads", tuple(predictions), ordered=True)
    _require_maps(maps, family)
    voxel_volume_ml = _voxel_volume_ml(spacing_mm, axes=logits.ndim - 3)
    plan = MemberPlan((family,), fused=(len(family.members) - 1,))
    labels = _labels(logits.shape[2], label_names, has_regions)
    scored = []
    for number in range(logits.shape[1]):
        depth, height, width = volumes.shape[3:]
        accumulator = Accumulator(plan, labels, (depth, height, width), maps=maps)
        accumulator.add(0, volumes[:, number])
        accumulated = accumulator.result()
        scores = score_case(
            str(number),
            accumulated,
            plan=plan,
            labels=labels,
            voxel_volume_ml=voxel_volume_ml,
            skip_heads=skip_heads,
        )
        decided = accumulated.decisions
        shape = (*decided.shape[:-3], *logits.shape[3:])
        scored.append(SegmentationScores(scores, accumulated, decided.reshape(shape)))
    return scored


@torch.inference_mode()
def score_classification(
    predictions: Mapping[str, Float[Tensor, "batch classes"]], *, multi_label: bool = False
) -> ClassificationScores:
    """Entropy of the mean, mutual information and agreement of each image.

    Args:
        predictions: logits of each layer.
        multi_label: labels do not exclude each other (a sigmoid each); maps of uncertainty are then
            the mean over labels.

    Raises:
        InputError: fewer than two layers, other axes than expected, one channel that is no label
            of its own, or numbers that are not finite.
    """
    logits = _stacked(predictions)
    if logits.ndim != 3:
        raise InputError(
            f"Expected logits (batch, classes) of each layer; got {tuple(logits.shape[1:])}. Score "
            "maps with score_segmentation."
        )
    _require_several(logits.shape[2], multi_label, otherwise="multi_label=True")
    logits = logits.transpose(1, 2).contiguous()  # layers, classes, images: as voxels elsewhere
    probability = probabilities(logits.float(), has_regions=multi_label)
    mean = mean_over(probability, 0)
    decisions = decide(logits, has_regions=multi_label)
    return ClassificationScores(
        decision=decisions[-1].transpose(0, -1) if multi_label else decisions[-1].long(),
        probability=mean.T,
        entropy_nats=entropy_nats(mean, has_regions=multi_label),
        mutual_information_nats=mutual_information_nats(probability, has_regions=multi_label),
        agreement=agreement(decisions, decisions[-1]),
    )


@torch.inference_mode()
def score_regression(
    predictions: Mapping[str, Float[Tensor, "batch *shape"]],
) -> RegressionScores:
    """Mean and standard deviation over layers, for numbers, vectors and maps.

    Half precision is computed and given in float32, as the mean may need it.

    Raises:
        InputError: fewer than two layers, or numbers that are not finite.
    """
    stacked = _stacked(predictions)
    if stacked.dtype in (torch.float16, torch.bfloat16):
        stacked = stacked.float()
    mean = mean_over(stacked, 0)
    return RegressionScores(mean, mean_over((stacked - mean).square_(), 0).sqrt_())


def _stacked(predictions: Mapping[str, Tensor]) -> Tensor:
    shapes = {name: tuple(values.shape) for name, values in predictions.items()}
    if len(shapes) < 2 or len(set(shapes.values())) != 1:
        raise InputError(
            "Expected predictions of at least two layers, all of one shape, as a LayerEnsemble "
            f"gives them; got {shapes}."
        )
    if strange := [name for name, own in predictions.items() if not torch.isfinite(own).all()]:
        raise InputError(
            f"Expected finite numbers; got NaN or infinity from {', '.join(map(repr, strange))}. "
            "Look at the weights and the image: such a prediction has no uncertainty."
        )
    return torch.stack([values.detach() for values in predictions.values()])


def _require_several(channels: int, own_sigmoids: bool, *, otherwise: str) -> None:
    """The only class of a softmax is certain whatever the network says."""
    if channels < 2 and not own_sigmoids:
        raise InputError(
            "Expected a channel for each of two or more classes; got one channel: pass "
            f"{otherwise} where it is the logit of a sigmoid."
        )


def _require_maps(maps: Collection[str], family: Family) -> None:
    known = map_names((family,), on_demand_maps((family,)))
    if unknown := [name for name in maps if name not in known]:
        raise SettingError(
            f"maps takes a collection of {', '.join(known)}; got {', '.join(map(repr, unknown))}."
        )


def _voxel_volume_ml(spacing_mm: Sequence[float] | None, *, axes: int) -> float:
    if spacing_mm is None:
        return np.nan
    if len(spacing_mm) != axes or not all(step > 0 for step in spacing_mm):
        raise SettingError(
            f"spacing_mm is {axes} positive numbers, one an axis of space; got {tuple(spacing_mm)}."
        )
    return float(np.prod(spacing_mm)) / 1000


def _labels(channels: int, names: Sequence[str] | None, has_regions: bool) -> Labels:
    _require_several(channels, has_regions, otherwise="has_regions=True")
    number = channels if has_regions else channels - 1
    names = [str(label) for label in range(1, number + 1)] if names is None else list(names)
    if len(names) != number:
        raise InputError(
            f"Expected {number} names of foreground labels for {channels} channels; got {names}."
        )
    if len(set(names)) != number:
        raise InputError(f"Expected another name for each label; got {names}.")
    values = tuple(range(1, number + 1))
    return Labels(tuple(names), values, has_regions, values if has_regions else ())
