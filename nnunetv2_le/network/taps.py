"""What named layers of a network give in one call, without a state that outlives the call.

A tap is a forward hook that is set once and for all. It writes into the collection of the call of
its owner that is running in its own thread, and does nothing outside such a call: taps of an owner
that is gone are as if they were not there. So two threads can use one network at once, replicas of
``nn.DataParallel`` (which share their hooks, and run in a thread each) do not mix,
``torch.compile`` traces the taps as part of one graph, and copies and pickles keep them. Hooks that
are set for each call would have none of these properties: all threads and replicas share a module's
table of hooks.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from nnunetv2_le.errors import SettingError

Result = TypeVar("Result")


class Tapped(NamedTuple):
    """What a layer gave, and whether gradients were computed when it did."""

    output: Any
    with_gradients: bool


class _Running(threading.local):
    """The collection of each owner whose call runs in this thread."""

    def __init__(self) -> None:
        # not of the class: torch.compile guards what a thread has, also that it has nothing yet
        self.collections: dict[str, dict[str, Tapped]] = {}


_running = _Running()


class Tap:
    """A forward hook that hands a layer's output to the running call.

    Args:
        owner: whose tap it is; networks with taps can be parts of each other.
        name: name of the layer in the owner's network.
    """

    def __init__(self, owner: str, name: str) -> None:
        self.owner = owner
        self.name = name

    def __call__(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        """What torch calls when the layer has run.

        Raises:
            SettingError: for the second time in one call of its owner.
        """
        collection = _running.collections.get(self.owner)
        if collection is None:
            return
        if self.name in collection:
            raise SettingError(
                f"The layer {self.name!r} ran several times in one call, so that it is not known "
                "which run a head should see. Choose a layer that runs once."
            )
        collection[self.name] = Tapped(output, torch.is_grad_enabled())


def set_taps(network: nn.Module, names: Iterable[str], *, owner: str) -> None:
    """Put a tap on each of these layers, for good."""
    for name in names:
        network.get_submodule(name).register_forward_hook(Tap(owner, name))


def call_with_taps(call: Callable[[], Result], *, owner: str) -> tuple[Result, dict[str, Tapped]]:
    """Run a network that has taps.

    Args:
        call: runs it.
        owner: whose taps are read; those of an owner whose call is around this one go on.

    Returns:
        What ``call`` gives, and what the tapped layers gave that it reached, by name.
    """
    before = _running.collections
    tapped: dict[str, Tapped] = {}
    _running.collections = {**before, owner: tapped}
    try:
        result = call()
    finally:
        _running.collections = before
    return result, tapped


def cut_off_by_checkpoints(tapped: Mapping[str, Tapped], result: Tensor) -> list[str]:
    """Layers that ran inside reentrant checkpoints, where what they give has no gradient.

    Such a checkpoint (``torch.utils.checkpoint``, ``use_reentrant=True``) runs its layers without
    gradients, and once more in the backward pass, which knows nothing of what left it by a tap.

    Args:
        tapped: what the layers gave.
        result: what the network made of it.
    """
    without = [name for name, (_, with_gradients) in tapped.items() if not with_gradients]
    if not without or not _has_node(result, "CheckpointFunction"):
        return []
    return [name for name in without if not tapped[name].output.requires_grad]


def _has_node(result: Tensor, name: str) -> bool:
    """Whether a step of this name is among those that made a tensor."""
    nodes, known = [result.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in known:
            continue
        if node.name().startswith(name):
            return True
        known.add(node)
        nodes.extend(before for before, _ in node.next_functions)
    return False
