"""What one labelled case tells a calibration: a prediction compared with its reference.

Conventions:
    Dice of the case is measured on the image's grid, as `evaluation.overlap` does. Everything that
    looks at voxels works on the network's grid, within the region of interest (the dilated union of
    segmentation and reference), in at most ``MAX_VOXELS`` voxels a case (and, where members and
    channels are many, ``MAX_LOGITS`` logits), drawn evenly: what is fitted are means over voxels,
    and a mean over an even draw has the same expectation.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from nnunetv2_le.calibration.contours import boundary_distances
from nnunetv2_le.calibration.references import Reference, known_voxels, truth
from nnunetv2_le.calibration.temperature import region_of_interest
from nnunetv2_le.errors import CaseError
from nnunetv2_le.evaluation.overlap import (
    confusion,
    joint_histogram,
    label_boxes,
    label_mask,
)
from nnunetv2_le.inference.prediction import CasePrediction
from nnunetv2_le.inference.records import case_record
from nnunetv2_le.types import Labels
from nnunetv2_le.uncertainty.agreement import layer_agreement
from nnunetv2_le.uncertainty.decisions import decide, label_masks
from nnunetv2_le.uncertainty.probabilities import probabilities

FUSED = "fused"
"""Name of the fused prediction among the members whose logits are kept."""

MAX_VOXELS = 100_000
MAX_LOGITS = 2**24  # 32 MiB of a case, whatever it has of members and channels

_PIECE_VALUES = 2**24  # of one member's logits that are fused at one time


@dataclass(frozen=True)
class ObservedCase:
    """A labelled case, ready for every fit.

    Attributes:
        case: its name.
        fold: the fold whose network predicted it, as text.
        scores: its columns in the table of cases; NaN where undefined.
        label_scores: label name to its columns.
        is_empty: whether no member found anything.
        label_dice: Dice of each label on the image's grid; NaN where both sides are empty.
        agreements: Dice of each head with the next; no column without heads.
        fused_dice: mean Dice of the heads from the s-th on fused, s = 0, 1, ...; empty without
            heads.
        members: names of the members of ``logits``: the heads, if there are, and ``fused``.
        outer_mm: smallest dilation of the segmentation that contains the reference, each label.
        inner_mm: smallest erosion of the segmentation that the reference contains, each label;
            both are NaN of a label in neither.
        contour_share: share of voxels that either may leave out.
        features: pooled features; of length 0 where the network has none.
        arrays: what `observe` gave, for the logits and the truth of the voxels that were drawn.
            They are most of what is known of a case and each fit takes them a case at a time, so
            they stay where they are, on disk if ``arrays`` is a file's.
    """

    case: str
    fold: str
    scores: dict[str, float]
    label_scores: dict[str, dict[str, float]]
    is_empty: bool
    label_dice: Float[np.ndarray, "labels"]
    agreements: Float[np.ndarray, "labels agreements"]
    fused_dice: Float[np.ndarray, "skips"]
    members: tuple[str, ...]
    outer_mm: Float[np.ndarray, "labels"]
    inner_mm: Float[np.ndarray, "labels"]
    contour_share: float
    features: Float[np.ndarray, "features"]
    arrays: Mapping[str, np.ndarray] = field(repr=False)

    @property
    def logits(self) -> Float[np.ndarray, "members channels voxels"]:
        """Of each member at the voxels that were drawn, half precision."""
        return self.arrays["logits"]

    @property
    def truth(self) -> Int[np.ndarray, "voxels"] | Bool[np.ndarray, "channels voxels"]:
        """The true channel of these voxels, for regions one mask a region."""
        return self.arrays["truth"]

    @property
    def dice(self) -> float:
        """Mean over the labels that are in the reference or in the prediction; else NaN."""
        defined = self.label_dice[~np.isnan(self.label_dice)]
        return float(defined.mean()) if len(defined) else float("nan")


def observe(
    prediction: CasePrediction,
    reference: Reference,
    *,
    fold: str,
    ignore_label: int | None = None,
    contour_share: float = 0.0,
) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Everything about a case but its scores, as the arrays of `ObservedCase`.

    Args:
        prediction: with the logits of its members, where heads are among them.
        reference: its labels.
        fold: the fold whose network predicted it.
        ignore_label: of the reference.
        contour_share: share of voxels that inner and outer contour may leave out.

    Raises:
        CaseError: the reference ignores every voxel.
    """
    labels = prediction.labels
    known = known_voxels(reference.network, labels, ignore_label=ignore_label)
    true = truth(reference.network, labels)
    heads = _head_numbers(prediction)
    chosen = _drawn_voxels(prediction, true, known, num_members=len(heads) + 1)
    features = prediction.features
    segmentation = prediction.segmentation().astype(np.int32)
    histogram = joint_histogram(reference.native, segmentation)
    values = labels.values
    counted = reference.native != (-1 if ignore_label is None else ignore_label)
    outer, inner = _distances(
        prediction, segmentation, reference.native, known=counted, contour_share=contour_share
    )
    return {
        "fold": np.array(fold),
        "label_dice": np.array(
            [confusion(histogram, value, ignore_label=ignore_label).dice for value in values]
        ),
        "agreements": _agreements(prediction, heads),
        "fused_dice": _fused_dice(prediction, heads, true, known),
        "members": np.array([*_head_names(prediction), FUSED]),
        "logits": _logits(prediction, heads, chosen),
        "truth": true.reshape(*true.shape[:-3], -1)[..., chosen],
        "outer_mm": outer,
        "inner_mm": inner,
        "contour_share": np.array(contour_share),
        "features": np.empty(0, dtype=np.float32) if features is None else features,
    }


