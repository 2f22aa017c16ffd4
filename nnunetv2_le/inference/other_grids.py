"""A model that sees images otherwise than the first becomes one more member on the first's grid.

It is predicted by itself on its own grid; its fused logits are brought to the grid of the first
model by linear interpolation, which is what nnU-Net does with logits on their way to the image.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nnunetv2_le.errors import CaseError
from nnunetv2_le.inference.cases import PreparedCase
from nnunetv2_le.inference.model import Model
from nnunetv2_le.network.logits import upsample
from nnunetv2_le.types import MemberPlan


def plan_of_fused_heads(model: Model) -> MemberPlan:
    """The members that make a model's segmentation, and no family."""
    source = model.sources[0]
    names = source.head_names[-source.num_fused_heads :]
    return MemberPlan((), fused=tuple(range(len(names))), extra=names)


def to_grid(
    logits: Float[np.ndarray, "channels d h w"],
    *,
    case: PreparedCase,
    model: Model,
    target: PreparedCase,
    target_model: Model,
) -> Float[Tensor, "channels depth height width"]:
    """Logits on another model's grid of the same image; voxel borders are aligned.

    Both grids cover the part of the image that preprocessing cropped.

    Args:
        logits: on the grid of ``model``.
        case: the case as ``model`` sees it.
        model: the model that gave the logits.
        target: the case as ``target_model`` sees it.
        target_model: the model whose grid is wanted.

    Returns:
        Half precision.

    Raises:
        CaseError: the models crop the image differently.
    """
    if _cropped(case, model) != _cropped(target, target_model):
        raise CaseError(
            f"{model.folder} and {target_model.folder} crop {case.name} differently, so their "
            "predictions cannot be joined. Predict with one of them."
        )
    axes = [model.plans.transpose_forward.index(a) for a in target_model.plans.transpose_forward]
    turned = torch.from_numpy(logits).permute(0, *(axis + 1 for axis in axes))
    size = tuple(target.image.shape[1:])
    channels = [upsample(channel[None, None].float(), size)[0, 0].half() for channel in turned]
    return torch.stack(channels)


def _cropped(case: PreparedCase, model: Model) -> list[tuple[int, int]]:
    """Where the cropped part lies in the image, in the order of the image's axes."""
    box = case.properties["bbox_used_for_cropping"]
    forward: Sequence[int] = model.plans.transpose_forward
    return [
        (int(box[forward.index(axis)][0]), int(box[forward.index(axis)][1])) for axis in range(3)
    ]
