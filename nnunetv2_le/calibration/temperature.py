"""One number that makes probabilities honest: the temperature of each member.

Conventions:
    Members are whatever stacks of logits the caller adds: heads, and the fused prediction. Logits
    are divided by the temperature before the softmax (regions: the sigmoid), so the decision of a
    single member does not change; that of the mean of several members may. Voxels are those that
    the caller gives: the whole image or a region of interest, without the ignore label. Cases count
    by their voxels.

Metrics:
    nll(T) = sum over voxels of -ln p_true(T), nats (regions: mean over regions). Each case adds its
    curve (see `nll_curve`), and the temperature is where their sum is lowest. A test compares it
    with a minimisation on all voxels given: the two temperatures agree to 1 in 10,000.

References:
    Guo et al. 2017, arXiv:1706.04599 (temperature scaling).
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer
from scipy import ndimage

from nnunetv2_le.calibration.groups import group_folds
from nnunetv2_le.calibration.nll_curve import log_temperature_of_minimum, nll_at, nll_curve
from nnunetv2_le.errors import InputError
from nnunetv2_le.evaluation.calibration_error import CalibrationHistogram
from nnunetv2_le.uncertainty.probabilities import probabilities

VoxelRegion = Literal["image", "roi"]

NUM_FOLDS = 5
_CHUNK_VALUES = 2**20
_MAX_SAMPLED_VALUES = 400_000  # of a case: 1.6 MB, however many classes and members there are


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
        ece_before: of each member, on voxels that were drawn evenly from each case (regions: the
            mean of the regions' calibration errors).
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
    ece_before: tuple[float, ...]
    ece_after: tuple[float, ...]
    num_cases: int
    num_voxels: int

    def of(self, member: str) -> float:
        """The temperature of a member.

        Raises:
            InputError: the calibration has none for it.
        """
        if member not in self.members:
            raise InputError(
                f"the calibration has temperatures for {', '.join(self.members)}, none for "
                f"{member}; calibrate with the members that predict"
            )
        return self.values[self.members.index(member)]


@dataclass(frozen=True)
class SampledVoxels:
    """Some voxels of one case.

    Attributes:
        logits: of each member.
        truth: classes: the true channel; regions: whether each region holds.
    """

    logits: Float[np.ndarray, "members channels voxels"]
    truth: Integer[np.ndarray, "voxels"] | Bool[np.ndarray, "channels voxels"]


@dataclass
class TemperatureSearch:
    """Takes the logits of one case after another and keeps what the search needs.

    Attributes:
        members: names of the members.
        has_regions: whether channels are independent regions.
        region: which voxels the caller gives, for the record.
        voxels_per_case: voxels of a case that are kept for ECE and for vector scaling, drawn
            evenly; fewer where there are many members and classes.
        seed: of that draw.
        curves: of each case, its NLL and two derivatives at each node.
        num_voxels: of each case.
        samples: of each case.
    """

    members: tuple[str, ...]
    has_regions: bool = False
    region: VoxelRegion = "roi"
    voxels_per_case: int = 2000
    seed: int = 0
    curves: list[Float[np.ndarray, "nodes orders members"]] = field(default_factory=list)
    num_voxels: list[int] = field(default_factory=list)
    samples: list[SampledVoxels] = field(default_factory=list)

    def add(
        self,
        logits: Float[np.ndarray, "members channels voxels"],
        truth: Integer[np.ndarray, "answers"] | Bool[np.ndarray, "questions answers"],
    ) -> None:
        """Add one case.

        Args:
            logits: float16 to float64.
            truth: classes: the true channel of each voxel; regions: whether each region holds.

        Raises:
            InputError: no voxel, or shapes that do not fit together.
        """
        members, channels, voxels = logits.shape
        expected = (channels, voxels) if self.has_regions else (voxels,)
        if members != len(self.members) or truth.shape != expected or not voxels:
            raise InputError(
                f"expected logits of {len(self.members)} members at one voxel or more and truth of "
                f"shape {expected}, got logits {logits.shape} and truth {truth.shape}"
            )
        step = max(1, _CHUNK_VALUES // (members * channels))
        pieces = [slice(start, start + step) for start in range(0, voxels, step)]
        curves = [
            nll_curve(logits[..., piece], truth[..., piece], has_regions=self.has_regions)
            for piece in pieces
        ]
        self.curves.append(np.sum(curves, axis=0))
        self.num_voxels.append(voxels)
        kept = min(self.voxels_per_case, max(1, _MAX_SAMPLED_VALUES // (members * channels)))
        generator = np.random.default_rng((self.seed, len(self.samples)))
        drawn = np.sort(generator.choice(voxels, size=min(kept, voxels), replace=False))
        self.samples.append(SampledVoxels(logits[..., drawn].astype(np.float32), truth[..., drawn]))


def fit_temperature(
    search: TemperatureSearch, *, is_shared: bool = False, groups: Int[np.ndarray, "cases"]
) -> Temperature:
    """Temperatures that minimise the summed NLL of all cases that were added.

    Args:
        search: with every case added.
        is_shared: one temperature for all members instead of one for each.
        groups: the number of each case's patient, in the order of adding.

    Raises:
        InputError: groups that do not fit, or fewer than two patients.
    """
    curves = stacked_curves(search, groups)
    held_out = held_out_temperatures(search, is_shared=is_shared, groups=groups)
    at_one = np.zeros_like(held_out)
    return Temperature(
        members=search.members,
        values=tuple(np.exp(best_log_temperatures(curves, is_shared=is_shared)).tolist()),
        is_shared=is_shared,
        region=search.region,
        nll_before=_mean_nll(search, at_one),
        nll_after=_mean_nll(search, held_out),
        ece_before=_sampled_ece(search, at_one),
        ece_after=_sampled_ece(search, held_out),
        num_cases=len(curves),
        num_voxels=sum(search.num_voxels),
    )


def region_of_interest(
    segmentation: Bool[np.ndarray, "*space"],
    reference: Bool[np.ndarray, "*space"] | None = None,
    *,
    margin_voxels: int = 5,
) -> Bool[np.ndarray, "*space"]:
    """The union of foreground masks, dilated along every axis longer than 1.

    Args:
        segmentation: its foreground.
        reference: the reference's foreground; None for a new case.
        margin_voxels: how many voxels (by steps over faces) the region reaches beyond them.
    """
    union = segmentation if reference is None else segmentation | reference
    if not margin_voxels:  # SciPy would dilate until nothing changes
        return union
    return np.asarray(ndimage.binary_dilation(union, iterations=margin_voxels))


def stacked_curves(
    search: TemperatureSearch, groups: Int[np.ndarray, "cases"]
) -> Float[np.ndarray, "cases nodes orders members"]:
    """The curves of all cases.

    Raises:
        InputError: not one group for each case that was added.
    """
    if not search.curves or len(groups) != len(search.curves):
        raise InputError(
            f"expected a group for each of {len(search.curves)} cases that were added, at least "
            f"one, got {len(groups)}"
        )
    return np.stack(search.curves)


def held_out_temperatures(
    search: TemperatureSearch, *, is_shared: bool = False, groups: Int[np.ndarray, "cases"]
) -> Float[np.ndarray, "cases members"]:
    """Ln T of each member for each case, fitted without its fold of patients."""
    curves = stacked_curves(search, groups)
    held_out = np.zeros((len(curves), len(search.members)))
    for training, asked in group_folds(groups, NUM_FOLDS, seed=search.seed):
        held_out[asked] = best_log_temperatures(curves[training], is_shared=is_shared)
    return held_out


def best_log_temperatures(
    curves: Float[np.ndarray, "cases nodes orders members"], *, is_shared: bool
) -> Float[np.ndarray, "members"]:
    """Ln T that minimises the sum of the cases' curves, for each member or for their sum."""
    total = curves.sum(axis=0)
    if is_shared:
        return np.full(total.shape[-1], log_temperature_of_minimum(total.sum(axis=-1)))
    return np.array(
        [log_temperature_of_minimum(total[..., member]) for member in range(total.shape[-1])]
    )


