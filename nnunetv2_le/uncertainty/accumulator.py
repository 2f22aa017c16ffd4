"""One pass over the final logits of all members: every score follows from what remains.

The grid is the network's own (spacing of the plans), where all voxels are equal. Logits come slab
by slab along its first axis; a slab is worked off in pieces of bounded size on the device where it
lies (one on an Apple GPU on the CPU), and only what the grid keeps is moved to the CPU. The result
does not depend on how the grid was cut into slabs or pieces, to the last bit.
"""

import math
from collections.abc import Collection, Sequence
from typing import get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nnunetv2_le.errors import SettingError
from nnunetv2_le.types import (
    FUSED,
    Accumulated,
    Fusion,
    Labels,
    MemberPlan,
    OverlapCounts,
)
from nnunetv2_le.uncertainty.decisions import (
    agreement,
    count_overlaps,
    decide,
    room_for_decisions,
)
from nnunetv2_le.uncertainty.fusion import (
    WHOLE_VOLUME_RULES,
    FusedVoxels,
    fuse,
)
from nnunetv2_le.uncertainty.map_names import map_names
from nnunetv2_le.uncertainty.probabilities import mean_over, probabilities
from nnunetv2_le.uncertainty.slabs import SlabOrder
from nnunetv2_le.uncertainty.soft_dice import soft_sums
from nnunetv2_le.uncertainty.t_test import inseparable_classes_p_value
from nnunetv2_le.uncertainty.voxel_maps import (
    entropy_nats,
    mutual_information_nats,
    total_entropy_nats,
    variance,
)
from nnunetv2_le.uncertainty.whole_volume import WholeVolumeFusion

# Members x channels x voxels of one piece, which bounds each temporary: 4 MB of float32 on the CPU
# (where smaller and larger pieces were no faster), 256 MB on a GPU (few launches).
_PIECE_ELEMENTS_CPU = 2**20
_PIECE_ELEMENTS_GPU = 2**26


