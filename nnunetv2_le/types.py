"""The words of the package as types: members, families, labels, counts and the scores of a case.

A **member** is one probabilistic prediction of an image; a **family** is a set of members that
differ in one thing. Everything below ``inference`` is written for these and does not know where
they come from.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Integer

Fusion = Literal["mean", "majority", "staple", "last", "nnunet", "lowest_uncertainty"]
Direction = Literal["higher_is_better", "higher_is_worse", "none"]

LabelValue = int | tuple[int, ...]

FAMILIES = ("heads", "multi_head", "mirrors", "folds", "checkpoints", "models", "dropout")
"""Families that a run can have."""

HEAD_FAMILIES = ("heads", "multi_head")
"""Families whose members are heads of one network."""

FUSED = "fused"
"""What the fused prediction is called among families."""

DEFAULT_MAPS = ("entropy",)
"""Voxel maps that are written where the user names none."""

CALIBRATED_MAPS = ("prediction_set", "inner_contour", "outer_contour")
"""Voxel maps that a calibrated model can write."""


@dataclass(frozen=True)
class Labels:
    """What the channels of a prediction mean.

    Attributes:
        names: foreground labels (or regions), in order.
        values: the label value of each, or the tuple of label values that a region joins.
        has_regions: True if channels are overlapping regions (one sigmoid each, no background
            channel); False if they are exclusive classes (a softmax, channel 0 is the background).
        region_values: for regions, the value that nnU-Net paints each region with, in order; empty
            for classes.
    """

    names: tuple[str, ...]
    values: tuple[LabelValue, ...]
    has_regions: bool = False
    region_values: tuple[int, ...] = ()

    @property
    def num_channels(self) -> int:
        """Channels of a prediction: one a region, or one a class with the background."""
        return len(self.names) + (not self.has_regions)


@dataclass(frozen=True)
class Family:
    """Members that differ in one thing.

    Attributes:
        name: ``heads``, ``mirrors``, ``folds``, ...
        members: a name for each, in order.
        ordered: whether the order means depth (shallow to deep), so that layer agreement is
            defined. True for heads alone.
    """

    name: str
    members: tuple[str, ...]
    ordered: bool = False


@dataclass(frozen=True)
class MemberPlan:
    """Which members a prediction keeps, and which of them make the segmentation.

    Members are numbered over all families in order, then the ``extra`` members, which belong to no
    family and are there to be fused only.

    Attributes:
        families: the families, in order.
        fused: numbers of the members whose mean probability is the segmentation.
        extra: names of members without a family.
    """

    families: tuple[Family, ...]
    fused: tuple[int, ...]
    extra: tuple[str, ...] = ()

    @property
    def num_family_members(self) -> int:
        """Members that belong to a family; agreement is counted between these."""
        return sum(len(family.members) for family in self.families)

    @property
    def num_members(self) -> int:
        """All members, the extra ones included."""
        return self.num_family_members + len(self.extra)

    @property
    def head_numbers(self) -> tuple[int, ...]:
        """The members that are heads of one network, as numbers over all members."""
        heads = (family for family in self.families if family.name in HEAD_FAMILIES)
        return tuple(number for family in heads for number in self.numbers(family))

    def numbers(self, family: Family) -> range:
        """The members of a family, as numbers over all members."""
        start = 0
        for other in self.families:
            if other.name == family.name:
                return range(start, start + len(other.members))
            start += len(other.members)
        raise KeyError(family.name)


@dataclass(frozen=True)
class OverlapCounts:
    """Voxel counts from which every agreement score follows exactly.

    Attributes:
        pairs: ``pairs[l, i, j]`` = |A_i and A_j| for foreground label ``l`` and members ``i``,
            ``j`` of all families in the order of the plan; the diagonal holds the sizes |A_i|.
        with_fused: ``with_fused[l, i]`` = |A_i and F|, F the fused segmentation.
        fused: ``fused[l]`` = |F|.
    """

    pairs: Int[np.ndarray, "labels members members"]
    with_fused: Int[np.ndarray, "labels members"]
    fused: Int[np.ndarray, "labels"]

    def found(self, members: range) -> Bool[np.ndarray, "labels"]:
        """Whether any of these members gives a label to any voxel, for each label."""
        sizes = np.diagonal(self.pairs, axis1=1, axis2=2)
        return np.asarray(sizes[:, list(members)].any(axis=1))


@dataclass(frozen=True)
class Choice:
    """The member that was taken as the prediction of a case.

    Attributes:
        family: the family that was chosen from.
        member: the member's name.
        number: its number within the family.
        entropy_boundary_ratio: what every member was compared by; NaN without a boundary.
    """

    family: str
    member: str
    number: int
    entropy_boundary_ratio: dict[str, float]


@dataclass(frozen=True)
class Accumulated:
    """What is left of all members on the network's grid, once every voxel was seen.

    Attributes:
        fused_logits: logits of the fused prediction (softmax or sigmoid gives its probability),
            float16.
        decisions: the fused segmentation; for classes the number of the class at each voxel
            (unsigned or int16), for regions one mask a region.
        maps: voxel maps by name, float32: ``entropy`` and ``<family>_mutual_information``,
            ``<family>_variance``, ``<family>_agreement`` (share of the family's members that give
            the voxel its fused label); ``<family>_entropy``, ``<family>_ttest`` and
            ``<family>_total_entropy`` where they were asked for.
        counts: overlaps of members.
        soft_sums: of the fused prediction and of each family, what soft Dice needs
            (``uncertainty.soft_dice``); a family is missing where the fused mask is known only
            after its probabilities are gone (fusion of whole volumes).
        member_logits: logits of the members whose logits were asked for, by their number; None
            where none were.
        choice: which member is the fused prediction, where one was chosen.
    """

    fused_logits: Float[np.ndarray, "channels depth height width"]
    decisions: (
        Integer[np.ndarray, "depth height width"] | Bool[np.ndarray, "labels depth height width"]
    )
    maps: dict[str, Float[np.ndarray, "depth height width"]]
    counts: OverlapCounts
    soft_sums: dict[str, Int[np.ndarray, "labels two"]] = field(default_factory=dict)
    member_logits: dict[int, Float[np.ndarray, "channels depth height width"]] | None = None
    choice: Choice | None = None

    @property
    def fused_masks(self) -> Bool[np.ndarray, "labels depth height width"]:
        """One mask a foreground label or region: of many labels far larger than ``decisions``."""
        return np.stack([self.fused_mask(label) for label in range(len(self.counts.fused))])

    @property
    def fused_foreground(self) -> Bool[np.ndarray, "depth height width"]:
        """Where the fused segmentation has any label or region."""
        decisions = self.decisions
        return np.asarray(decisions.any(axis=0) if decisions.ndim == 4 else decisions > 0)

    def fused_mask(self, label: int) -> Bool[np.ndarray, "depth height width"]:
        """The mask of one foreground label or region, numbered from 0."""
        decisions = self.decisions
        return np.asarray(decisions[label] if decisions.ndim == 4 else decisions == label + 1)


@dataclass(frozen=True)
class ComponentScores:
    """One connected component of the fused segmentation (a lesion).

    Attributes:
        label: name of the label or region.
        component: its number within the case and label, 1 for the largest.
        centre_voxels: centre of mass (depth, height, width) on the network's grid.
        volume_ml: its volume in millilitres.
        scores: ``entropy_mean`` (nats) and for each family ``<family>_agreement``: the mean share
            of members that give its voxels this label.
    """

    label: str
    component: int
    centre_voxels: tuple[float, float, float]
    volume_ml: float
    scores: dict[str, float]


@dataclass(frozen=True)
class CaseScores:
    """Every score of one case: its row of ``uncertainty.csv`` and of the other tables.

    Undefined values are NaN here and empty fields in the tables.

    Attributes:
        case: name of the case.
        scores: column name to value, mean over foreground labels, in the order of the columns.
        per_label: label name to (column name to value).
        components: connected components of the fused segmentation.
        empty_prediction: True if every member is empty for every label.
        num_members: members of all families.
        layer_agreement: the curve a_1..a_n, mean over labels; NaN where no head found anything,
            empty without an ordered family.
    """

    case: str
    scores: dict[str, float]
    per_label: dict[str, dict[str, float]]
    components: tuple[ComponentScores, ...] = ()
    empty_prediction: bool = False
    num_members: int = 0
    layer_agreement: tuple[float, ...] = field(default=())


@dataclass(frozen=True)
class LogitScaling:
    """Calibrated logits of a member: logits times weights plus biases, one pair a channel.

    Attributes:
        weights: of each channel; with a temperature 1 / temperature everywhere.
        biases: of each channel.
    """

    weights: Float[np.ndarray, "channels"]
    biases: Float[np.ndarray, "channels"]
