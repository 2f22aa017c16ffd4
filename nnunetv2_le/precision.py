"""Where mixed precision has to be switched off."""

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Every operation inside works in the precision of its operands, whatever goes on around it.

    Args:
        device: of the operands; where torch knows no autocast, there is nothing to switch off.
    """
    try:
        return torch.autocast(device.type, enabled=False)
    except RuntimeError:  # unknown to torch's autocast, or to that of this version
        return nullcontext()
