"""Members against several raters: do they disagree where, and as much as, people do?

Conventions:
    A segmentation is a label map. The distance of two is 1 - IoU, mean over the labels; where
    neither holds a label that label's distance is 0 (they agree that nothing is there).
    Expectations run over all ordered pairs, a segmentation with itself included.

Metrics:
    generalised energy distance (squared) = 2 E d(S, Y) - E d(S, S') - E d(Y, Y'), S, S' members, Y,
    Y' raters. rater disagreement at a voxel: entropy in nats of the raters' votes.

References:
    Kohl et al. 2018, "A probabilistic U-Net", arXiv:1806.05034, eq. 5. Kahl et al. 2024 (ValUES),
    arXiv:2401.08501, for the correlation of an uncertainty map with the raters' disagreement.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from nnunetv2_le.errors import InputError
from nnunetv2_le.evaluation.overlap import confusion, joint_histogram
from nnunetv2_le.types import LabelValue


@dataclass(frozen=True)
class EnergyDistance:
    """The generalised energy distance and its three terms.

    Attributes:
        squared: the distance, squared; 0 if members and raters are the same set.
        member_rater: E d(S, Y), how far members are from raters.
        member_diversity: E d(S, S').
        rater_diversity: E d(Y, Y').
    """

    squared: float
    member_rater: float
    member_diversity: float
    rater_diversity: float


def generalized_energy_distance(
    members: Sequence[Int[np.ndarray, "*space"]],
    raters: Sequence[Int[np.ndarray, "*space"]],
    *,
    labels: Sequence[LabelValue],
) -> EnergyDistance:
    """The generalised energy distance between the members' and the raters' segmentations.

    Args:
        members: label maps of the members.
        raters: label maps of the raters, of the same shape.
        labels: foreground labels or regions.

    Raises:
        InputError: if there is no member or no rater.

    Source:
        Kohl et al. 2018, eq. 5.
    """
    if not members or not raters:
        raise InputError(
            f"at least one member and one rater are needed, got {len(members)} and {len(raters)}"
        )
    between = float(np.mean([_distance(s, y, labels) for s in members for y in raters]))
    of_members, of_raters = _diversity(members, labels), _diversity(raters, labels)
    return EnergyDistance(2 * between - of_members - of_raters, between, of_members, of_raters)


def rater_disagreement(
    raters: Sequence[Int[np.ndarray, "*space"]],
) -> Float[np.ndarray, "*space"]:
    """Entropy of the raters' votes at each voxel, in nats; 0 where all give one label.

    Args:
        raters: label maps of one shape.

    Raises:
        InputError: if there is no rater.
    """
    if not raters:
        raise InputError("at least one rater is needed, got none")
    entropy = np.zeros(raters[0].shape)
    for value in np.unique(np.concatenate([np.unique(rater) for rater in raters])):
        share = _votes(raters, int(value)) / len(raters)
        entropy -= share * np.log(np.where(share > 0, share, 1.0))
    return np.abs(entropy)  # no negative zero


def consensus(raters: Sequence[Int[np.ndarray, "*space"]]) -> Int[np.ndarray, "*space"]:
    """The label with the most votes at each voxel.

    A tie goes to the foreground, then to the smaller label value; for one label this is "at least
    half of the raters".

    Args:
        raters: label maps of one shape.
    """
    values = np.unique(np.concatenate([np.unique(rater) for rater in raters]))
    ordered = [int(value) for value in (*values[values != 0], *values[values == 0])]
    winner = np.full(raters[0].shape, ordered[0], dtype=np.int32)
    most = _votes(raters, ordered[0])
    for value in ordered[1:]:  # a volume of votes for every value would not fit
        votes = _votes(raters, value)
        winner[votes > most] = value
        np.maximum(most, votes, out=most)
    return winner


def _votes(raters: Sequence[Int[np.ndarray, "*space"]], value: int) -> Int[np.ndarray, "*space"]:
    """How many raters give each voxel the value."""
    votes = np.zeros(raters[0].shape, dtype=np.int32)
    for rater in raters:
        votes += rater == value
    return votes


def _diversity(segmentations: Sequence[np.ndarray], labels: Sequence[LabelValue]) -> float:
    """Mean distance of all ordered pairs; the pairs of one with itself add 0."""
    count = len(segmentations)
    total = sum(
        _distance(segmentations[i], segmentations[j], labels)
        for i in range(count)
        for j in range(i)
    )
    return 2 * total / count**2


def _distance(one: np.ndarray, other: np.ndarray, labels: Sequence[LabelValue]) -> float:
    histogram = joint_histogram(one, other)
    overlaps = [confusion(histogram, label).iou for label in labels]
    return float(np.mean([0.0 if np.isnan(overlap) else 1 - overlap for overlap in overlaps]))
