"""What gives the heads of a network, whoever trained it, under one interface.

A head source is a module that maps a patch to one tensor of logits a head, shallow to deep, each at
its own layer's resolution, and to pooled features of its encoder, all from one forward pass. A
layer ensemble has its own heads; a stock nnU-Net has its deep-supervision heads; any other network
has one.
"""

from collections.abc import Mapping
from itertools import count, takewhile
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from nnunetv2_le.network.layer_ensemble_unet import LayerEnsembleUNet
from nnunetv2_le.network.multi_head_unet import MultiHeadUNet
from nnunetv2_le.network.pooled_features import has_encoder_stages, pool


class HeadsAndFeatures(NamedTuple):
    """What one forward pass gives.

    Attributes:
        heads: logits of every head, shallow to deep, each (batch, classes, *coarse).
        features: pooled features of the encoder, (batch, features); None where the network has no
            encoder of nnU-Net's.
    """

    heads: list[Tensor]
    features: Tensor | None


class HeadSource(nn.Module):
    """Base: one head, the network's own output.

    Attributes:
        network: the network; its parameters are loaded by name, so it is kept as it is.
        head_names: a name for each head, shallow to deep.
        num_fused_heads: how many of the last heads make the segmentation.
        family_name: the family that the heads are: ``heads``, whose order is depth, or
            ``multi_head``, copies of one head without an order.
        has_features: whether it gives pooled features.
    """

    network: Any
    family_name: str = "heads"

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.head_names: tuple[str, ...] = ("output",)
        self.num_fused_heads = 1
        self.has_features = has_encoder_stages(network)

    def forward(self, images: Float[Tensor, "batch channels *space"]) -> HeadsAndFeatures:
        """Logits of every head, and pooled features."""
        logits, features = self._run(images)
        return HeadsAndFeatures([logits], features)

    def _run(self, images: Tensor) -> tuple[Any, Tensor | None]:
        """The network's own output, and pooled features."""
        if not self.has_features:
            return self.network(images), None
        stages = self.network.encoder(images)
        return self.network.decoder(stages), pool(stages)


class LayerEnsembleHeads(HeadSource):
    """All heads of a layer ensemble."""

    def __init__(self, network: LayerEnsembleUNet) -> None:
        super().__init__(network)
        self.head_names = network.head_names
        self.num_fused_heads = network.num_fused_heads
        self.has_features = True

    def forward(self, images: Float[Tensor, "batch channels *space"]) -> HeadsAndFeatures:
        """Logits of every head, and pooled features."""
        heads, stages = self.network.head_logits_and_stages(images)
        return HeadsAndFeatures(list(heads), pool(stages))


class DeepSupervisionHeads(HeadSource):
    """The heads that nnU-Net trained for deep supervision.

    The coarsest one is left out: nnU-Net trains it with weight 0. The finest head alone makes the
    segmentation, as in nnU-Net.
    """

    def __init__(self, network: Any) -> None:
        super().__init__(network)
        network.decoder.deep_supervision = True
        stages = len(network.decoder.stages)
        self.skip = 1 if stages > 1 else 0
        self.head_names = tuple(f"decoder_{number}" for number in range(self.skip, stages))

    def forward(self, images: Float[Tensor, "batch channels *space"]) -> HeadsAndFeatures:
        """Logits of every trained head, and pooled features."""
        logits, features = self._run(images)
        return HeadsAndFeatures(list(logits)[::-1][self.skip :], features)


class MultiHeadHeads(HeadSource):
    """The copies of a multi-head network; all of them make the segmentation."""

    family_name = "multi_head"

    def __init__(self, network: MultiHeadUNet) -> None:
        super().__init__(network)
        self.head_names = network.head_names
        self.num_fused_heads = network.num_heads
        self.has_features = True

    def forward(self, images: Float[Tensor, "batch channels *space"]) -> HeadsAndFeatures:
        """Logits of every copy, and pooled features."""
        heads, stages = self.network.head_logits_and_stages(images)
        return HeadsAndFeatures(heads, pool(stages))


def head_source(network: nn.Module, *, deep_supervision: bool) -> HeadSource:
    """The heads of a network.

    Args:
        network: a layer ensemble, a multi-head network, a U-Net of nnU-Net, or any network that
            gives one tensor.
        deep_supervision: whether the network was trained with nnU-Net's deep supervision.
    """
    if isinstance(network, LayerEnsembleUNet):
        return LayerEnsembleHeads(network)
    if isinstance(network, MultiHeadUNet):
        return MultiHeadHeads(network)
    decoder = getattr(network, "decoder", None)
    if deep_supervision and hasattr(decoder, "seg_layers") and hasattr(decoder, "deep_supervision"):
        return DeepSupervisionHeads(network)
    return HeadSource(network)


def decoder_heads_learned(weights: Mapping[str, Tensor]) -> bool:
    """Whether decoder heads before the last learned anything where the last one did.

    Without deep supervision they get no gradient and keep the bias 0 with which nnU-Net starts
    them. A trainer switches it off in ``__init__``, which a prediction does not run.

    Args:
        weights: network weights of a checkpoint.

    Returns:
        True where weights cannot tell: no biases, one such head, or a last head that is new too.
    """
    # from the second on: the coarsest has weight 0 in deep supervision too
    names = (f"decoder.seg_layers.{number}.bias" for number in count(1))
    learned = [bool(weights[name].any()) for name in takewhile(weights.__contains__, names)]
    return len(learned) < 2 or any(learned[:-1]) or not learned[-1]
