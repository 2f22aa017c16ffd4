"""Negative log-likelihood of one case as a function of the temperature of its logits.

Conventions:
    A curve is the NLL in nats, summed over voxels (regions: their mean, summed over voxels), with
    its first and second derivative by u = ln T, at 11 temperatures from 0.1 to 20. Curves add up
    over voxels and over cases. Between these nodes a curve is the polynomial of fifth degree
    through values and derivatives (SciPy's BPoly).

References:
    Guo et al. 2017, arXiv:1706.04599 (temperature scaling).
"""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from scipy.interpolate import BPoly
from scipy.optimize import minimize_scalar
from torch import Tensor

LOG_NODES = np.linspace(math.log(0.1), math.log(20.0), 11)


def nll_curve(
    logits: Float[np.ndarray, "members channels voxels"],
    truth: Integer[np.ndarray, "voxels"] | Bool[np.ndarray, "channels voxels"],
    *,
    has_regions: bool,
) -> Float[np.ndarray, "nodes orders members"]:
    """NLL and its derivatives by ln T at each node, summed over voxels.

    With b = 1/T, z the logits: f = ln sum exp(b z) - b z_true, df/du = -b (E[z] - z_true),
    d2f/du2 = b (E[z] - z_true) + b^2 Var[z] for u = ln T. A region is the softmax of (0, z).

    Args:
        logits: float16 to float64.
        truth: classes: the true channel of each voxel; regions: whether each region holds.
        has_regions: whether channels are independent regions.
    """
    scores = torch.from_numpy(np.asarray(logits, dtype=np.float32))
    answers = torch.from_numpy(np.asarray(truth, dtype=np.int64))
    share = 1.0
    if has_regions:
        share = 1.0 / scores.shape[1]
        scores, answers = scores.flatten(1), answers.flatten()
        scores = torch.stack([torch.zeros_like(scores), scores], dim=1)
    of_truth = scores.gather(1, answers.expand(len(scores), 1, -1))[:, 0]
    # relative to the truth nothing large is ever subtracted
    relative = scores - of_truth[:, None]
    nodes = [_node(relative, math.exp(-node)) for node in LOG_NODES]
    return np.stack(nodes) * share


def nll_at(curve: Float[np.ndarray, "nodes orders"], log_temperature: float) -> float:
    """NLL of a curve at ln T, between the nodes."""
    return float(_polynomial(curve)(log_temperature))


def log_temperature_of_minimum(curve: Float[np.ndarray, "nodes orders"]) -> float:
    """Ln T between the nodes at which a curve is lowest, to 1e-6."""
    best = int(np.argmin(curve[:, 0]))
    low, high = LOG_NODES[max(0, best - 1)], LOG_NODES[min(len(LOG_NODES) - 1, best + 1)]
    polynomial = _polynomial(curve)
    found = minimize_scalar(
        polynomial, bounds=(low, high), method="bounded", options={"xatol": 1e-6}
    )
    return float(found.x if found.fun <= curve[best, 0] else LOG_NODES[best])


def _polynomial(curve: Float[np.ndarray, "nodes orders"]) -> BPoly:
    return BPoly.from_derivatives(LOG_NODES, curve)


def _node(relative: Tensor, inverse: float) -> Float[np.ndarray, "orders members"]:
    scaled = relative * inverse
    log_sum = scaled.logsumexp(1)
    weights = (scaled - log_sum[:, None]).exp_()
    mean = (weights * scaled).sum(1)
    variance = (weights * scaled.square()).sum(1) - mean.square()
    orders = torch.stack(
        [part.sum(1, dtype=torch.float64) for part in (log_sum, -mean, mean + variance)]
    )
    return np.asarray(orders.numpy())
