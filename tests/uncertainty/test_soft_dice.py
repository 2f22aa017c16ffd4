"""Soft Dice: what a probability expects of the Dice of its own decisions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from uncertainty.uncertainty_reference import make_members

from nnunetv2_le.types import FUSED
from nnunetv2_le.uncertainty.scores import score_case
from nnunetv2_le.uncertainty.soft_dice import soft_dice, soft_sums


def figures(probability: torch.Tensor, decisions: torch.Tensor, *, regions: bool = False):
    sums = soft_sums(probability, decisions, has_regions=regions).numpy()
    masks = decisions if regions else decisions[None] == torch.arange(1, len(probability))[:, None]
    return soft_dice(sums, masks.sum(1).numpy())


def random_probability(seed: int, channels: int = 4, voxels: int = 300) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(3 * torch.randn(channels, voxels, generator=generator), dim=0)


@given(seed=st.integers(0, 1000))
def test_it_is_the_formula_in_double_precision(seed: int):
    probability = random_probability(seed)
    decisions = probability.argmax(0)
    expected = []
    for label in range(1, 4):
        p, s = probability[label].double().numpy(), (decisions == label).numpy()
        expected.append(2 * p[s].sum() / (p.sum() + s.sum()) if s.any() else np.nan)
    np.testing.assert_allclose(figures(probability, decisions), expected, atol=1e-6)


def test_certain_probabilities_expect_a_dice_of_one():
    decisions = torch.tensor([0, 1, 1, 2, 3])
    probability = torch.nn.functional.one_hot(decisions, 4).T.float()
    np.testing.assert_array_equal(figures(probability, decisions), [1.0, 1.0, 1.0])


def test_it_is_the_mean_dice_of_references_drawn_from_the_probability():
    """For independent voxels soft Dice approximates the expected Dice (its source's theorem)."""
    rng = np.random.default_rng(0)
    p = torch.from_numpy(rng.beta(0.5, 0.5, 4000)).float()
    probability = torch.stack((1 - p, p))
    decisions = (p > 0.5).long()
    mask = decisions.bool().numpy()
    drawn = rng.random((200, 4000)) < p.numpy()
    dice = 2 * (drawn & mask).sum(1) / (drawn.sum(1) + mask.sum())
    assert figures(probability, decisions)[0] == pytest.approx(dice.mean(), abs=2e-3)


def test_a_label_without_a_voxel_has_no_value():
    assert np.isnan(figures(random_probability(0, 2), torch.zeros(300, dtype=torch.long))).all()


def test_regions_are_judged_one_by_one():
    probability = torch.sigmoid(torch.randn(2, 50, generator=torch.Generator().manual_seed(0)))
    masks = probability > 0.5
    p, s = probability.double().numpy(), masks.numpy()
    expected = 2 * (p * s).sum(1) / (p.sum(1) + s.sum(1))
    np.testing.assert_allclose(figures(probability, masks, regions=True), expected, atol=1e-6)


@given(cut=st.integers(1, 299))
def test_parts_add_up_to_the_last_bit(cut: int):
    probability = random_probability(1)
    decisions = probability.argmax(0)
    whole = soft_sums(probability, decisions, has_regions=False)
    parts = [
        soft_sums(probability[:, part], decisions[part], has_regions=False)
        for part in (slice(0, cut), slice(cut, None))
    ]
    assert torch.equal(parts[0] + parts[1], whole)


@pytest.mark.parametrize("fusion", ["staple", "mean"])
def test_families_have_it_where_the_fusion_sees_their_probabilities(fusion: str):
    members = make_members(0)
    result = members.accumulate(fusion=fusion)
    families = {family.name for family in members.plan.families}
    assert set(result.soft_sums) == ({FUSED} if fusion == "staple" else {FUSED, *families})
    scores = score_case(
        "case", result, plan=members.plan, labels=members.labels, voxel_volume_ml=1.0
    ).scores
    for family in families:
        assert np.isnan(scores[f"{family}_soft_dice"]) == (fusion == "staple")
    assert 0 <= scores["soft_dice"] <= 1


def test_a_missed_label_does_not_give_a_family_what_its_fusion_does_not_know():
    members = make_members(0)
    result = members.accumulate(fusion="staple")
    missed = replace(result.counts, fused=np.array([0, result.counts.fused[1]]))
    row = score_case(
        "case",
        replace(result, counts=missed),
        plan=members.plan,
        labels=members.labels,
        voxel_volume_ml=1.0,
    )
    assert row.per_label["label_1"]["soft_dice"] == 0
    assert np.isnan(row.per_label["label_1"]["heads_soft_dice"])
    assert np.isnan(row.scores["heads_soft_dice"])
