"""Logits of heads: upsampling, averaging as probabilities, and the gradient they send back."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def upsample(
    logits: Float[Tensor, "batch classes *coarse"], size: Sequence[int]
) -> Float[Tensor, "batch classes *space"]:
    """Logits at another resolution, by (bi-, tri-) linear interpolation with aligned voxel borders.

    Args:
        logits: logits of one head.
        size: spatial size that is wanted.

    Returns:
        The logits at that size; the same tensor where the size is right already.
    """
    if tuple(logits.shape[2:]) == tuple(size):
        return logits
    # A GPU adds up gradients in the precision of what was interpolated: in half precision a sum of
    # the thousands of voxels around one of the bottleneck stops growing.
    needed = torch.promote_types(logits.dtype, torch.float32)
    precise = logits.to(needed) if logits.requires_grad else logits
    mode = _LINEAR[logits.ndim - 2]
    fine = F.interpolate(precise, size=tuple(size), mode=mode, align_corners=False)
    return fine.to(logits.dtype) if logits.requires_grad else fine


def mean_probability_logits(
    logits: Sequence[Float[Tensor, "batch classes *space"]], *, has_regions: bool
) -> Float[Tensor, "batch classes *space"]:
    """Logits whose softmax (regions: sigmoid) is the mean probability of the given heads.

    ``ln (1/M sum_m softmax(z_m))``; regions: ``logit (1/M sum_m sigmoid(z_m))``, computed from
    ``ln mean p - ln mean (1 - p)`` so that no probability is rounded to 0 or 1. One head is
    returned as it is, so that a model with one head keeps nnU-Net's very numbers.

    Args:
        logits: one tensor a head, all of the same size.
        has_regions: whether channels are overlapping regions.

    Returns:
        float32 where several heads are averaged.
    """
    if len(logits) == 1:
        return logits[0]
    stacked = torch.stack(list(logits)).float()
    if not has_regions:
        return _log_mean_exp(torch.log_softmax(stacked, dim=2))
    return _log_mean_exp(F.logsigmoid(stacked)) - _log_mean_exp(F.logsigmoid(-stacked))


def _log_mean_exp(values: Float[Tensor, "members *rest"]) -> Float[Tensor, "*rest"]:
    return torch.logsumexp(values, dim=0) - math.log(values.shape[0])


def scale_gradient(features: Float[Tensor, "*shape"], share: float) -> Float[Tensor, "*shape"]:
    """The very same values with only a share of the gradient passing back: 0 none, 1 all."""
    if share == 1:
        return features
    if share == 0:
        return features.detach()
    return _scaled(features, share)  # type: ignore[no-any-return]


@torch.compiler.allow_in_graph  # type: ignore[untyped-decorator]
def _scaled(features: Tensor, share: float) -> Tensor:
    """Compiled as one operation: torch 2.5 cannot split a graph with others in it for DDP."""
    return _ScaledGradient.apply(features, share)  # type: ignore[no-any-return]


class _ScaledGradient(torch.autograd.Function):
    """Identity forward, a multiple of the gradient backward."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, share: float) -> Tensor:
        ctx.share = share
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.share, None