def scores_record(prediction: CasePrediction) -> dict[str, Any]:
    """The record of a case, without the voxel counts of its members."""
    return {name: value for name, value in case_record(prediction).items() if name != "counts"}


def observed_case(record: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> ObservedCase:
    """A case from what was written of it."""
    return ObservedCase(
        case=record["case"],
        fold=str(arrays["fold"]),
        scores=_floats(record["scores"]),
        label_scores={name: _floats(row) for name, row in record["labels"].items()},
        is_empty=record["empty_prediction"],
        label_dice=arrays["label_dice"],
        agreements=arrays["agreements"],
        fused_dice=arrays["fused_dice"],
        members=tuple(map(str, arrays["members"])),
        outer_mm=arrays["outer_mm"],
        inner_mm=arrays["inner_mm"],
        contour_share=float(arrays["contour_share"]),
        features=arrays["features"],
        arrays=arrays,
    )


def _floats(row: dict[str, float | None]) -> dict[str, float]:
    return {name: float("nan") if value is None else value for name, value in row.items()}


def _head_numbers(prediction: CasePrediction) -> range:
    """Numbers of the heads among the members whose logits were kept."""
    if prediction.accumulated.member_logits is None:
        return range(0)
    ordered = (family for family in prediction.plan.families if family.ordered)
    return next((prediction.plan.numbers(family) for family in ordered), range(0))


def _head_names(prediction: CasePrediction) -> tuple[str, ...]:
    if not len(_head_numbers(prediction)):
        return ()
    return next(family.members for family in prediction.plan.families if family.ordered)


def _agreements(prediction: CasePrediction, heads: range) -> np.ndarray:
    counts = prediction.accumulated.counts
    if len(heads) < 2 or not counts.found(heads).any():
        return np.full((len(prediction.labels.names), max(0, len(heads) - 1)), np.nan)
    return layer_agreement(counts, heads)


def _fused_dice(
    prediction: CasePrediction, heads: range, true: np.ndarray, known: np.ndarray
) -> np.ndarray:
    """Mean Dice on the network's grid of the deepest heads fused, one more at a time."""
    logits = prediction.accumulated.member_logits
    if logits is None or not len(heads):
        return np.empty(0)
    labels = prediction.labels
    inside = torch.from_numpy(known.reshape(-1))
    reference = torch.from_numpy(true.reshape(*true.shape[:-3], -1))
    deepest_first = [torch.from_numpy(logits[head]).flatten(1) for head in reversed(heads)]
    counts = torch.zeros((len(heads), 2, len(labels.names)), dtype=torch.int64)
    step = max(1, _PIECE_VALUES // labels.num_channels)
    for first in range(0, len(inside), step):
        piece = slice(first, first + step)
        members = [flat[:, piece] for flat in deepest_first]
        counts += _fused_counts(members, reference[..., piece], inside[piece], labels)
    dice = []
    for overlap, total in counts.double():
        dice.append(float((2 * overlap / total)[total > 0].mean()))  # NaN where nothing is there
    return np.array(dice[::-1])


def _fused_counts(
    deepest_first: list[Tensor], reference: Tensor, inside: Tensor, labels: Labels
) -> Int[Tensor, "skips two labels"]:
    """Of the deepest heads fused, one more at a time: overlap of each label, and both sizes."""
    true = label_masks(reference, num_labels=len(labels.names)) & inside
    total: Tensor | None = None
    counts = []
    for count, logits in enumerate(deepest_first, start=1):
        added = probabilities(logits[None].float(), has_regions=labels.has_regions)
        total = added if total is None else total + added
        # of regions the mean probability is compared with a half, as a logit is with 0
        decided = decide(total / count - 0.5, has_regions=labels.has_regions)[0]
        ours = label_masks(decided, num_labels=len(labels.names)) & inside
        counts.append(torch.stack([(ours & true).sum(1), ours.sum(1) + true.sum(1)]))
    return torch.stack(counts)


def _drawn_voxels(
    prediction: CasePrediction, true: np.ndarray, known: np.ndarray, *, num_members: int
) -> Int[np.ndarray, "voxels"]:
    """Voxels of the region of interest; of the whole image where that is empty."""
    foreground = np.asarray(true.any(axis=0) if true.ndim == 4 else true > 0)
    region = region_of_interest(prediction.accumulated.fused_foreground, foreground)
    numbers = np.flatnonzero(region & known)
    if not len(numbers):
        numbers = np.flatnonzero(known)
    if not len(numbers):
        raise CaseError(
            f"The reference of {prediction.case} says nothing: it gives every voxel the ignore "
            "label. Leave the case out."
        )
    most = min(MAX_VOXELS, max(1, MAX_LOGITS // (num_members * prediction.labels.num_channels)))
    if len(numbers) > most:
        rng = np.random.default_rng(zlib.crc32(prediction.case.encode()))
        numbers = np.sort(rng.choice(numbers, most, replace=False))
    return numbers


def _logits(prediction: CasePrediction, heads: range, chosen: np.ndarray) -> np.ndarray:
    kept = prediction.accumulated
    volumes = [] if kept.member_logits is None else [kept.member_logits[head] for head in heads]
    flat = [volume.reshape(len(volume), -1)[:, chosen] for volume in (*volumes, kept.fused_logits)]
    return np.stack(flat).astype(np.float16)


def _distances(
    prediction: CasePrediction,
    segmentation: np.ndarray,
    reference: np.ndarray,
    *,
    known: np.ndarray,
    contour_share: float,
) -> tuple[np.ndarray, np.ndarray]:
    spacing = [float(size) for size in prediction.properties["spacing"]]
    values = prediction.labels.values
    found = [
        boundary_distances(
            label_mask(reference[box], value),
            label_mask(segmentation[box], value),
            spacing_mm=spacing,
            tolerated_share=contour_share,
            known=known[box],
        )
        for value, box in zip(values, label_boxes([reference, segmentation], values), strict=True)
    ]
    return np.array([d.outer_mm for d in found]), np.array([d.inner_mm for d in found])
