"""Where heads live that a stock nnU-Net lacks, under a name that its loader of weights skips.

nnU-Net's loader of pretrained weights demands every parameter of a network to be in the checkpoint,
except those with ``.seg_layers.`` in their name.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class HeadList(nn.ModuleList):
    """Heads, and in the checkpoint beside them whether their channels are regions.

    nnU-Net does not say at prediction whether a network was trained on regions, and the fused
    tensor depends on it
    (``documentation/decisions/002-one-tensor-and-regions-in-the-checkpoint.md``).
    """

    has_regions = False

    def get_extra_state(self) -> Tensor:
        """What the checkpoint keeps: a tensor, so that it can be loaded with ``weights_only``."""
        return torch.tensor(self.has_regions)

    def set_extra_state(self, state: Tensor) -> None:
        """Take over what the checkpoint kept."""
        self.has_regions = bool(state)


class ExtraHeads(nn.Module):
    """Holds heads as ``seg_layers``.

    Args:
        heads: modules from features to logits.
    """

    def __init__(self, heads: Iterable[nn.Module]) -> None:
        super().__init__()
        self.seg_layers = HeadList(heads)


class WithExtraHeads(nn.Module):
    """A network that holds heads as ``extra_heads``, which know what its channels are."""

    extra_heads: ExtraHeads

    @property
    def has_regions(self) -> bool:
        """Whether channels are overlapping regions (sigmoid) or exclusive classes (softmax)."""
        return self.extra_heads.seg_layers.has_regions

    @has_regions.setter
    def has_regions(self, value: bool) -> None:
        """Set by the trainer, from the labels of the data set."""
        self.extra_heads.seg_layers.has_regions = value
