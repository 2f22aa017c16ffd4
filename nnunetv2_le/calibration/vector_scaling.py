"""A weight and a bias for each class: more than a temperature, where it pays.

Conventions:
    logits * weight + bias, a pair a channel, before the softmax (regions: the sigmoid). Unlike a
    temperature this changes decisions. It is fitted on a bounded sample of voxels of each case and
    kept only if its cross-validated NLL is better than that of the temperature by more than one
    standard error over patients.

References:
    Guo et al. 2017, arXiv:1706.04599 (vector scaling).

Deviations:
    A small quadratic penalty draws weights and biases towards those of the temperature, so that the
    bias of a class that no sampled voxel has stays finite.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize
from scipy.special import expit, log_softmax

from nnunetv2_le.calibration.groups import group_folds, group_means, is_clear
from nnunetv2_le.calibration.temperature import (
    NUM_FOLDS,
    SampledVoxels,
    TemperatureSearch,
    best_log_temperatures,
    held_out_temperatures,
    stacked_curves,
)
from nnunetv2_le.errors import InputError

_PENALTY = 1e-4
_MAX_VOXELS = 100_000  # of all cases together: enough for a few numbers a class


@dataclass(frozen=True)
class VectorScaling:
    """logits * weights + biases of one member, one pair a channel.

    Attributes:
        member: its name.
        weights: of each channel.
        biases: of each channel.
        nll_temperature: cross-validated mean NLL of the temperature on the sampled voxels.
        nll_vector: the same of vector scaling.
        is_used: whether it wins by more than one standard error over patients.
    """

    member: str
    weights: tuple[float, ...]
    biases: tuple[float, ...]
    nll_temperature: float
    nll_vector: float
    is_used: bool

    def apply(
        self, logits: Float[np.ndarray, "channels *space"]
    ) -> Float[np.ndarray, "channels *space"]:
        """Scaled logits of the member, float32."""
        ones = (1,) * (logits.ndim - 1)
        weights = np.array(self.weights, dtype=np.float32).reshape(-1, *ones)
        biases = np.array(self.biases, dtype=np.float32).reshape(-1, *ones)
        return np.asarray(logits * weights + biases, dtype=np.float32)


def fit_vector_scaling(
    search: TemperatureSearch, member: str, *, groups: Int[np.ndarray, "cases"]
) -> VectorScaling:
    """Weights and biases of one member that minimise the NLL of the sampled voxels.

    Args:
        search: with every case added.
        member: its name.
        groups: the number of each case's patient, in the order of adding.

    Raises:
        InputError: groups that do not fit, fewer than two patients, or an unknown member.
    """
    if member not in search.members:
        raise InputError(f"expected one of {', '.join(search.members)}, got member {member!r}")
    number = search.members.index(member)
    curves = stacked_curves(search, groups)
    kept = max(1, _MAX_VOXELS // len(curves))
    cases = [
        (sample.logits[number, :, :kept].astype(float), sample.truth[..., :kept])
        for sample in (_shuffled(sample, search.seed) for sample in search.samples)
    ]
    cooled = held_out_temperatures(search, groups=groups)[:, number]
    errors = np.zeros((2, len(cases)))
    for training, asked in group_folds(groups, NUM_FOLDS, seed=search.seed):
        start = 1 / np.exp(cooled[asked[0]])
        fitted = _fit([cases[case] for case in training], start, search.has_regions)
        for case in asked:
            for row, (weights, biases) in enumerate(((start, 0.0), fitted)):
                scaled = (cases[case][0].T * weights + biases).T
                errors[row, case] = _nll(scaled, cases[case][1], search.has_regions)[0]
    gains = group_means(errors[0] - errors[1], groups)
    start = 1 / np.exp(best_log_temperatures(curves, is_shared=False)[number])
    weights, biases = _fit(cases, start, search.has_regions)
    return VectorScaling(
        member=member,
        weights=tuple(weights.tolist()),
        biases=tuple(biases.tolist()),
        nll_temperature=float(errors[0].mean()),
        nll_vector=float(errors[1].mean()),
        is_used=is_clear(gains, 1.0),
    )


def _shuffled(sample: SampledVoxels, seed: int) -> SampledVoxels:
    """The same voxels in a random order, so that the first ones are drawn evenly."""
    order = np.random.default_rng(seed).permutation(sample.truth.shape[-1])
    return SampledVoxels(sample.logits[..., order], sample.truth[..., order])


def _fit(
    cases: list[tuple[np.ndarray, np.ndarray]], start: float, has_regions: bool
) -> tuple[Float[np.ndarray, "channels"], Float[np.ndarray, "channels"]]:
    logits = np.concatenate([values for values, _ in cases], axis=1)
    truth = np.concatenate([values for _, values in cases], axis=-1)
    channels = len(logits)
    origin = np.concatenate([np.full(channels, start), np.zeros(channels)])

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weights, biases = np.split(parameters, 2)
        value, slope = _nll((logits.T * weights + biases).T, truth, has_regions)
        gradient = np.concatenate([(slope * logits).sum(axis=1), slope.sum(axis=1)])
        away = parameters - origin
        return value + _PENALTY * float(away @ away), gradient + 2 * _PENALTY * away

    found = minimize(loss, origin, jac=True, method="L-BFGS-B")
    weights, biases = np.split(found.x, 2)
    return weights, biases


def _nll(
    logits: Float[np.ndarray, "channels voxels"],
    truth: Int[np.ndarray, "voxels"] | Bool[np.ndarray, "channels voxels"],
    has_regions: bool,
) -> tuple[float, Float[np.ndarray, "channels voxels"]]:
    """Mean NLL, and its derivative by each logit."""
    if has_regions:
        value = float(np.mean(np.logaddexp(0, logits) - logits * truth))
        return value, (expit(logits) - truth) / logits.size
    logs = log_softmax(logits, axis=0)
    voxels = np.arange(logits.shape[1])
    slope = np.exp(logs)
    slope[truth, voxels] -= 1
    return float(-logs[truth, voxels].mean()), slope / len(voxels)
