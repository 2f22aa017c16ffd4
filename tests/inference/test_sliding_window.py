"""Slabs and bands cover an image once, and give what one large buffer would."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nnunetv2_le.errors import CaseError
from nnunetv2_le.inference.sliding_window import Window


def two_members(tile: torch.Tensor):
    """A network whose output depends on where in the tile a voxel lies."""
    place = torch.arange(tile.shape[-1]) / 7
    for factor in (1.0, -2.0):
        yield torch.cat((tile[0] * factor, tile[0] + place))


def whole(window: Window, image: torch.Tensor, num_bands: int = 1) -> torch.Tensor:
    result = torch.full((2, 2, *image.shape[1:]), float("nan"), dtype=torch.half)
    slabs = window.slabs(image, two_members, num_members=2, num_channels=2, num_bands=num_bands)
    for slab in slabs:
        _, _, rows, columns, _ = slab.logits.shape
        place = result[:, :, slab.start : slab.start + rows, slab.column : slab.column + columns]
        assert place.isnan().all()
        place.copy_(slab.logits)
    assert not result.isnan().any()
    return result


@given(
    shape=st.tuples(*[st.integers(1, 14)] * 3),
    patch=st.sampled_from([(4, 4, 4), (8, 4, 6), (4, 6)]),
    num_bands=st.integers(1, 5),
    step_size=st.sampled_from([0.3, 0.5, 1.0]),
)
def test_bands_give_the_very_numbers_of_one_pass(shape, patch, num_bands, step_size):
    image = torch.randn((1, *shape), generator=torch.Generator().manual_seed(sum(shape)))
    window = Window(patch, step_size=step_size)
    torch.testing.assert_close(
        whole(window, image, num_bands), whole(window, image), rtol=0, atol=0
    )


def test_bands_are_as_many_as_the_memory_demands():
    window = Window((64, 64, 64))
    few, many = (
        window.num_bands((200, 256, 256), num_members=7, num_channels=c, max_bytes=2**31)
        for c in (3, 118)
    )
    assert few == 1
    assert many == 4


@pytest.mark.parametrize("num_bands", [1, 2])
def test_progress_is_told_of_every_tile(num_bands: int):
    window, seen = Window((4, 4, 4)), []
    slabs = window.slabs(
        torch.zeros(1, 9, 10, 11),
        two_members,
        num_members=2,
        num_channels=2,
        num_bands=num_bands,
        progress=lambda: seen.append(1),
    )
    assert len(list(slabs)) > 0
    assert len(seen) == window.num_tiles((9, 10, 11), num_bands)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_an_output_that_is_not_finite_in_one_voxel_is_refused(value: float):
    image = torch.ones(1, 9, 4, 4)
    image[0, 6, 1, 2] = value
    with pytest.raises(CaseError, match="infinite or not a number"):
        whole(Window((4, 4, 4)), image)
