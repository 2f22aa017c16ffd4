"""The member with the lowest uncertainty is taken."""

import math

import numpy as np
import pytest
import torch

from nnunetv2_le.types import Family, Labels, MemberPlan
from nnunetv2_le.uncertainty.accumulator import Accumulator
from nnunetv2_le.uncertainty.scores import score_case
from nnunetv2_le.uncertainty.selection import choose_member, entropy_boundary_ratio

FOLDS = Family("folds", ("fold_0", "fold_1", "fold_2"))
SHAPE = (6, 7, 8)
LABELS = {
    False: Labels(("front", "back"), (1, 2)),
    True: Labels(("whole", "core"), ((1, 2), (2,)), has_regions=True, region_values=(1, 2)),
}


def logits(members: int, has_regions: bool, seed: int = 0) -> torch.Tensor:
    channels = LABELS[has_regions].num_channels
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn((members, channels, *SHAPE), generator=generator).half()


@pytest.mark.parametrize(
    ("ratios", "member"),
    [
        ([3.0, 2.0, 4.0], "fold_1"),
        ([2.0, 2.0, 2.0], "fold_0"),
        ([math.nan, 5.0, 4.0], "fold_2"),
        ([math.nan, math.nan, math.nan], "fold_0"),
    ],
)
def test_the_lowest_ratio_is_taken_and_a_member_without_boundary_last(
    ratios: list[float], member: str
):
    choice = choose_member(FOLDS, ratios)
    assert (choice.family, choice.member) == ("folds", member)
    assert FOLDS.members[choice.number] == member


def test_one_voxel_of_foreground_has_26_neighbours():
    values = torch.zeros((2, 5, 5, 5))
    values[1] = -20.0
    values[1, 2, 2, 2] = 0.0  # a tie: ln 2 of entropy, and the lower class, the background
    values[1, 1, 1, 1] = 20.0
    ratio = entropy_boundary_ratio(values.flatten(1), (5, 5, 5), has_regions=False)
    assert ratio == pytest.approx(100 * math.log(2) / 26, rel=1e-4)


@pytest.mark.parametrize("has_regions", [False, True])
def test_the_case_is_scored_as_if_the_surest_member_alone_were_fused(has_regions: bool):
    labels, members = LABELS[has_regions], logits(3, has_regions)
    members[1] *= 4  # far from ties
    plan = MemberPlan((FOLDS,), fused=(0, 1, 2))
    chosen = accumulate(plan, labels, members, "lowest_uncertainty")
    alone = accumulate(MemberPlan((FOLDS,), fused=(1,)), labels, members, "mean")
    assert chosen.choice is not None
    assert chosen.choice.member == "fold_1"
    np.testing.assert_array_equal(chosen.fused_logits, alone.fused_logits)
    np.testing.assert_array_equal(chosen.decisions, alone.decisions)
    np.testing.assert_array_equal(chosen.counts.with_fused, alone.counts.with_fused)
    for name, values in alone.maps.items():
        np.testing.assert_array_equal(chosen.maps[name], values)
    scores = score_case("case", alone, plan=plan, labels=labels, voxel_volume_ml=1.0).scores
    ratio = chosen.choice.entropy_boundary_ratio["fold_1"]
    assert ratio == scores["entropy_boundary_ratio"]


def test_slabs_change_nothing():
    members = logits(3, False)
    plan = MemberPlan((FOLDS,), fused=(0, 1, 2))
    whole = accumulate(plan, LABELS[False], members, "lowest_uncertainty")
    cut = accumulate(plan, LABELS[False], members, "lowest_uncertainty", rows=2)
    assert whole.choice == cut.choice
    np.testing.assert_array_equal(whole.fused_logits, cut.fused_logits)


def accumulate(plan, labels, members, fusion, *, rows: int = SHAPE[0]):
    accumulator = Accumulator(plan, labels, SHAPE, fusion=fusion)
    for start in range(0, SHAPE[0], rows):
        accumulator.add(start, members[:, :, start : start + rows])
    return accumulator.result()
