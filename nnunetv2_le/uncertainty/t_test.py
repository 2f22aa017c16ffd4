"""Whether members can tell the two most probable classes of a voxel apart: UnnUNet's t-test.

Conventions:
    Axis 0 counts members, then channels, then voxels. Classes are exclusive. Regions overlap: each
    is tested against its complement, and the map is the mean over regions. Equal probabilities of
    several classes: the lower class comes first, as in a decision.

Metrics:
    Welch's t-test (unequal variances, two-sided) between the M probabilities of the class with the
    highest mean and the M probabilities of the class with the second highest mean:
    t = (a - b) / sqrt(s_a^2 / M + s_b^2 / M) with means a, b and variances s^2 (divisor M - 1), and
    Welch-Satterthwaite's degrees of freedom. The map holds the p-value where p >= 0.05 and 0
    elsewhere: above 0 are the voxels whose two classes the members do not separate.

References:
    Welch, Biometrika 34, 1947. Katz and Mendelson, UnnUNet, 2023,
    https://github.com/KanielDatz/UnnUNet (the test between classes over members; "we then set the
    pixels where the P value is lower than 5% to null").

Deviations:
    UnnUNet's code has two classes and keeps every p-value; its text sets those below 5 % to null,
    which is done here. Members without any variance: p = 1 where both classes are equally probable,
    else 0 (SciPy: undefined and 0).
"""

import math

import torch
from jaxtyping import Bool, Float, Integer
from scipy import special
from torch import Tensor

from nnunetv2_le.uncertainty.decisions import decide
from nnunetv2_le.uncertainty.probabilities import mean_over, sum_over

SIGNIFICANCE = 0.05  # UnnUNet's level


def inseparable_classes_p_value(
    probability: Float[Tensor, "members channels voxels"], *, has_regions: bool = False
) -> Float[Tensor, "voxels"]:
    """p-value of Welch's t-test between the two most probable classes, where it is at least 0.05.

    Args:
        probability: probabilities of at least two members, in [0, 1].
        has_regions: whether channels are overlapping regions; then each region is tested against
            its complement, and the map is the mean over regions.

    Returns:
        0 (the classes are told apart), or from 0.05 to 1; for regions their mean. float64.
    """
    members = probability.to(torch.float64)
    if has_regions:
        per_region = welch_p_value(members, 1.0 - members, at_least=SIGNIFICANCE)
        return mean_over(per_region, 0)
    first, second = two_most_probable(mean_over(members, 0))
    return welch_p_value(_channel(members, first), _channel(members, second), at_least=SIGNIFICANCE)


def two_most_probable(
    mean: Float[Tensor, "channels voxels"],
) -> tuple[Integer[Tensor, "voxels"], Integer[Tensor, "voxels"]]:
    """Numbers of the channels with the highest and the second highest value at each voxel."""
    first = decide(mean[None], has_regions=False)[0].long()
    others = mean.scatter(0, first[None], -math.inf)
    return first, decide(others[None], has_regions=False)[0].long()


def welch_p_value(
    one: Float[Tensor, "samples *shape"],
    other: Float[Tensor, "samples *shape"],
    *,
    at_least: float = 0.0,
) -> Float[Tensor, "*shape"]:
    """Two-sided p-value of Welch's t-test along the first axis.

    Args:
        one: at least two samples of the first group.
        other: as many samples of the second group.
        at_least: smaller p-values become 0. Most of them are known without computing them, because
            the degrees of freedom are at least samples - 1: that is what makes the test affordable
            on a whole volume.

    Returns:
        From 0 to 1. Without any variance 1 where the means are equal, else 0.
    """
    samples = one.shape[0]
    (mean_one, square_one), (mean_other, square_other) = _moments(one), _moments(other)
    squares = square_one + square_other
    ratio = (mean_one - mean_other).abs_() / squares.sqrt()
    statistic = ratio.nan_to_num_(nan=0.0, posinf=math.inf)  # 0 / 0: equal without variance
    freedom = (samples - 1) * squares.square() / (square_one.square() + square_other.square())
    freedom = freedom.nan_to_num_(nan=float(samples - 1))
    return _two_sided(statistic, freedom, _possible(statistic, samples - 1, at_least), at_least)


def _moments(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Mean, and squared standard error of the mean."""
    number = samples.shape[0]
    mean = mean_over(samples, 0)
    squares = sum_over((samples - mean).square_(), 0)
    return mean, squares / ((number - 1) * number)


def _possible(statistic: Tensor, least_freedom: int, at_least: float) -> Bool[Tensor, "*shape"]:
    """Where the p-value can reach the limit: with the least degrees of freedom it is largest."""
    if at_least <= 0:
        return torch.ones_like(statistic, dtype=torch.bool)
    critical = float(special.stdtrit(least_freedom, 1 - at_least / 2))
    return statistic <= critical * (1 + 1e-9)


def _two_sided(
    statistic: Tensor, freedom: Tensor, possible: Tensor, at_least: float
) -> Float[Tensor, "*shape"]:
    p_value = torch.zeros_like(statistic)
    found = 2 * special.stdtr(freedom[possible].cpu().numpy(), -statistic[possible].cpu().numpy())
    found[found < at_least] = 0.0
    p_value[possible] = torch.from_numpy(found).to(p_value.device)
    return p_value


def _channel(
    members: Float[Tensor, "members channels voxels"], number: Integer[Tensor, "voxels"]
) -> Float[Tensor, "members voxels"]:
    """Each member's probability of one channel, which differs from voxel to voxel."""
    where = number[None, None].expand(members.shape[0], 1, -1)
    return members.gather(1, where).squeeze(1)
