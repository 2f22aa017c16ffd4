"""One number that makes probabilities honest: the temperature of each member.

Conventions:
    Members are whatever stacks of logits the caller adds: heads, and the fused prediction. Logits
    are divided by the temperature before the softmax (regions: the sigmoid), so the class of a
    single member does not change; the class of the mean of several members may. Voxels are those
    the caller gives: the whole image or a region of interest, without the ignore label. Cases count
    by their voxels.

Metrics:
    nll(T) = sum over voxels of -ln p_true(T), nats. It adds up over voxels and cases, so each case
    adds its values at a fixed grid of temperatures, with the first and second derivative by ln T;
    between the nodes it is a polynomial of fifth degree (SciPy), whose minimum is the temperature.

References:
    Guo et al. 2017, arXiv:1706.04599 (temperature and vector scaling).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

VoxelRegion = Literal["image", "roi"]


@dataclass(frozen=True)
class Temperature:
    """Temperatures, and what they change. ``_before`` is at temperature 1.

    Figures ``_after`` are cross-validated: every case is judged by temperatures that were fitted
    without its fold.

    Attributes:
        members: names of the members, for example heads and ``fused``.
        values: the temperature of each.
        is_shared: one temperature in all.
        region: which voxels were counted.
        nll_before: mean over voxels, of each member.
        nll_after: the same with the temperature.
        ece_before: of each member, on the sampled voxels; None for regions.
        ece_after: the same with the temperature.
        num_cases: labelled cases.
        num_voxels: voxels counted.
    """

    members: tuple[str, ...]
    values: tuple[float, ...]
    is_shared: bool
    region: VoxelRegion
    nll_before: tuple[float, ...]
    nll_after: tuple[float, ...]
    ece_before: tuple[float | None, ...]
    ece_after: tuple[float | None, ...]
    num_cases: int
    num_voxels: int

    def of(self, member: str) -> float:
        """The temperature of a member.

        Raises:
            InputError: the calibration has none for it.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class VectorScaling:
    """logits * weights + biases of one member, one pair a channel.

    Attributes:
        member: its name.
        weights: of each channel.
        biases: of each channel.
        nll_temperature: cross-validated mean NLL of the temperature on the sampled voxels.
        nll_vector: the same of vector scaling.
        is_used: whether it wins by more than one standard error over cases.
    """

    member: str
    weights: tuple[float, ...]
    biases: tuple[float, ...]
    nll_temperature: float
    nll_vector: float
    is_used: bool


@dataclass
class TemperatureSearch:
    """Takes the logits of one case after another and keeps what the search needs.

    Attributes:
        members: names of the members.
        has_regions: whether channels are independent regions.
        region: which voxels the caller gives, for the record.
        voxels_per_case: voxels a case that are kept for ECE and for vector scaling, drawn evenly.
        seed: of that draw.
    """

    members: tuple[str, ...]
    has_regions: bool = False
    region: VoxelRegion = "roi"
    voxels_per_case: int = 2000
    seed: int = 0

    def add(
        self,
        logits: Float[np.ndarray, "members channels voxels"],
        truth: Int[np.ndarray, "voxels"] | Bool[np.ndarray, "channels voxels"],
    ) -> None:
        """Add one case.

        Args:
            logits: float16 to float64.
            truth: classes: the true channel of each voxel; regions: whether each region holds.

        Raises:
            InputError: shapes that do not fit together.
        """
        raise NotImplementedError


def fit_temperature(
    search: TemperatureSearch, *, is_shared: bool = False, groups: Int[np.ndarray, "cases"]
) -> Temperature:
    """Temperatures that minimise the summed NLL of all cases that were added.

    Raises:
        InputError: no voxel was added, or fewer than two patients.
    """
    raise NotImplementedError


def fit_vector_scaling(
    search: TemperatureSearch, member: str, *, groups: Int[np.ndarray, "cases"]
) -> VectorScaling:
    """Weights and biases of one member that minimise the NLL of the sampled voxels.

    Raises:
        InputError: no voxel was added, fewer than two patients, or an unknown member.
    """
    raise NotImplementedError


def region_of_interest(
    segmentation: Bool[np.ndarray, "*space"],
    reference: Bool[np.ndarray, "*space"] | None = None,
    *,
    margin_voxels: int = 5,
) -> Bool[np.ndarray, "*space"]:
    """The union of foreground masks, dilated along every axis longer than 1."""
    raise NotImplementedError
