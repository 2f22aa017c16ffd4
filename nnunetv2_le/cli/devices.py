"""The device that a command works on, as the user names it."""

import os
from typing import Any

from nnunetv2_le.errors import SettingError

_DEVICES = ("cuda", "cpu", "mps")


def torch_device(name: str) -> Any:
    """The torch device; on the CPU with a thread a processor, unless OMP_NUM_THREADS says other.

    Raises:
        SettingError: it is unknown, or not there.
    """
    import torch

    if name not in _DEVICES:
        raise SettingError(f"-device takes {', '.join(_DEVICES)}; got {name!r}.")
    if name == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(_num_processors())
    elif name == "cuda" and not torch.cuda.is_available():
        raise SettingError("-device cuda needs a GPU, and torch sees none here. Use -device cpu.")
    elif name == "mps" and not torch.backends.mps.is_available():
        raise SettingError(
            "-device mps needs an Apple GPU, and torch sees none here. Use -device cpu."
        )
    return torch.device(name)


def _num_processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
