"""What the trainers of this package share: their length, nnU-Net's U-Net, several heads."""

from abc import abstractmethod
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_le.errors import SettingError, UnsupportedArchitectureError
from nnunetv2_le.network.blocks import unsupported


class OwnLengthTrainer(nnUNetTrainer):  # type: ignore[misc]
    """nnU-Net's trainer, for as many epochs as the class says.

    Attributes:
        length_epochs: length of a training; None leaves nnU-Net's.
    """

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


class OwnNetworkTrainer(OwnLengthTrainer):
    """For networks that are built on nnU-Net's U-Net, or that of another trainer mixed in."""

    @classmethod
    def build_network_architecture(  # type: ignore[override]
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """The network that the class builds on the U-Net that nnU-Net makes from the plans.

        Raises:
            UnsupportedArchitectureError: the plans ask for a network without convolutional encoder
                and decoder.
        """
        try:
            unet: nn.Module = super().build_network_architecture(
                plans_manager, configuration_manager, num_input_channels, num_output_channels, True
            )
        except TypeError as error:  # such a network does not know the word deep_supervision
            name = configuration_manager.network_arch_class_name
            raise UnsupportedArchitectureError(
                unsupported(name, f"cannot be built as one ({error})")
            ) from error
        return cls.network_on(unet, deep_supervision=enable_deep_supervision)

    @classmethod
    @abstractmethod
    def network_on(cls, unet: Any, *, deep_supervision: bool) -> nn.Module:
        """The network on nnU-Net's U-Net, which is built with deep supervision.

        Raises:
            UnsupportedArchitectureError: the U-Net has no convolutional encoder and decoder.
        """


class SeveralHeadsTrainer(OwnNetworkTrainer):
    """For networks with ``has_regions`` and ``deep_supervision`` of their own."""

    def initialize(self) -> None:
        """Build network, optimizer and loss; tell the network whether its channels are regions.

        Raises:
            SettingError: a subclass switched deep supervision off.
        """
        if not self.enable_deep_supervision:
            raise SettingError(
                f"{type(self).__name__} switches nnU-Net's deep supervision off "
                "(enable_deep_supervision), by which each of several heads learns: without it they "
                "would stay as they start, or learn from their mean alone. Leave it on."
            )
        super().initialize()
        unwrap(self.network).has_regions = self.label_manager.has_regions

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Switch between all heads (training) and the fused tensor (validation)."""
        unwrap(self.network).deep_supervision = enabled


def unwrap(network: nn.Module) -> Any:
    """The network itself, without DDP's and torch.compile's wrappers."""
    if isinstance(network, DistributedDataParallel):
        network = network.module
    if isinstance(network, OptimizedModule):
        network = network._orig_mod
    return network
