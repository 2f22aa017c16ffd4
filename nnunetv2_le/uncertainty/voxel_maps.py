"""Uncertainty of each voxel, from the probabilities of members.

Conventions:
    Axis 0 counts members where there are several, then channels, then any number of spatial axes.
    Natural logarithms (nats), 0 ln 0 = 0. Classes are exclusive, their probabilities add up to 1.
    Regions overlap: each is a Bernoulli variable of its own, and a map is the mean over regions of
    the binary quantity.

Metrics:
    With p_mc the probability that member m = 1..M gives channel c = 1..C, and p_c its mean over
    members: entropy -sum_c p_c ln p_c; expected entropy (1/M) sum_m of the entropy of p_m; total
    entropy sum_m of the entropy of p_m; mutual information = entropy of p minus expected entropy;
    variance (1/C) sum_c (1/M) sum_m (p_mc - p_c)^2.

References:
    Depeweg et al., "Decomposition of uncertainty in Bayesian deep learning", ICML 2018 (entropy =
    expected entropy + mutual information). Kushibar et al., MICCAI 2022, arXiv:2203.08878, section
    2.2 (variance and entropy of layer ensembles). Katz and Mendelson, UnnUNet, 2023,
    https://github.com/KanielDatz/UnnUNet (entropy between all predictions).

Deviations:
    The variance is that of probabilities; the code published with the paper takes the variance of
    label numbers, which depends on how labels are numbered. UnnUNet's code sums the total entropy
    over one class; its text says all classes, which is done here.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from nnunetv2_le.uncertainty.probabilities import mean_over, sum_over


def entropy_nats(
    probability: Float[Tensor, "channels *space"], *, has_regions: bool = False
) -> Float[Tensor, "*space"]:
    """Entropy of one prediction, ``-sum_c p_c ln p_c``.

    Args:
        probability: probabilities of one prediction, in [0, 1].
        has_regions: whether channels are overlapping regions; then the mean over regions of
            ``-p ln p - (1 - p) ln (1 - p)``.

    Returns:
        Nats, from 0 to ln(channels); for regions to ln 2.
    """
    return _entropies(probability.unsqueeze(0), has_regions).squeeze(0)


def expected_entropy_nats(
    probability: Float[Tensor, "members channels *space"], *, has_regions: bool = False
) -> Float[Tensor, "*space"]:
    """Mean over members of their entropy: the part of the uncertainty on which members agree.

    Args:
        probability: probabilities of members, in [0, 1].
        has_regions: whether channels are overlapping regions.
    """
    return mean_over(_entropies(probability, has_regions), 0)


def total_entropy_nats(
    probability: Float[Tensor, "members channels *space"], *, has_regions: bool = False
) -> Float[Tensor, "*space"]:
    """Entropy over all predictions, ``-sum_m sum_c p_mc ln p_mc``; not divided by anything.

    Members times the expected entropy: it knows how undecided members are, not whether they
    contradict each other.

    Args:
        probability: probabilities of members, in [0, 1].
        has_regions: whether channels are overlapping regions; then a member's entropy is the mean
            over regions.

    Returns:
        Nats, from 0 to members x ln(channels); for regions to members x ln 2.
    """
    return sum_over(_entropies(probability, has_regions), 0)


def mutual_information_nats(
    probability: Float[Tensor, "members channels *space"], *, has_regions: bool = False
) -> Float[Tensor, "*space"]:
    """Entropy of the members' mean minus their expected entropy: their disagreement.

    Not below 0 (entropy is concave); a negative rounding error is set to 0.

    Args:
        probability: probabilities of members, in [0, 1].
        has_regions: whether channels are overlapping regions.

    Returns:
        Nats, from 0 (members are equal) to ln(min(members, channels)); for regions to ln 2.
    """
    entropy = entropy_nats(mean_over(probability, 0), has_regions=has_regions)
    return (entropy - expected_entropy_nats(probability, has_regions=has_regions)).clamp_min_(0.0)


def variance(probability: Float[Tensor, "members channels *space"]) -> Float[Tensor, "*space"]:
    """Mean over channels of the members' variance, ``(1/C) sum_c (1/M) sum_m (p_mc - p_c)^2``.

    The formula is the same for classes (background included) and regions.

    Args:
        probability: probabilities of members, in [0, 1].

    Returns:
        From 0 (members are equal) to 1/4.
    """
    squares = (probability - mean_over(probability, 0)).square_()
    return mean_over(mean_over(squares, 0), 0)


def _entropies(
    probability: Float[Tensor, "members channels *space"], has_regions: bool
) -> Float[Tensor, "members *space"]:
    terms = _p_ln_p(probability)
    if has_regions:
        return mean_over(terms.add_(_p_ln_p(1.0 - probability)), 1).neg_()
    return sum_over(terms, 1).neg_()


def _p_ln_p(probability: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """``p ln p``; the logarithm is kept finite, so that 0 ln 0 = 0."""
    tiny = torch.finfo(probability.dtype).tiny
    return probability.clamp_min(tiny).log_().mul_(probability)
