"""Logits whose probabilities are right once they are divided by a planted temperature."""

import numpy as np
from scipy.special import softmax

from nnunetv2_le.calibration.temperature import TemperatureSearch


def made_up(generator, temperature=1.0, *, voxels=3000, channels=3, bias=None):
    """Logits and true classes of one case."""
    right = generator.normal(scale=2.0, size=(channels, voxels))
    true = right if bias is None else right + np.asarray(bias)[:, None]
    shares = softmax(true, axis=0)
    truth = (generator.uniform(size=voxels) > np.cumsum(shares, axis=0)[:-1]).sum(axis=0)
    return right * temperature, truth


def search_of(temperatures, *, cases=8, seed=0, **settings):
    """A search, what was added to it, and the patients of its cases."""
    generator = np.random.default_rng(seed)
    search = TemperatureSearch(tuple(f"m{n}" for n in range(len(temperatures))))
    kept = []
    for _ in range(cases):
        logits, truth = made_up(generator, **settings)
        stack = np.stack([logits * t for t in temperatures]).astype(np.float32)
        search.add(stack, truth)
        kept.append((stack, truth))
    return search, kept, np.arange(cases)
