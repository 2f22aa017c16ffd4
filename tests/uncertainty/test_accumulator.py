"""The accumulator against plain loops over all members at once, and its independence of pieces."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from uncertainty.uncertainty_reference import (
    Members,
    make_labels,
    make_members,
    make_plan,
    naive_entropy,
    naive_masks,
    random_members,
    softmax_or_sigmoid,
)

from nnunetv2_le.errors import CaseError, SettingError
from nnunetv2_le.types import Family, MemberPlan
from nnunetv2_le.uncertainty import accumulator as module
from nnunetv2_le.uncertainty.accumulator import Accumulator

CLOSE = {"rtol": 2e-5, "atol": 2e-6}


def _softmax_of_fused(result, has_regions):
    return softmax_or_sigmoid(result.fused_logits[None], has_regions)[0]


def assert_identical(one, other):
    np.testing.assert_array_equal(one.fused_logits, other.fused_logits)
    np.testing.assert_array_equal(one.fused_masks, other.fused_masks)
    assert list(one.maps) == list(other.maps)
    for name in one.maps:
        np.testing.assert_array_equal(one.maps[name], other.maps[name], err_msg=name)
    for name in ("pairs", "with_fused", "fused"):
        np.testing.assert_array_equal(getattr(one.counts, name), getattr(other.counts, name))


@settings(max_examples=40)
@given(options=random_members())
def test_result_equals_loops_over_all_members(options: dict):
    members = make_members(**options)
    plan, has_regions = members.plan, members.labels.has_regions
    result = members.accumulate()
    logits = members.logits.numpy().astype(np.float64)
    p = softmax_or_sigmoid(logits, has_regions)
    fused = p[list(plan.fused)].mean(axis=0)
    np.testing.assert_allclose(_softmax_of_fused(result, has_regions), fused, atol=4e-3)
    np.testing.assert_allclose(result.maps["entropy"], naive_entropy(fused, has_regions), **CLOSE)
    masks = naive_masks(members.logits.numpy(), has_regions)
    for family in plan.families:
        own = p[plan.numbers(family)]
        expected = np.mean([naive_entropy(q, has_regions) for q in own], axis=0)
        information = naive_entropy(own.mean(axis=0), has_regions) - expected
        maps = {name: result.maps[f"{family.name}_{name}"] for name in ("variance", "agreement")}
        mine = result.maps[f"{family.name}_mutual_information"]
        np.testing.assert_allclose(mine, information, **CLOSE)
        np.testing.assert_allclose(maps["variance"], own.var(axis=0).mean(axis=0), **CLOSE)
        alike = masks[plan.numbers(family)] == result.fused_masks
        share = alike.mean(axis=(0, 1)) if has_regions else alike.all(axis=1).mean(axis=0)
        np.testing.assert_allclose(maps["agreement"], share, rtol=1e-6)
    masks = masks[: plan.num_family_members]
    flat = masks.reshape(*masks.shape[:2], -1).astype(int)
    pairs = np.einsum("ilv,jlv->lij", flat, flat)
    np.testing.assert_array_equal(result.counts.pairs, pairs)
    with_fused = (masks & result.fused_masks).sum(axis=(2, 3, 4)).T
    np.testing.assert_array_equal(result.counts.with_fused, with_fused)
    np.testing.assert_array_equal(result.counts.fused, result.fused_masks.sum(axis=(1, 2, 3)))


@given(options=random_members())
def test_fused_masks_are_decisions_of_the_mean_probability(options: dict):
    members = make_members(**options)
    has_regions = members.labels.has_regions
    result = members.accumulate()
    chosen = members.logits.numpy().astype(np.float64)[list(members.plan.fused)]
    mean = softmax_or_sigmoid(chosen, has_regions).mean(axis=0)
    best = np.sort(np.abs(mean - 0.5) if has_regions else mean, axis=0)
    gap = best[0] if has_regions else best[-1] - best[-2]
    sure = gap > 1e-6  # float32 may decide either way below
    expected = naive_masks(np.log(mean / (1 - mean) if has_regions else mean)[None], has_regions)
    np.testing.assert_array_equal(result.fused_masks[:, sure], expected[0][:, sure])


@settings(max_examples=30)
@given(
    options=random_members(), cuts=st.lists(st.integers(1, 4), max_size=4), piece=st.integers(1, 90)
)
def test_slabs_and_pieces_change_nothing(options: dict, cuts, piece):
    members = make_members(**options)
    slabs, left = [], members.shape[0]
    for cut in cuts:
        if cut < left:
            slabs.append(cut)
            left -= cut
    kept = range(members.plan.num_members)
    whole = members.accumulate(keep_members=kept)
    with pytest.MonkeyPatch.context() as patch:
        elements = piece * members.logits.shape[0] * members.logits.shape[1]
        patch.setattr(module, "_PIECE_ELEMENTS_CPU", elements)
        cut = members.accumulate([*slabs, left], keep_members=kept)
    assert_identical(whole, cut)
    for number in kept:
        np.testing.assert_array_equal(whole.member_logits[number], cut.member_logits[number])


@pytest.mark.parametrize("fusion", ["mean", "majority", "staple", "last"])
@pytest.mark.parametrize(("channels", "has_regions"), [(3, False), (20, False), (3, True)])
def test_every_fusion_is_the_same_in_slabs_of_any_size(fusion, channels, has_regions):
    members = make_members(
        0, channels=channels, shape=(7, 9, 11), has_regions=has_regions, fused=(0, 1, 2)
    )
    whole = members.accumulate(fusion=fusion)
    assert_identical(whole, members.accumulate([1, 4, 2], fusion=fusion))


@pytest.mark.parametrize("has_regions", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_one_fused_member_keeps_its_logits_bit_for_bit(has_regions, dtype):
    members = make_members(1, has_regions=has_regions, fused=(2,), dtype=dtype)
    result = members.accumulate()
    own = members.logits[2]
    np.testing.assert_array_equal(result.fused_logits, own.half().numpy())
    expected = naive_masks(own[None].numpy(), has_regions)[0]
    np.testing.assert_array_equal(result.fused_masks, expected)


def test_last_equals_the_last_fused_member_alone():
    three = make_members(2, fused=(0, 1, 2))
    one = Members(
        MemberPlan(three.plan.families, (2,), three.plan.extra), three.labels, three.logits
    )
    assert_identical(three.accumulate(fusion="last"), one.accumulate())


@pytest.mark.parametrize("has_regions", [False, True])
def test_order_of_members_within_a_family_does_not_matter(has_regions):
    members = make_members(
        3, sizes=(5,), fused=(0, 1, 2, 3, 4), has_regions=has_regions, dtype=torch.float32
    )
    order = [3, 0, 4, 2, 1]
    other = Members(members.plan, members.labels, members.logits[order])
    one, two = members.accumulate(), other.accumulate()
    np.testing.assert_array_equal(one.fused_masks, two.fused_masks)
    np.testing.assert_array_equal(one.counts.pairs[:, order][:, :, order], two.counts.pairs)
    np.testing.assert_array_equal(one.counts.with_fused[:, order], two.counts.with_fused)
    for name in one.maps:
        np.testing.assert_allclose(one.maps[name], two.maps[name], rtol=1e-4, atol=1e-6)


def test_members_are_kept_by_their_number():
    members = make_members(4, extra=2)
    kept = members.accumulate(keep_members=(1, 3)).member_logits
    assert sorted(kept) == [1, 3]
    for number, logits in kept.items():
        np.testing.assert_array_equal(logits, members.logits[number].numpy())
    assert members.accumulate().member_logits is None


@pytest.mark.parametrize("has_regions", [False, True])
def test_staple_decides_as_the_logits_that_are_kept(has_regions):
    """Two members, one of them empty: SimpleITK's STAPLE gives 1/2 and a rounding error."""
    channels = 1 if has_regions else 2
    logits = torch.zeros((2, channels, 6, 8, 8))
    logits[:, -1] = -4.0
    logits[1, -1, 2:4, 2:6, 2:6] = 4.0
    labels = make_labels(channels, has_regions=has_regions)
    result = Members(make_plan([2], (0, 1)), labels, logits).accumulate(fusion="staple")
    kept = result.fused_logits.astype(np.float32)
    by_logits = kept > 0 if has_regions else kept.argmax(axis=0)[None] == 1
    np.testing.assert_array_equal(result.fused_masks, by_logits)
    assert result.counts.fused[0] == by_logits.sum() == 0


