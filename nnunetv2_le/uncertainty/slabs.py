"""Which part of a grid has come, where slabs come in order and cover every row once.

Slabs come along the first axis, each spanning the others. Slabs that do not span the second axis
fill it band by band: all rows of a band, then the band that follows.
"""

from torch import Tensor

from nnunetv2_le.errors import CaseError


class SlabOrder:
    """Refuses slabs that leave a gap, overlap or have another shape.

    Args:
        shape: the grid (depth, height, width).
        num_members: members of a slab.
        num_channels: channels of a slab.
    """

    def __init__(self, shape: tuple[int, int, int], *, num_members: int, num_channels: int) -> None:
        self._shape = shape
        self._num_members, self._num_channels = num_members, num_channels
        self._column, self._height, self._done = 0, 0, 0  # the band that is being filled

    def require_next(self, start: int, column: int, logits: Tensor) -> None:
        """Refuse a slab that is not the next one.

        Args:
            start: its first row along the first axis.
            column: its first row along the second axis.
            logits: the slab (members, channels, depth, height, width).

        Raises:
            CaseError: the slab does not follow the one before, or has the wrong shape.
        """
        rows, columns, width = self._shape
        expected = (self._num_members, self._num_channels, columns, width)
        came = (*logits.shape[:2], *logits.shape[3:])
        if (came[:2], came[3]) != (expected[:2], width) or column + came[2] > columns:
            raise CaseError(
                f"expected a slab of {expected} (members, channels, height, width), got {came}; "
                "give the logits of every member of the plan on the accumulator's grid"
            )
        follows = start == self._done
        if column != self._column:
            is_full = self._done == rows and column == self._column + self._height
            follows = is_full and start == 0
        elif self._height not in (0, logits.shape[3]):
            follows = False
        if not follows or start + logits.shape[2] > rows:
            raise CaseError(
                f"expected a slab from row {self._done} that ends by row {rows}, "
                f"got rows {start} to {start + logits.shape[2]}; add slabs in order, each row once"
            )

    def came(self, start: int, column: int, logits: Tensor) -> None:
        """Note a slab that was taken in."""
        self._column, self._height = column, logits.shape[3]
        self._done = start + logits.shape[2]

    def require_complete(self) -> None:
        """Refuse a grid that is not covered.

        Raises:
            CaseError: naming what has come.
        """
        if self._done != self._shape[0] or self._column + self._height != self._shape[1]:
            raise CaseError(
                f"expected logits for rows 0 to {self._shape[0]} of the grid, "
                f"got rows 0 to {self._done} (columns 0 to {self._column + self._height} of "
                f"{self._shape[1]}); add the missing slabs before asking for the result"
            )
