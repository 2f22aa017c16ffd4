"""Trainers for layer ensembles: nnU-Net's own trainer with another network and another loss."""

from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_le.errors import UnsupportedArchitectureError
from nnunetv2_le.network.blocks import unsupported
from nnunetv2_le.network.layer_ensemble_unet import Granularity, LayerEnsembleUNet
from nnunetv2_le.training.losses import SummedHeadLoss


class LayerEnsembleTrainer(nnUNetTrainer):  # type: ignore[misc]
    """Trains one network with a segmentation head on every encoder and decoder stage.

    Class attributes are the only settings; a subclass sets others. They are read at prediction too,
    so a checkpoint is tied to its trainer's name, as everywhere in nnU-Net.

    Attributes:
        encoder_heads: whether encoder stages carry heads.
        encoder_gradient: share of the encoder heads' gradient that reaches the trunk.
        decoder_gradient: the same for the decoder heads before the last. Every head learns from
            its whole loss; the shares only keep the many shallow heads from steering the trunk
            (``documentation/decisions/009-share-of-the-heads-gradient.md``).
        granularity: heads after every ``stage`` or every convolution ``block``.
        num_fused_heads: how many of the last heads make the segmentation.
        length_epochs: length of a training; None leaves nnU-Net's.
    """

    encoder_heads: bool = True
    encoder_gradient: float = 0.1
    decoder_gradient: float = 0.3
    granularity: Granularity = "stage"
    num_fused_heads: int = 2
    length_epochs: int | None = None

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int | str,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net's own signature)
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        if self.length_epochs is not None:
            self.num_epochs = self.length_epochs

    @classmethod
    def build_network_architecture(  # type: ignore[override]
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """nnU-Net's network from the plans, with heads.

        Raises:
            UnsupportedArchitectureError: the plans ask for a network without convolutional encoder
                and decoder.
        """
        try:
            unet = nnUNetTrainer.build_network_architecture(
                plans_manager, configuration_manager, num_input_channels, num_output_channels, True
            )
        except TypeError as error:  # such a network does not know the word deep_supervision
            name = configuration_manager.network_arch_class_name
            raise UnsupportedArchitectureError(
                unsupported(name, f"cannot be built as one ({error})")
            ) from error
        network = LayerEnsembleUNet(
            unet,
            encoder_heads=cls.encoder_heads,
            encoder_gradient=cls.encoder_gradient,
            decoder_gradient=cls.decoder_gradient,
            granularity=cls.granularity,
            num_fused_heads=cls.num_fused_heads,
            deep_supervision=enable_deep_supervision,
        )
        if hasattr(unet, "initialize"):
            network.extra_heads.apply(unet.initialize)
        return network

    def initialize(self) -> None:
        """Build the network, and tell it whether its channels are regions."""
        super().initialize()
        unwrap(self.network).has_regions = self.label_manager.has_regions

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Switch between all heads (training) and the fused tensor (validation)."""
        unwrap(self.network).deep_supervision = enabled

    def _get_deep_supervision_scales(self) -> list[list[float]] | None:
        """One target at full resolution: every head is compared with it."""
        if not self.enable_deep_supervision:
            return None
        return [[1.0] * len(self.configuration_manager.patch_size)]

    def _build_loss(self) -> nn.Module:
        """nnU-Net's compound loss for each head, summed over heads."""
        deep_supervision: bool = self.enable_deep_supervision  # type: ignore[has-type]
        self.enable_deep_supervision = False  # nnU-Net's loss for one output, without its weights
        try:
            loss: nn.Module = super()._build_loss()
        finally:
            self.enable_deep_supervision = deep_supervision
        return SummedHeadLoss(loss) if deep_supervision else loss


def unwrap(network: nn.Module) -> Any:
    """The network itself, without DDP's and torch.compile's wrappers."""
    if isinstance(network, DistributedDataParallel):
        network = network.module
    if isinstance(network, OptimizedModule):
        network = network._orig_mod
    return network
