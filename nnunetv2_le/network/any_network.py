"""A layer ensemble on any network: heads on layers of its own, one forward pass.

Our heads are the paper's "output heads" (Fig. 1), on layers that the user names instead of on every
block of a U-Net. nnU-Net's U-Nets have a trainer and commands of their own
(``layer_ensemble_unet``).

Source: Kushibar et al., "Layer Ensembles: A Single-Pass Uncertainty Estimation in Deep Learning for
Segmentation", MICCAI 2022, arXiv:2203.08878.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args
from uuid import uuid4

import torch
from torch import Tensor, nn

from nnunetv2_le.errors import SettingError, UnsupportedArchitectureError
from nnunetv2_le.network.dummy_pass import Example, describe, run_dummy_pass
from nnunetv2_le.network.feature_layers import OWN, find_layers
from nnunetv2_le.network.layer_heads import head_size, make_head
from nnunetv2_le.network.logits import scale_gradient
from nnunetv2_le.network.taps import Tapped, call_with_taps, cut_off_by_checkpoints, set_taps

Task = Literal["segmentation", "classification", "regression"]

_EXPECTED = {
    "segmentation": "(batch, channels, *space)",
    "classification": "(batch, classes)",
    "regression": "(batch,), (batch, values) or (batch, channels, *space)",
}


class LayerEnsemble(nn.Module):
    """A network with heads on intermediate layers; calling it gives every head's prediction.

    The network is kept as ``model`` and computes what it always computed. Each named layer gets a
    forward hook that does nothing outside a call of the ensemble (``taps``), so no state is kept
    between calls, and several threads, replicas and ``torch.compile`` are safe.

    Args:
        model: any network.
        layers: names of layers, or patterns (``*`` stands for anything but a dot, ``**`` for
            anything) that take every layer that can carry a head.
        example: an image batch for one dummy pass, which finds channels and scale; zeros will do.
            A tuple where the network takes more than one argument.
        task: what is predicted. Segmentation and classification give logits.
        output: how to get the prediction from what the network gives; by default the tensor itself,
            or the entry ``out`` of a dictionary.
        gradient: share of the heads' gradient that reaches the network: 1 trains it through all
            heads, as in the paper, 0 leaves it to its own output (a finished network stays as it
            is).

    Attributes:
        layers: the ``FeatureLayer`` of each head, in order of computation.
        member_names: their names, and ``output`` last: the keys of what the ensemble gives.

    Raises:
        SettingError: no layer has one of the names, there is none at all, or a setting makes no
            sense.
        UnsupportedArchitectureError: a layer cannot carry a head, or the network's output is not
            what the task needs.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str] | str,
        *,
        example: Example,
        task: Task,
        output: Callable[[Any], Tensor] | None = None,
        gradient: float = 1.0,
    ) -> None:
        super().__init__()
        names = [layers] if isinstance(layers, str) else list(layers)
        _check(names, task, gradient)
        dummy = run_dummy_pass(model, example)
        own = _own_prediction(dummy.result, output)
        _check_task(own, task, len(dummy.space))
        self.task, self.gradient, self.output = task, gradient, output
        self._axes = len(dummy.space)
        self.layers = tuple(find_layers(model, names, dummy))
        self.member_names = (*(layer.name for layer in self.layers), OWN)
        self.model = model
        self.heads = nn.ModuleList(
            make_head(layer.channels, own, like=dummy.likes[layer.name]) for layer in self.layers
        )
        self._owner = uuid4().hex
        set_taps(model, self.member_names[:-1], owner=self._owner)

    def forward(self, *inputs: Any, **options: Any) -> dict[str, Tensor]:
        """Predictions of all heads.

        Args:
            inputs: what the network takes.
            options: what it takes by name.

        Returns:
            Name of the layer to its prediction, in the order of computation; the network's own
            prediction comes last, as ``output``. All have the shape of the last.

        Raises:
            UnsupportedArchitectureError: a layer was not run in this pass or gave no tensor, where
                its head's gradient cannot reach the network, or the network's output is not what
                the task needs: some give more in training.
        """
        result, tapped = call_with_taps(lambda: self.model(*inputs, **options), owner=self._owner)
        own = _own_prediction(result, self.output)
        _check_task(own, self.task, self._axes)
        if self.gradient > 0 and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            _require_gradient(tapped, own)
        predictions = {}
        for layer, head in zip(self.layers, self.heads, strict=True):
            if layer.name not in tapped:
                raise UnsupportedArchitectureError(_not_run(layer.name))
            features = _features(layer.name, tapped[layer.name])
            predictions[layer.name] = head(scale_gradient(features, self.gradient), head_size(own))
        return {**predictions, OWN: own}


def _check(names: Sequence[str], task: str, gradient: float) -> None:
    if not names:
        raise SettingError(
            "A layer ensemble needs at least one layer; got none. candidate_layers(model, pattern, "
            "example) lists those that can carry a head."
        )
    if task not in get_args(Task):
        raise SettingError(f"task is {', '.join(get_args(Task))}; got {task!r}.")
    if not 0 <= gradient <= 1:
        raise SettingError(f"gradient is a share from 0 to 1; got {gradient!r}.")


def _own_prediction(result: Any, output: Callable[[Any], Tensor] | None) -> Tensor:
    """The prediction in what the network gave."""
    own: Any = result.get("out") if isinstance(result, Mapping) else result
    if output is not None:
        own = output(result)
    if not isinstance(own, Tensor):
        raise UnsupportedArchitectureError(
            f"The network gives {describe(result)}; which part is the prediction? Pass a function "
            "that picks it, for example output=lambda result: result[0]."
        )
    return own


def _check_task(own: Tensor, task: Task, axes: int) -> None:
    fits = {
        "segmentation": own.ndim == axes + 2,
        "classification": own.ndim == 2,
        "regression": own.ndim in (1, 2, axes + 2),
    }[task]
    if not fits:
        raise UnsupportedArchitectureError(
            f"task={task!r} needs a network that gives {_EXPECTED[task]}; this one gives "
            f"{describe(own)}. Choose another task, or pick the prediction with output=."
        )


def _require_gradient(tapped: Mapping[str, Tapped], own: Tensor) -> None:
    if names := cut_off_by_checkpoints(tapped, own):
        raise UnsupportedArchitectureError(
            f"The gradient of the heads on {', '.join(map(repr, names))} cannot reach the network, "
            "for torch.utils.checkpoint runs these layers with use_reentrant=True. Use "
            "use_reentrant=False, name layers outside the checkpoint, or set gradient=0 to train "
            "the heads alone."
        )


def _features(name: str, tapped: Tapped) -> Tensor:
    """What a layer gave in this pass, which can be otherwise in training."""
    if isinstance(features := tapped.output, Tensor):
        return features
    raise UnsupportedArchitectureError(
        f"Layer {name!r} gave {describe(features)} in this pass, but a tensor in the pass over the "
        "example, which is one in evaluation. Name a layer inside or after it."
    )


def _not_run(name: str) -> str:
    return (
        f"Layer {name!r} was run in the pass over the example but not in this one, so its head has "
        "no features. Leave it out, or call the network in the same way as then."
    )
