"""Scores of a case: columns, means over labels, empty predictions, volumes."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from uncertainty.uncertainty_reference import (
    Members,
    make_members,
    naive_dice,
    naive_masks,
    random_members,
)

from nnunetv2_le.errors import SettingError
from nnunetv2_le.uncertainty.scores import case_columns, describe_columns, score_case


def _score(members: Members, **options):
    result = members.accumulate()
    scores = score_case(
        "case",
        result,
        plan=members.plan,
        labels=members.labels,
        voxel_volume_ml=0.002,
        **options,
    )
    return result, scores


def test_columns_are_those_of_the_design_in_its_order():
    columns = case_columns(make_members(0).plan)
    assert columns[:10] == (
        "aula",
        "aula_normalized",
        "consensus_dice",
        "soft_dice",
        "heads_pairwise_dice",
        "heads_consensus_dice",
        "heads_soft_dice",
        "mirrors_pairwise_dice",
        "mirrors_consensus_dice",
        "mirrors_soft_dice",
    )
    assert columns[10] == "entropy_foreground_mean"
    assert columns[-2:] == ("volume_ml", "volume_std_ml")
    assert "mirrors_variance_boundary_ratio" in columns
    assert len(columns) == len(set(columns)) == 10 + 5 * 6 + 2


def test_maps_on_demand_have_columns_where_they_were_asked_for():
    members, maps = make_members(0), ("mirrors_ttest", "heads_total_entropy", "heads_variance")
    scores = score_case(
        "case",
        members.accumulate(maps=maps),
        plan=members.plan,
        labels=members.labels,
        voxel_volume_ml=0.002,
    )
    columns = case_columns(members.plan, maps)
    assert tuple(scores.scores) == columns
    added = set(columns) - set(case_columns(members.plan))
    assert {name.partition("_")[0] for name in added} == {"heads", "mirrors"}
    assert len(added) == 2 * 6


@settings(max_examples=25)
@given(options=random_members())
def test_every_column_is_there_once_in_order(options: dict):
    members = make_members(**options)
    _, scores = _score(members)
    columns = case_columns(members.plan)
    assert tuple(scores.scores) == columns == tuple(describe_columns(members.plan))
    assert tuple(scores.per_label) == members.labels.names
    assert {tuple(row) for row in scores.per_label.values()} == {columns}
    assert scores.num_members == members.plan.num_family_members


@settings(max_examples=25)
@given(options=random_members())
def test_agreement_of_a_case_is_the_mean_over_labels(options: dict):
    members = make_members(**options)
    result, scores = _score(members)
    masks = naive_masks(members.logits.numpy(), members.labels.has_regions)
    masks = masks[: members.plan.num_family_members]
    if not (masks.any() or result.fused_masks.any()):
        assert scores.empty_prediction
        return
    consensus = [
        np.mean([naive_dice(mask, fused) for mask in masks[:, label]])
        for label, fused in enumerate(result.fused_masks)
    ]
    assert scores.scores["consensus_dice"] == pytest.approx(np.mean(consensus))
    rows = scores.per_label.values()
    assert [row["consensus_dice"] for row in rows] == pytest.approx(consensus)
    for name in ("aula", "aula_normalized", "heads_pairwise_dice"):
        mean = np.mean([row[name] for row in rows])
        assert scores.scores[name] == pytest.approx(mean, nan_ok=True)


def test_aula_is_the_area_of_the_reported_curve():
    _, scores = _score(make_members(1, sizes=(6, 2)))
    curve = np.array(scores.layer_agreement)
    assert len(curve) == 5
    area = ((curve[1:] + curve[:-1]) / 2).sum()
    assert scores.scores["aula"] == pytest.approx(area)
    assert scores.scores["aula_normalized"] == pytest.approx(area / 4)


def test_skipped_heads_shorten_the_curve():
    members = make_members(1, sizes=(6, 2))
    _, whole = _score(members)
    _, skipped = _score(members, skip_heads=2)
    assert skipped.layer_agreement == pytest.approx(whole.layer_agreement[2:])
    assert skipped.scores["heads_pairwise_dice"] == whole.scores["heads_pairwise_dice"]
    with pytest.raises(SettingError, match="skip 0 to 4 of 6 heads"):
        _score(members, skip_heads=5)


def test_one_head_has_no_layer_agreement():
    _, scores = _score(make_members(2, sizes=(1, 3), fused=(0,)))
    assert scores.layer_agreement == ()
    assert math.isnan(scores.scores["aula"])
    assert math.isnan(scores.scores["aula_normalized"])
    assert scores.scores["mirrors_pairwise_dice"] <= 1


def test_a_prediction_of_nothing_has_no_agreement():
    members = make_members(3)
    members.logits[:, 0] = 100.0
    _, scores = _score(members)
    assert scores.empty_prediction
    assert scores.components == ()
    for row in (scores.scores, *scores.per_label.values()):
        agreements = [row[name] for name in row if "dice" in name or "aula" in name]
        assert np.isnan(agreements).all()
        assert row["volume_ml"] == row["volume_std_ml"] == 0
        assert math.isnan(row["entropy_foreground_mean"])
        assert row["entropy_image_mean"] >= 0


def test_heads_that_find_nothing_do_not_agree_because_a_mirror_pass_finds_something():
    members = make_members(3, sizes=(3, 2))
    members.logits[:, 0] = 100.0
    members.logits[4, 1, 0, 0, :2] = 200.0
    _, scores = _score(members)
    assert not scores.empty_prediction
    assert np.isnan(scores.layer_agreement).all()
    for row in (scores.scores, *scores.per_label.values()):
        for name in ("aula", "aula_normalized", "heads_pairwise_dice", "heads_consensus_dice"):
            assert math.isnan(row[name]), name
    assert scores.scores["mirrors_pairwise_dice"] == 0.5  # one of the two labels is found by one


def test_layer_agreement_of_heads_that_are_left_is_undefined_where_these_find_nothing():
    members = make_members(3, sizes=(4,))
    members.logits[1:, 0] = 100.0
    assert math.isfinite(_score(members)[1].scores["aula"])
    _, skipped = _score(members, skip_heads=1)
    assert not skipped.empty_prediction
    assert math.isnan(skipped.scores["aula"])
    assert np.isnan(skipped.layer_agreement).all()


def test_a_label_that_nobody_finds_counts_as_agreement():
    members = make_members(4)
    members.logits[:, 1] = -100.0
    _, scores = _score(members)
    assert not scores.empty_prediction
    other = scores.per_label["label_2"]["consensus_dice"]
    assert scores.scores["consensus_dice"] == pytest.approx((1 + other) / 2)
    other = scores.per_label["label_2"]["aula"]
    perfect = len(scores.layer_agreement) - 1
    assert scores.scores["aula"] == pytest.approx((perfect + other) / 2)


def test_agreement_of_a_label_that_nobody_finds_is_undefined_in_its_own_row():
    members = make_members(4)
    members.logits[:, 1] = -100.0
    _, scores = _score(members)
    agreements = [
        name
        for name in scores.scores
        if name.startswith("aula") or name.endswith(("consensus_dice", "pairwise_dice"))
    ]
    assert len(agreements) > 3
    for name in agreements:
        assert math.isnan(scores.per_label["label_1"][name])
        assert math.isfinite(scores.per_label["label_2"][name])
        assert math.isfinite(scores.scores[name])


@pytest.mark.parametrize("has_regions", [False, True])
def test_volumes_are_voxels_times_their_volume(has_regions):
    members = make_members(5, has_regions=has_regions)
    result, scores = _score(members)
    union = result.fused_masks.any(axis=0).sum()
    assert scores.scores["volume_ml"] == pytest.approx(0.002 * union)
    sizes = naive_masks(members.logits.numpy(), has_regions).sum(axis=(2, 3, 4)) * 0.002
    assert scores.scores["volume_std_ml"] == pytest.approx(sizes.sum(axis=1).std())
    label = scores.per_label["label_1"]
    assert label["volume_ml"] == pytest.approx(0.002 * result.fused_masks[0].sum())
    assert label["volume_std_ml"] == pytest.approx(sizes[:, 0].std())


def test_maps_are_aggregated_over_the_union_and_over_each_label():
    result, scores = _score(make_members(6))
    entropy = result.maps["entropy"].astype(np.float64)
    union = result.fused_masks.any(axis=0)
    case = scores.scores
    assert case["entropy_foreground_mean"] == pytest.approx(entropy[union].mean())
    for number, row in enumerate(scores.per_label.values()):
        mask = result.fused_masks[number]
        assert row["entropy_foreground_mean"] == pytest.approx(entropy[mask].mean())
        assert row["entropy_image_mean"] == case["entropy_image_mean"]


def test_every_description_says_its_direction():
    described = describe_columns(make_members(0).plan)
    for name, column in described.items():
        if "dice" in name or "aula" in name:
            assert column.direction == "higher_is_better"
        else:
            assert column.direction == ("none" if name == "volume_ml" else "higher_is_worse")
        assert column.unit
        assert column.description


def test_a_member_that_finds_what_is_fused_away_disagrees_with_the_fused_segmentation():
    members = make_members(3, sizes=(3,), fused=(0, 1, 2))
    members.logits[:, 0] = 100.0
    members.logits[0, 1, 0, 0, :2] = 101.0
    result, scores = _score(members)
    assert not result.fused_masks.any()
    assert not scores.empty_prediction
    assert scores.per_label["label_1"]["consensus_dice"] == pytest.approx(2 / 3)
    assert math.isnan(scores.per_label["label_2"]["consensus_dice"])
    assert scores.scores["consensus_dice"] == pytest.approx((2 / 3 + 1) / 2)