@given(options=random_members())
@settings(max_examples=20)
def test_staple_always_decides_as_the_logits_that_are_kept(options: dict):
    members = make_members(**options)
    result = members.accumulate(fusion="staple")
    expected = naive_masks(result.fused_logits[None], members.labels.has_regions)[0]
    np.testing.assert_array_equal(result.fused_masks, expected)


def test_types_of_the_result():
    result = make_members(5).accumulate()
    assert result.fused_logits.dtype == np.float16
    assert result.fused_masks.dtype == np.bool_
    assert {values.dtype for values in result.maps.values()} == {np.dtype(np.float32)}
    assert result.counts.pairs.dtype == np.int64
    assert next(iter(result.maps)) == "entropy"


def test_the_given_logits_are_not_changed():
    members = make_members(6, dtype=torch.float32)
    before = members.logits.clone()
    members.accumulate()
    assert torch.equal(members.logits, before)


def test_rows_that_are_no_block_of_memory_are_the_same():
    members = make_members(7)
    turned = members.logits.transpose(3, 4).contiguous().transpose(3, 4)
    other = Members(members.plan, members.labels, turned)
    assert_identical(members.accumulate(), other.accumulate([2, 3]))


def test_missing_repeated_and_misshapen_slabs_are_refused():
    members = make_members(8)
    accumulator = Accumulator(members.plan, members.labels, members.shape)
    accumulator.add(0, members.logits[:, :, :2])
    with pytest.raises(CaseError, match=r"rows 0 to 5 .* got rows 0 to 2"):
        accumulator.result()
    with pytest.raises(CaseError, match=r"from row 2 that ends by row 5, got rows 1 to 3"):
        accumulator.add(1, members.logits[:, :, 1:3])
    with pytest.raises(CaseError, match="got rows 2 to 7"):
        accumulator.add(2, members.logits)
    with pytest.raises(CaseError, match=r"expected a slab of \(5, 3, 4, 6\).* got \(4, 3, 4, 6\)"):
        accumulator.add(2, members.logits[:4, :, 2:])


