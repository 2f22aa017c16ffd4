"""What named layers of a network give in one call, without a state that outlives the call.

A tap is a forward hook that is set once and for all. It writes into the collection of the call that
is running in its own thread, and does nothing outside such a call. So two threads can use one
network at once, replicas of ``nn.DataParallel`` (which share their hooks, and run in a thread each)
do not mix, ``torch.compile`` traces the taps as part of one graph, and copies and pickles keep
them. Hooks that are set for each call would have none of these properties: all threads and replicas
share a module's table of hooks.
"""

import threading
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from torch import nn

Result = TypeVar("Result")


class _Running(threading.local):
    """The collection of the call that runs in this thread."""

    collection: dict[str, Any] | None = None


_running = _Running()


class Tap:
    """A forward hook that hands a layer's output to the running call.

    Args:
        name: name of the layer in the network.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        """What torch calls when the layer has run."""
        collection = _running.collection
        if collection is not None:
            collection[self.name] = output


def set_taps(network: nn.Module, names: Iterable[str]) -> None:
    """Put a tap on each of these layers, for good."""
    for name in names:
        network.get_submodule(name).register_forward_hook(Tap(name))


def call_with_taps(call: Callable[[], Result]) -> tuple[Result, dict[str, Any]]:
    """Run a network that has taps.

    Args:
        call: runs it.

    Returns:
        What ``call`` gives, and the outputs of the tapped layers that it reached, by name.
    """
    before = _running.collection
    collection: dict[str, Any] = {}
    _running.collection = collection
    try:
        result = call()
    finally:
        _running.collection = before
    return result, collection
