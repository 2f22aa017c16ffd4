"""The members of a prediction: what the passes over one tile give, and which of them are kept.

A head is its logits averaged over all mirror passes; a mirror pass is the fused heads of that pass. Families therefore add
up (heads + mirrors volumes), they do not multiply.
"""

import itertools
import logging
from collections.abc import Sequence
import torch
from jaxtyping import Float
from torch import Tensor

from nnunetv2_le.errors import SettingError
from nnunetv2_le.network.head_sources import HeadSource
from nnunetv2_le.network.logits import mean_probability_logits, upsample
from nnunetv2_le.types import FAMILIES, Family, MemberPlan

logger = logging.getLogger(__name__)


def mirror_passes(axes: Sequence[int] | None) -> list[tuple[int, ...]]:
    """The mirrored axes of each pass, in nnU-Net's order: none, each axis, each pair, all."""
    axes = axes or ()
    return [
        combination
        for number in range(len(axes) + 1)
        for combination in itertools.combinations(axes, number)
    ]


def plan_members(
    source: HeadSource, *, families: Sequence[str], mirror_axes: Sequence[int] | None
) -> MemberPlan:
    """Decide which members a run keeps.

    Args:
        source: the heads of the network.
        families: names of the families that were asked for, in order.
        mirror_axes: axes that the run mirrors, None for a run without mirroring.

    Raises:
        SettingError: a family is unknown, or none of the families exists for this network and run.
    """
    available = {}
    if len(source.head_names) > 1:
        available["heads"] = Family("heads", source.head_names, ordered=True)
    if mirror_axes:
        names = ("+".join(map(str, axes)) or "none" for axes in mirror_passes(mirror_axes))
        available["mirrors"] = Family("mirrors", tuple(f"mirror_{name}" for name in names))
    if unknown := [name for name in families if name not in FAMILIES]:
        raise SettingError(
            f"-members takes {' '.join(FAMILIES)}; got {' '.join(unknown)}. Leave out what is not listed."
        )
    chosen = [available[name] for name in dict.fromkeys(families) if name in available]
    for name in families:
        if name not in available:
            logger.info("No %s in this run: %s.", name, _WHY_MISSING[name])
    if not chosen:
        reasons = "; ".join(f"no {name}: {_WHY_MISSING[name]}" for name in families)
        raise SettingError(
            f"Uncertainty needs at least two members, but this run has none ({reasons}). Use a checkpoint with several "
            f"heads (nnUNetv2_le_train), or leave mirroring on (no --disable_tta)."
        )
    return _with_fused(source, chosen)


_WHY_MISSING = {
    "heads": "the network has one head",
    "mirrors": "mirroring is switched off, or the model was trained without it",
}


def _with_fused(source: HeadSource, families: list[Family]) -> MemberPlan:
    """The plan, with the last heads fused; as extra members where the heads are no family of the run."""
    names = [member for family in families for member in family.members]
    to_fuse = source.head_names[-source.num_fused_heads :]
    if any(family.name == "heads" for family in families):
        return MemberPlan(tuple(families), fused=tuple(names.index(name) for name in to_fuse))
    return MemberPlan(
        tuple(families), fused=tuple(range(len(names), len(names) + len(to_fuse))), extra=to_fuse
    )


class TilePredictor:
    """All members of one tile, from one forward pass a mirroring.

    Heads are averaged over mirror passes at their own layer's resolution and upsampled once: linear upsampling and flips
    commute, so the result is the same and eight times cheaper.

    Args:
        source: the heads, on the device of the tiles.
        plan: which members are wanted.
        mirror_axes: spatial axes to mirror, None or empty for one pass.
        has_regions: whether channels are overlapping regions.
    """

    def __init__(
        self,
        source: HeadSource,
        plan: MemberPlan,
        *,
        mirror_axes: Sequence[int] | None,
        has_regions: bool,
    ) -> None:
        self.source = source
        self.passes = mirror_passes(mirror_axes)
        self.has_regions = has_regions
        self.keep_mirrors = any(family.name == "mirrors" for family in plan.families)
        self.order = [family.name for family in plan.families] + (["extra"] if plan.extra else [])
        self.heads = {
            "heads": list(range(len(source.head_names))),
            "extra": [source.head_names.index(name) for name in plan.extra],
        }
        self.fused_heads = list(range(len(source.head_names)))[-source.num_fused_heads :]

    def __call__(
        self, tile: Float[Tensor, "1 channels *space"]
    ) -> Float[Tensor, "members classes *space"]:
        """Logits of all members, in the order of the plan."""
        size = tile.shape[2:]
        sums: list[Tensor] = []
        mirrors: list[Tensor] = []
        for axes in self.passes:
            dims = [axis + 2 for axis in axes]
            heads = self.source(torch.flip(tile, dims) if dims else tile)
            heads = [torch.flip(logits, dims) for logits in heads] if dims else heads
            if self.keep_mirrors:
                mirrors.append(self._fuse(heads, size))
            # the first pass is kept as a copy: a single fused head is a mirror member as it is
            sums = [a + b for a, b in zip(sums, heads, strict=True)] if sums else heads
        means = [logits / len(self.passes) for logits in sums] if len(self.passes) > 1 else sums
        parts = {
            "heads": lambda: [upsample(means[number], size) for number in self.heads["heads"]],
            "extra": lambda: [upsample(means[number], size) for number in self.heads["extra"]],
            "mirrors": lambda: mirrors,
        }
        return torch.cat([logits for name in self.order for logits in parts[name]()])

    def _fuse(self, heads: list[Tensor], size: Sequence[int]) -> Tensor:
        full = [upsample(heads[number], size) for number in self.fused_heads]
        return mean_probability_logits(full, has_regions=self.has_regions)
