"""Slow, plain float64 versions of what the package computes, and random members to compare on."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st

from nnunetv2_le.types import Accumulated, Family, Labels, MemberPlan
from nnunetv2_le.uncertainty.accumulator import Accumulator


@dataclass(frozen=True)
class Members:
    plan: MemberPlan
    labels: Labels
    logits: torch.Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        return tuple(self.logits.shape[2:])

    def accumulate(self, slabs: list[int] | None = None, **options) -> Accumulated:
        accumulator = Accumulator(self.plan, self.labels, self.shape, **options)
        start = 0
        for depth in slabs or [self.shape[0]]:
            accumulator.add(start, self.logits[:, :, start : start + depth])
            start += depth
        return accumulator.result()


def make_plan(sizes: list[int], fused: tuple[int, ...], extra: int = 0) -> MemberPlan:
    names = ("heads", "mirrors", "folds")
    families = tuple(
        Family(name, tuple(f"{name}_{i}" for i in range(size)), ordered=name == "heads")
        for name, size in zip(names, sizes, strict=False)
    )
    return MemberPlan(families, fused, tuple(f"extra_{i}" for i in range(extra)))


def make_labels(channels: int, *, has_regions: bool = False) -> Labels:
    number = channels if has_regions else channels - 1
    return Labels(
        tuple(f"label_{i}" for i in range(1, number + 1)), tuple(range(1, number + 1)), has_regions
    )


def make_members(
    seed: int,
    *,
    channels: int = 3,
    sizes: tuple[int, ...] = (3, 2),
    extra: int = 0,
    fused: tuple[int, ...] | None = None,
    shape: tuple[int, int, int] = (5, 4, 6),
    has_regions: bool = False,
    dtype: torch.dtype = torch.float16,
    scale: float = 3.0,
) -> Members:
    number = sum(sizes) + extra
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn((1, channels, *shape), generator=generator)
    own = torch.randn((number, channels, *shape), generator=generator)
    fused = fused or (max(0, sizes[0] - 2), sizes[0] - 1)
    return Members(
        make_plan(list(sizes), tuple(sorted(set(fused))), extra),
        make_labels(channels, has_regions=has_regions),
        (scale * (common + own)).to(dtype),
    )


@st.composite
def random_members(draw: st.DrawFn) -> dict[str, object]:
    """Options for make_members."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    extra = draw(st.integers(0, 2))
    numbers = st.integers(0, sum(sizes) + extra - 1)
    has_regions = draw(st.booleans())
    return {
        "seed": draw(st.integers(0, 2**31)),
        "channels": draw(st.integers(1 if has_regions else 2, 6)),
        "sizes": tuple(sizes),
        "extra": extra,
        "fused": tuple(draw(st.lists(numbers, min_size=1, unique=True))),
        "shape": draw(st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 7))),
        "has_regions": has_regions,
        "dtype": draw(st.sampled_from([torch.float16, torch.float32])),
    }


def softmax_or_sigmoid(logits: np.ndarray, has_regions: bool) -> np.ndarray:
    """Probabilities in float64, members first."""
    logits = logits.astype(np.float64)
    if has_regions:
        return 1 / (1 + np.exp(-logits))
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def naive_entropy(probability: np.ndarray, has_regions: bool) -> np.ndarray:
    """Voxel by voxel over flattened space; ``probability`` is ``channels *space``."""
    out = np.zeros(probability.shape[1:])
    for index in np.ndindex(out.shape):
        column = probability[(slice(None), *index)]
        if has_regions:
            terms = [q for p in column for q in (p, 1 - p)]
            out[index] = -sum(q * math.log(q) for q in terms if q > 0) / len(column)
        else:
            out[index] = -sum(p * math.log(p) for p in column if p > 0)
    return out


def naive_masks(logits: np.ndarray, has_regions: bool) -> np.ndarray:
    """Decisions of members as masks, ``members labels *space``."""
    if has_regions:
        return logits > 0
    labels = np.argmax(logits, axis=1)
    return np.stack([labels == c for c in range(1, logits.shape[1])], axis=1)


def naive_dice(a: np.ndarray, b: np.ndarray) -> float:
    total = int(a.sum()) + int(b.sum())
    return 1.0 if total == 0 else 2 * int((a & b).sum()) / total
