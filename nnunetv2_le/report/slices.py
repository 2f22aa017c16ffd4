"""Which slice of a volume to show, and how."""

from collections.abc import Sequence

import numpy as np


def busiest_slice(masks: Sequence[np.ndarray]) -> int:
    """The slice along the first axis that holds most foreground of all masks together.

    Args:
        masks: label maps or masks of one shape (depth, height, width).
    """
    return int(sum((mask != 0).sum(axis=(1, 2)) for mask in masks).argmax())


def slice_of(volume: np.ndarray, index: int) -> np.ndarray:
    """One slice along the first axis; the only one of a flat image."""
    return np.asarray(volume[index] if volume.ndim == 3 else volume)


def aspect_of(spacing_mm: Sequence[float]) -> float:
    """Height of a pixel over its width."""
    return float(spacing_mm[-2] / spacing_mm[-1])