class Accumulator:
    """Fused prediction, voxel maps and overlap counts of one case.

    Args:
        plan: which members come, and which of them are fused.
        labels: what channels mean.
        shape: the network's grid (depth, height, width); two-dimensional images have depth 1 per
            slice.
        fusion: how the fused members become one prediction: ``mean`` probability; ``majority`` of
            their votes (a tie goes to the class with the higher mean probability); ``staple`` over
            the whole volume, which keeps every member's decisions until the end; ``last`` fused
            member alone; ``nnunet``, the mean of logits, as nnU-Net averages folds;
            ``lowest_uncertainty``, the one of a family's members that is surest of its boundary,
            which keeps the logits of these members until the end.
        keep_members: numbers of the members whose float16 logits are kept.
        maps: names of voxel maps that are wanted; needed for those alone that are made on demand
            (``<family>_entropy``, ``<family>_ttest``, ``<family>_total_entropy``).

    Raises:
        SettingError: the plan fuses no member or one that it does not have, or the grid is empty.
    """

    def __init__(
        self,
        plan: MemberPlan,
        labels: Labels,
        shape: tuple[int, int, int],
        *,
        fusion: Fusion = "mean",
        keep_members: Sequence[int] = (),
        maps: Collection[str] = (),
    ) -> None:
        _check(plan, shape, fusion)
        self._plan, self._labels, self._fusion = plan, labels, fusion
        self._shape = shape
        self._order = SlabOrder(
            shape, num_members=plan.num_members, num_channels=labels.num_channels
        )
        self._fused = list(plan.fused[-1:] if fusion == "last" else plan.fused)
        numbers = plan.num_family_members + 1  # and the fused prediction
        self._counts = torch.zeros((len(labels.names), numbers, numbers), dtype=torch.int64)
        self._soft_sums: dict[str, np.ndarray] = {}
        channels, voxels = labels.num_channels, math.prod(shape)
        self._logits = torch.empty((channels, voxels), dtype=torch.float16)
        self._decided = room_for_decisions(labels, 1, voxels)[0]
        self._maps = {name: torch.empty(voxels) for name in map_names(plan.families, maps)}
        self._member_logits = {
            number: torch.empty((channels, voxels), dtype=torch.float16) for number in keep_members
        }
        self._whole = (
            WholeVolumeFusion(plan, labels, shape, rule=fusion)
            if fusion in WHOLE_VOLUME_RULES
            else None
        )

    @torch.inference_mode()
    def add(
        self,
        start: int,
        logits: Float[Tensor, "members channels depth height width"],
        *,
        column: int = 0,
    ) -> None:
        """Take in the next slab.

        Args:
            start: its first row along the grid's first axis; slabs come in order and do not
                overlap.
            column: its first row along the second axis. Slabs that do not span this axis fill it
                band by band: all rows of a band, then the band that follows.
            logits: final logits of all members in the order of the plan, float16 or float32, on any
                device. Rows that are not one block of memory for each member and channel are copied
                once.

        Raises:
            CaseError: the slab does not follow the one before, or has the wrong shape.
        """
        self._order.require_next(start, column, logits)
        if logits.device.type == "mps":  # has no float64, and adds nothing to int64
            logits = logits.cpu()
        _, height, width = self._shape
        spans = logits.shape[3] == height
        blocks = [logits] if spans else list(torch.split(logits, 1, dim=2))
        for number, block in enumerate(blocks):
            self._add_block(((start + number) * height + column) * width, block.flatten(2))
        self._order.came(start, column, logits)

    @torch.inference_mode()
    def result(self) -> Accumulated:
        """What is left of the members.

        Raises:
            CaseError: slabs did not cover the grid.
        """
        self._order.require_complete()
        if self._whole is not None:
            self._finish(self._whole)
        counts = self._counts.cpu().numpy()
        members = {
            number: logits.numpy().reshape(-1, *self._shape)
            for number, logits in self._member_logits.items()
        }
        return Accumulated(
            fused_logits=self._logits.numpy().reshape(-1, *self._shape),
            decisions=self._decided.reshape(*self._decided.shape[:-1], *self._shape).numpy(),
            maps={name: values.view(self._shape).numpy() for name, values in self._maps.items()},
            counts=OverlapCounts(
                pairs=np.ascontiguousarray(counts[:, :-1, :-1]),
                with_fused=np.ascontiguousarray(counts[:, :-1, -1]),
                fused=np.ascontiguousarray(counts[:, -1, -1]),
            ),
            soft_sums=self._soft_sums,
            member_logits=members or None,
            choice=None if self._whole is None else self._whole.choice,
        )

    def _add_block(self, offset: int, rows: Float[Tensor, "members channels voxels"]) -> None:
        """Take in voxels that follow each other on the grid."""
        budget = _PIECE_ELEMENTS_CPU if rows.device.type == "cpu" else _PIECE_ELEMENTS_GPU
        step = max(1, budget // (rows.shape[0] * rows.shape[1]))
        for first in range(0, rows.shape[2], step):
            piece = rows[:, :, first : first + step]
            begin = offset + first
            self._add_piece(slice(begin, begin + piece.shape[2]), piece)

    def _add_piece(self, where: slice, raw: Float[Tensor, "members channels voxels"]) -> None:
        has_regions = self._labels.has_regions
        logits = raw.to(torch.float32)
        probability = probabilities(logits, has_regions=has_regions)
        for family in self._plan.families:
            numbers = self._plan.numbers(family)
            members = probability[numbers.start : numbers.stop]
            self._keep(
                f"{family.name}_mutual_information",
                where,
                mutual_information_nats(members, has_regions=has_regions),
            )
            self._keep(f"{family.name}_variance", where, variance(members))
            self._keep_on_demand(family.name, where, members)
        for number, kept in self._member_logits.items():
            kept[:, where].copy_(raw[number])
        if self._whole is not None:
            self._whole.add(where, raw, logits)
            return
        fused = fuse(
            _pick(logits, self._fused),
            _pick(probability, self._fused),
            rule=self._fusion,
            has_regions=has_regions,
        )
        family_logits = logits[: self._plan.num_family_members]
        self._compare(where, decide(family_logits, has_regions=has_regions), fused)
        for family in self._plan.families:
            numbers = self._plan.numbers(family)
            members = probability[numbers.start : numbers.stop]
            self._add_soft_sums(family.name, mean_over(members, 0), fused)

    def _compare(self, where: slice, decisions: Tensor, fused: FusedVoxels) -> None:
        """Keep the fused prediction, and how the family members' decisions compare with it."""
        self._add_soft_sums(FUSED, fused.probability, fused)
        num_labels = len(self._labels.names)
        self._logits[:, where].copy_(fused.logits)
        self._decided[..., where].copy_(fused.decisions)
        entropy = entropy_nats(fused.probability, has_regions=self._labels.has_regions)
        self._keep("entropy", where, entropy)
        for family in self._plan.families:
            numbers = self._plan.numbers(family)
            share = agreement(decisions[numbers.start : numbers.stop], fused.decisions)
            self._keep(f"{family.name}_agreement", where, share)
        everyone = torch.cat((decisions, fused.decisions[None]))
        self._counts += count_overlaps(everyone, num_labels=num_labels).cpu()

    def _add_soft_sums(
        self, name: str, probability: Float[Tensor, "channels voxels"], fused: FusedVoxels
    ) -> None:
        has_regions = self._labels.has_regions
        sums = soft_sums(probability, fused.decisions, has_regions=has_regions).cpu().numpy()
        self._soft_sums[name] = self._soft_sums.get(name, 0) + sums

    def _keep_on_demand(
        self, family: str, where: slice, members: Float[Tensor, "members channels voxels"]
    ) -> None:
        has_regions = self._labels.has_regions
        if (name := f"{family}_entropy") in self._maps:
            self._keep(name, where, entropy_nats(mean_over(members, 0), has_regions=has_regions))
        if (name := f"{family}_ttest") in self._maps:
            self._keep(name, where, inseparable_classes_p_value(members, has_regions=has_regions))
        if (name := f"{family}_total_entropy") in self._maps:
            self._keep(name, where, total_entropy_nats(members, has_regions=has_regions))

    def _keep(self, name: str, where: slice, values: Float[Tensor, "voxels"]) -> None:
        self._maps[name][where].copy_(values)

    def _finish(self, whole: WholeVolumeFusion) -> None:
        """Fuse whole volumes, and compare the members' decisions with what comes out."""
        has_regions = self._labels.has_regions
        whole.fuse_into(self._logits)
        fused, decisions = self._logits, whole.decisions
        family = decisions[: self._plan.num_family_members]
        step = max(1, _PIECE_ELEMENTS_CPU // (len(decisions) * self._labels.num_channels))
        for first in range(0, fused.shape[1], step):
            where = slice(first, min(first + step, fused.shape[1]))
            logits = fused[None, :, where].float()
            voxels = FusedVoxels(
                logits[0],
                probabilities(logits, has_regions=has_regions)[0],
                decide(logits, has_regions=has_regions)[0],
            )
            self._compare(where, family[..., where], voxels)


def _check(plan: MemberPlan, shape: tuple[int, int, int], fusion: str) -> None:
    if fusion not in get_args(Fusion):
        raise SettingError(
            f"expected fusion {', '.join(get_args(Fusion))}, got {fusion!r}; choose one of these"
        )
    if not plan.fused or not all(0 <= number < plan.num_members for number in plan.fused):
        raise SettingError(
            f"expected fused members numbered 0 to {plan.num_members - 1}, got {plan.fused!r}; "
            "name at least one member of the plan"
        )
    if min(shape) < 1:
        raise SettingError(f"expected a grid of at least one voxel, got {shape!r}")


def _pick(values: Tensor, numbers: list[int]) -> Tensor:
    """The members with these numbers; without a copy where they follow each other."""
    if numbers == list(range(numbers[0], numbers[0] + len(numbers))):
        return values[numbers[0] : numbers[0] + len(numbers)]
    return values[numbers]