def test_settings_that_make_no_sense_are_refused():
    labels = make_labels(3)
    with pytest.raises(SettingError, match="fused members numbered 0 to 2"):
        Accumulator(make_plan([3], (3,)), labels, (1, 2, 2))
    with pytest.raises(SettingError, match="fused members"):
        Accumulator(MemberPlan((Family("heads", ("a",)),), ()), labels, (1, 2, 2))
    with pytest.raises(SettingError, match="expected fusion mean"):
        module._check(make_plan([3], (1,)), (1, 2, 2), "median")
    with pytest.raises(SettingError, match="at least one voxel"):
        Accumulator(make_plan([3], (1,)), labels, (0, 2, 2))


class OnApple(torch.Tensor):
    """Says that it is on a GPU of Apple, and can do nothing but come to the CPU."""

    @classmethod
    def __torch_function__(cls, call, types, arguments=(), keywords=None):
        with torch._C.DisableTorchFunctionSubclass():
            if call == torch.Tensor.device.__get__:
                return torch.device("mps")
            if call == torch.Tensor.cpu:
                return arguments[0].as_subclass(torch.Tensor)
            if call.__name__ != "__get__":
                raise TypeError(f"not on an Apple GPU: {call.__name__}")
            return call(*arguments, **(keywords or {}))


def test_apple_gpus_lack_what_is_needed_and_are_not_asked_for_it():
    members = make_members(0)
    expected = members.accumulate()
    found = Accumulator(members.plan, members.labels, members.shape)
    found.add(0, members.logits.as_subclass(OnApple))
    assert_identical(found.result(), expected)
