"""Slabs in order: rows, then bands of the second axis; each voxel once."""

import pytest
import torch

from nnunetv2_le.errors import CaseError
from nnunetv2_le.uncertainty.slabs import SlabOrder

SHAPE = (5, 4, 6)


def order_after(*slabs):
    """An order that has seen slabs of (start, column, depth, height)."""
    order = SlabOrder(SHAPE, num_members=2, num_channels=3)
    for start, column, depth, height in slabs:
        logits = torch.empty(2, 3, depth, height, 6)
        order.require_next(start, column, logits)
        order.came(start, column, logits)
    return order


@pytest.mark.parametrize(
    "slabs",
    [
        [(0, 0, 5, 4)],
        [(0, 0, 2, 4), (2, 0, 3, 4)],
        [(0, 0, 5, 3), (0, 3, 5, 1)],
        [(0, 0, 2, 3), (2, 0, 3, 3), (0, 3, 4, 1), (4, 3, 1, 1)],
    ],
)
def test_slabs_and_bands_in_order_cover_the_grid(slabs):
    order_after(*slabs).require_complete()
    if len(slabs) > 1:
        with pytest.raises(CaseError, match="add the missing slabs"):
            order_after(*slabs[:-1]).require_complete()


@pytest.mark.parametrize(
    ("before", "slab", "said"),
    [
        ([(0, 0, 2, 4)], (1, 0, 2, 4), "from row 2 that ends by row 5, got rows 1 to 3"),
        ([(0, 0, 2, 4)], (2, 0, 5, 4), "got rows 2 to 7"),
        ([(0, 0, 2, 3)], (0, 3, 5, 1), "from row 2"),  # the band before is not full
        ([(0, 0, 5, 2)], (0, 3, 5, 1), "from row 5"),  # a band is left out
        ([(0, 0, 5, 3)], (1, 3, 4, 1), "got rows 1 to 5"),  # a band starts at its first row
        ([(0, 0, 2, 3)], (2, 0, 3, 4), "from row 2"),  # a band of another height
        ([(0, 0, 5, 3)], (0, 3, 5, 2), r"expected a slab of \(2, 3, 4, 6\)"),
    ],
)
def test_gaps_repeats_and_other_bands_are_refused(before, slab, said):
    with pytest.raises(CaseError, match=said):
        order_after(*before, slab)


def test_another_number_of_members_channels_or_columns_is_refused():
    order = order_after((0, 0, 2, 4))
    for shape in ((1, 3, 3, 4, 6), (2, 2, 3, 4, 6), (2, 3, 3, 4, 5)):
        with pytest.raises(CaseError, match=r"expected a slab of \(2, 3, 4, 6\)"):
            order.require_next(2, 0, torch.empty(shape))
