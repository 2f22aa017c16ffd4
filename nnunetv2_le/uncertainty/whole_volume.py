"""Fusion rules that need every voxel of the members: STAPLE, and the member that is surest.

Decisions of all members are kept until the last voxel came, for ``lowest_uncertainty`` the logits
of the members among which is chosen as well.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from nnunetv2_le.types import Choice, Fusion, Labels, MemberPlan
from nnunetv2_le.uncertainty.decisions import decide, label_mask, room_for_decisions
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
        choice: which member was taken, once ``fuse_into`` was called; None with ``staple``.
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

    def fuse_into(self, logits: Float[Tensor, "channels voxels"]) -> None:
        """Write the logits of the fused prediction.

        Args:
            logits: where to, float16. What they say after rounding is the decision: where STAPLE
                gives 1/2 but for an error of its own rounding, that is 0, the background.
        """
        if len(self._candidates):
            logits.copy_(self._surest())
        else:
            self._staple(logits)

    def _staple(self, logits: Tensor) -> None:
        """Label by label: one mask of each fused member at a time."""
        offset = 0 if self._labels.has_regions else 1
        logits[:offset] = 0
        for label, row in enumerate(logits[offset:]):
            masks = [label_mask(self.decisions[n], label) for n in self._plan.fused]
            shaped = torch.stack(masks).view(-1, *self._shape).numpy()
            row.copy_(torch.from_numpy(staple_logits(shaped)).flatten())

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