def _mean_nll(
    search: TemperatureSearch, log_temperatures: Float[np.ndarray, "cases members"]
) -> tuple[float, ...]:
    """Mean NLL over all voxels, each case at its own temperatures."""
    sums = np.zeros(len(search.members))
    for curve, values in zip(search.curves, log_temperatures, strict=True):
        for member, value in enumerate(values):
            sums[member] += nll_at(curve[..., member], value)
    return tuple((sums / sum(search.num_voxels)).tolist())


def _sampled_ece(
    search: TemperatureSearch, log_temperatures: Float[np.ndarray, "cases members"]
) -> tuple[float, ...]:
    """Expected calibration error on the sampled voxels, each case at its own temperatures."""
    figures = []
    truth = np.concatenate([sample.truth for sample in search.samples], axis=-1)
    for member in range(len(search.members)):
        scaled = np.concatenate(
            [
                sample.logits[member] / np.float32(np.exp(values[member]))
                for sample, values in zip(search.samples, log_temperatures, strict=True)
            ],
            axis=-1,
        )
        shares = probabilities(torch.from_numpy(scaled)[None], has_regions=search.has_regions)
        histogram = CalibrationHistogram(len(scaled), has_regions=search.has_regions)
        histogram.add(shares[0].numpy(), truth)
        figures.append(histogram.figures())
    return tuple(each.classwise_ece if search.has_regions else each.ece for each in figures)
