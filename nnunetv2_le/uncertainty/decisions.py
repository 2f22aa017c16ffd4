"""What members decide at each voxel, and how often they decide alike.

A decision is the class of the highest logit (the lowest class of several equal ones, as
torch.argmax) or, for regions, whether the logit is above 0. Decisions about classes are label
numbers, ``members voxels``; decisions about regions are masks, ``members regions voxels``.
"""

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from nnunetv2_le.precision import without_autocast
from nnunetv2_le.types import Labels

# float32 counts voxels one by one without an error up to here; longer pieces are never counted at
# once.
MAX_COUNTED_VOXELS = 2**24

# Of more labels than these, most are absent from a piece, and finding the others pays.
_ALWAYS_COUNTED = 8


def decide(
    logits: Float[Tensor, "members channels voxels"], *, has_regions: bool
) -> Integer[Tensor, "members voxels"] | Bool[Tensor, "members channels voxels"]:
    """Decision of each member.

    Args:
        logits: logits, or anything of the same order; classes may be given probabilities, regions
            may not.
        has_regions: whether channels are overlapping regions.

    Returns:
        Classes: label numbers, uint8 (int16 from 257 classes). Regions: masks.
    """
    if has_regions:
        return logits > 0
    # argmax along a middle axis is about 50 times slower in torch than these three passes
    channels = logits.shape[1]
    dtype = label_dtype(channels)
    from_last = torch.arange(channels - 1, -1, -1, dtype=dtype, device=logits.device)
    is_highest = logits == logits.amax(1, keepdim=True)
    ranked = is_highest.view(torch.uint8) * from_last[:, None]
    return channels - 1 - ranked.amax(1)


def label_dtype(channels: int) -> torch.dtype:
    """The smallest integers that hold the label numbers of so many classes."""
    return torch.uint8 if channels <= 256 else torch.int16


def room_for_decisions(
    labels: Labels, members: int, voxels: int
) -> Integer[Tensor, "members voxels"] | Bool[Tensor, "members channels voxels"]:
    """Uninitialised memory for the decisions of so many members, on the CPU."""
    channels = labels.num_channels
    if labels.has_regions:
        return torch.empty((members, channels, voxels), dtype=torch.bool)
    return torch.empty((members, voxels), dtype=label_dtype(channels))


def label_masks(
    decisions: Integer[Tensor, "voxels"] | Bool[Tensor, "regions voxels"], *, num_labels: int
) -> Bool[Tensor, "labels voxels"]:
    """One mask a foreground label (or region) from the decisions of one prediction."""
    if decisions.dtype == torch.bool:
        return decisions
    return decisions[None] == _foreground(decisions, num_labels)[:, None]


def label_mask(
    decisions: Integer[Tensor, "voxels"] | Bool[Tensor, "regions voxels"], label: int
) -> Bool[Tensor, "voxels"]:
    """The mask of one foreground label (or region), from 0, as ``label_masks`` has it."""
    return decisions[label] if decisions.dtype == torch.bool else decisions == label + 1


def agreement(
    decisions: Integer[Tensor, "members voxels"] | Bool[Tensor, "members regions voxels"],
    other: Integer[Tensor, "voxels"] | Bool[Tensor, "regions voxels"],
) -> Float[Tensor, "voxels"]:
    """Share of members that decide as another prediction does; for regions the mean over regions.

    Returns:
        From 0 to 1.
    """
    alike = (decisions == other).float()
    # whole numbers add up without rounding, so the order of summation does not matter
    axes = tuple(range(alike.ndim - 1))
    return alike.sum(axes) / alike[..., 0].numel()


def count_overlaps(
    decisions: Integer[Tensor, "members voxels"] | Bool[Tensor, "members regions voxels"],
    *,
    num_labels: int,
) -> Integer[Tensor, "labels members members"]:
    """Voxels to which two members both give a label, for every label and every two members.

    One-hot masks times their transpose, a matrix product for each label that occurs. Exact: each
    product counts at most ``MAX_COUNTED_VOXELS`` voxels in float32.

    Args:
        decisions: decisions of the members.
        num_labels: foreground labels (or regions).

    Returns:
        int64, on the device of the decisions; the diagonal holds sizes.
    """
    members, voxels = len(decisions), decisions.shape[-1]
    counts = torch.zeros((num_labels, members, members), dtype=torch.int64, device=decisions.device)
    for start in range(0, voxels, MAX_COUNTED_VOXELS):
        piece = decisions[..., start : start + MAX_COUNTED_VOXELS]
        labels, masks = _one_hot(piece, num_labels)
        with without_autocast(masks.device):  # half precision counts to 2048
            products = torch.bmm(masks, masks.transpose(1, 2))
        counts.index_add_(0, labels, products.to(torch.int64))
    return counts


def _one_hot(
    decisions: Integer[Tensor, "members voxels"] | Bool[Tensor, "members regions voxels"],
    num_labels: int,
) -> tuple[Integer[Tensor, "present"], Float[Tensor, "present members voxels"]]:
    """Numbers (from 0) of labels, at least those that occur, and 0-1 masks of these alone."""
    if decisions.dtype == torch.bool:
        labels = torch.arange(num_labels, device=decisions.device)
        return labels, decisions.transpose(0, 1).float()
    labels = torch.arange(num_labels, device=decisions.device)
    if num_labels > _ALWAYS_COUNTED:
        occurrences = torch.bincount(decisions.flatten(), minlength=num_labels + 1)
        labels = occurrences[1:].nonzero().squeeze(1)
    masks = torch.empty((len(labels), *decisions.shape), device=decisions.device)
    torch.eq(decisions, (labels + 1).to(decisions.dtype)[:, None, None], out=masks)
    return labels, masks


def _foreground(decisions: Tensor, num_labels: int) -> Tensor:
    return torch.arange(1, num_labels + 1, dtype=decisions.dtype, device=decisions.device)
