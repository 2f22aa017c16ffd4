"""Slabs and bands cover an image once, and give what one large buffer would."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.inference.sliding_window_prediction import (
    compute_gaussian,
    compute_steps_for_sliding_window,
)

from nnunetv2_le.errors import CaseError
from nnunetv2_le.inference import sliding_window
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


def test_a_band_takes_no_tile_that_ends_where_it_begins():
    window = Window((4, 4, 4), step_size=1.0)
    assert window.num_tiles((4, 8, 4), num_bands=2) == window.num_tiles((4, 8, 4)) == 2


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


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_infinity_of_either_sign_is_refused_by_itself(value: float):
    image = torch.ones(1, 4, 4, 4)
    image[0, 2, 1, 2] = value
    slabs = Window((4, 4, 4)).slabs(image, lambda tile: [tile[0]], num_members=1, num_channels=1)
    with pytest.raises(CaseError, match="infinite or not a number"):
        list(slabs)


def mean_and_place(tile: torch.Tensor):
    """A network that looks at all of the tile, what was padded too."""
    shape = tile.shape[2:]
    places = torch.arange(tile[0, 0].numel()).reshape(shape) % 7
    yield (places + tile.mean())[None].half()


def blended_at_once(patch: tuple[int, int, int], image: torch.Tensor, *, use_gaussian: bool):
    """One large buffer, with nnU-Net's own steps and weights."""
    missing = [max(tile - size, 0) for tile, size in zip(patch, image.shape[1:], strict=True)]
    before = [size // 2 for size in missing]
    pads = [n for low, both in zip(before, missing, strict=True) for n in (low, both - low)]
    padded = torch.nn.functional.pad(image, (*pads[4:], *pads[2:4], *pads[:2]))
    weight = compute_gaussian(
        patch, sigma_scale=1 / 8, value_scaling_factor=10, device=torch.device("cpu")
    )
    weight = weight if use_gaussian else torch.ones(patch, dtype=torch.half)
    sums, weights = torch.zeros(padded.shape[1:]), torch.zeros(padded.shape[1:])
    steps = compute_steps_for_sliding_window(padded.shape[1:], patch, 0.5)
    for starts in itertools.product(*steps):
        place = tuple(slice(low, low + n) for low, n in zip(starts, patch, strict=True))
        (logits,) = mean_and_place(padded[(slice(None), *place)][None])
        sums[place] += (logits[0] * weight).float()
        weights[place] += weight.float()
    inside = (slice(low, low + n) for low, n in zip(before, image.shape[1:], strict=True))
    return (sums / weights)[tuple(inside)]


@pytest.mark.parametrize("use_gaussian", [True, False])
@pytest.mark.parametrize("piece", [1, 2**26])
@pytest.mark.parametrize("shape", [(9, 7, 8), (2, 3, 9)])
def test_tiles_are_blended_as_nnunet_weights_and_pads_them(
    use_gaussian: bool, piece: int, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sliding_window, "_PIECE_ELEMENTS", piece)
    image = torch.randn((1, *shape), generator=torch.Generator().manual_seed(0)) + 1
    window = Window((4, 6, 4), use_gaussian=use_gaussian)
    found = torch.full(shape, float("nan"))
    slabs = window.slabs(image, mean_and_place, num_members=1, num_channels=1)
    for slab in slabs:
        found[slab.start : slab.start + slab.logits.shape[2]] = slab.logits[0, 0].float()
    expected = blended_at_once((4, 6, 4), image, use_gaussian=use_gaussian)
    torch.testing.assert_close(found, expected, rtol=5e-3, atol=1e-2)


def test_what_is_handed_on_is_what_combine_makes_of_the_blended_logits():
    slabs = Window((4, 4, 4)).slabs(
        torch.ones(1, 6, 4, 4),
        two_members,
        num_members=2,
        num_channels=2,
        combine=lambda logits: logits[1:] * 0 + 7,
    )
    for slab in slabs:
        assert slab.logits.shape[0] == 1
        assert (slab.logits == 7).all()


def test_a_band_is_a_quarter_of_a_tile_or_more_and_as_wide_as_a_padded_image():
    few = Window((8, 16, 8)).num_bands((9, 32, 8), num_members=1, num_channels=1, max_bytes=1)
    assert few == 8
    row_bytes = 2 * 2 * 2 * 4 * 8  # half precision, members, channels, a tile's depth and width
    for width, bands in ((3, 4), (8, 4), (16, 8)):
        number = Window((4, 4, 8)).num_bands(
            (9, 40, width), num_members=2, num_channels=2, max_bytes=10 * row_bytes
        )
        assert number == bands


def test_tiles_of_a_padded_image_are_counted_where_the_image_lies():
    window = Window((4, 8, 4), step_size=0.5)
    seen: list[int] = []
    image = torch.zeros(1, 4, 5, 4)
    list(
        window.slabs(
            image,
            two_members,
            num_members=2,
            num_channels=2,
            num_bands=2,
            progress=lambda: seen.append(1),
        )
    )
    assert len(seen) == window.num_tiles((4, 5, 4), num_bands=2) == 2
