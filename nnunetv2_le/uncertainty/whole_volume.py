"""Fusion rules that need every voxel of the members: STAPLE, and the member that is surest.

Decisions of all members are kept until the last voxel came, for ``lowest_uncertainty`` the logits
of the members among which is chosen as well.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from nnunetv2_le.types import Choice, Fusion, Labels, MemberPlan
from nnunetv2_le.uncertainty.decisions import decide, label_masks, room_for_decisions
from nnunetv2_le.uncertainty.fusion import staple_logits
from nnunetv2_le.uncertainty.selection import choose_member, entropy_boundary_ratio


class WholeVolumeFusion:
    """What the rules keep of the members, and what they make of it.

    Args:
        plan: which members come, and which of them are fused.
        labels: what channels mean.
        shape: the grid.
        rule: ``staple`` or ``lowest_uncertainty``.

    Attributes:
        decisions: of every member at every voxel.
        choice: which member was taken, once ``fused_logits`` was asked for; None with ``staple``.
    """

    def __init__(
        self, plan: MemberPlan, labels: Labels, shape: tuple[int, int, int], *, rule: Fusion
    ) -> None:
        self._plan, self._labels, self._shape = plan, labels, shape
        voxels = shape[0] * shape[1] * shape[2]
        self.decisions = room_for_decisions(labels, plan.num_members, voxels)
        self.choice: Choice | None = None
        chosen_from = plan.fused if rule == "lowest_uncertainty" else ()
        self._candidates = torch.empty(
            (len(chosen_from), labels.num_channels, voxels), dtype=torch.float16
        )

    def add(
        self,
        where: slice,
        raw: Float[Tensor, "members channels voxels"],
        logits: Float[Tensor, "members channels voxels"],
    ) -> None:
        """Take in voxels.

        Args:
            where: their numbers on the grid.
            raw: logits as they came.
            logits: the same in single precision.
        """
        decisions = decide(logits, has_regions=self._labels.has_regions)
        self.decisions[..., where].copy_(decisions)
        for candidate, number in zip(self._candidates, self._plan.fused, strict=False):
            candidate[:, where].copy_(raw[number])

    def fused_logits(self) -> Float[Tensor, "channels voxels"]:
        """Logits of the fused prediction."""
        return self._surest() if len(self._candidates) else self._staple()

    def _staple(self) -> Tensor:
        num_labels = len(self._labels.names)
        masks = torch.stack(
            [label_masks(self.decisions[n], num_labels=num_labels) for n in self._plan.fused]
        )
        shaped = masks.numpy().reshape(*masks.shape[:2], *self._shape)
        logits = staple_logits(shaped, has_regions=self._labels.has_regions)
        return torch.from_numpy(logits).flatten(1)

    def _surest(self) -> Tensor:
        """Logits of the member with the lowest uncertainty; it is noted."""
        has_regions = self._labels.has_regions
        ratios = [
            entropy_boundary_ratio(logits, self._shape, has_regions=has_regions)
            for logits in self._candidates
        ]
        families, first = self._plan.families, self._plan.fused[0]
        family = next(family for family in families if first in self._plan.numbers(family))
        self.choice = choose_member(family, ratios)
        return self._candidates[self.choice.number]
