from typing import Any

import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

from nnunetv2_le.training.losses import MultiHeadLoss, SummedHeadLoss, summed_loss

SHAPE = (2, 3, 6, 5)


def nnunet_loss(kind: str, batch_dice: bool) -> Any:
    """The loss as nnU-Net's trainer builds it."""
    dice = {"batch_dice": batch_dice, "smooth": 1e-5, "ddp": False}
    if kind.startswith("regions"):
        return DC_and_BCE_loss(
            {},
            dice | {"do_bg": True},
            use_ignore_label=kind == "regions with ignore label",
            dice_class=MemoryEfficientSoftDiceLoss,
        )
    return DC_and_CE_loss(
        dice | {"do_bg": False},
        {},
        ignore_label=3 if kind == "classes with ignore label" else None,
        dice_class=MemoryEfficientSoftDiceLoss,
    )


def target_of(kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    if kind == "classes":
        return torch.randint(0, 3, (2, 1, 6, 5), generator=generator)
    if kind == "classes with ignore label":
        return torch.randint(0, 4, (2, 1, 6, 5), generator=generator)
    channels = 3 if kind == "regions" else 4
    return torch.randint(0, 2, (2, channels, 6, 5), generator=generator).bool()


KINDS = ("classes", "classes with ignore label", "regions", "regions with ignore label")


def head_outputs() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(6)
    return [torch.randn(SHAPE, generator=generator).requires_grad_() for _ in range(4)]


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_are_the_sum_of_nnunets_loss_of_each_head(
    kind: str, batch_dice: bool
) -> None:
    loss, target = nnunet_loss(kind, batch_dice), target_of(kind)
    outputs, expected_outputs = head_outputs(), head_outputs()
    value = SummedHeadLoss(loss)(outputs, [target])
    value.backward()
    expected = 0.0
    for output in expected_outputs:
        term = loss(output, target)
        term.backward()
        expected += term.item()
    assert value.item() == pytest.approx(expected, abs=1e-5)
    for output, other in zip(outputs, expected_outputs, strict=True):
        torch.testing.assert_close(output.grad, other.grad)


def test_one_head_has_nnunets_very_loss() -> None:
    loss, target = nnunet_loss("classes", False), target_of("classes")
    output = head_outputs()[0]
    assert torch.equal(SummedHeadLoss(loss)([output], target), loss(output, target))


@pytest.mark.parametrize("batch_dice", [False, True])
def test_voxels_with_the_ignore_label_send_no_gradient(batch_dice: bool) -> None:
    kind = "classes with ignore label"
    target, outputs = target_of(kind), head_outputs()
    SummedHeadLoss(nnunet_loss(kind, batch_dice))(outputs, target).backward()
    ignored = (target == 3).expand(SHAPE)
    for output in outputs:
        assert not output.grad[ignored].any()
        assert output.grad[~ignored].any()


def test_copies_have_the_weight_of_the_finest_output_each_and_coarser_ones_their_own() -> None:
    def difference(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (output - target).mean()

    outputs = [torch.full((1, 1, size), value) for size, value in ((8, 3.0), (8, 5.0), (4, 7.0))]
    targets = [torch.ones(1, 1, 8), torch.full((1, 1, 4), 2.0)]
    loss = MultiHeadLoss(DeepSupervisionWrapper(difference, [0.75, 0.25]), 2)
    assert loss(outputs, targets).item() == 0.75 * (2 + 4) + 0.25 * 5
    layers = dict(zip("ab", outputs, strict=False))
    assert summed_loss(layers, targets[0], loss=difference).item() == 2 + 4
