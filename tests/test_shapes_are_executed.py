"""The shapes in annotations are checked while the tests run, and not in production."""

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from nnunetv2_le.demo.shifts import blur
from nnunetv2_le.network.logits import upsample


def test_an_array_of_the_wrong_rank_is_refused():
    with pytest.raises(TypeCheckError, match=r"shifts\.blur"):
        blur(np.zeros((4, 4)), 1, np.random.default_rng(0))


def test_a_tensor_of_the_wrong_dtype_is_refused():
    with pytest.raises(TypeCheckError, match=r"logits\.upsample"):
        upsample(torch.zeros(1, 2, 4, dtype=torch.int64), (8,))


def test_shapes_are_not_checked_for_users(shapes_unchecked):
    assert blur(np.zeros((4, 4)), 1, np.random.default_rng(0)).shape == (4, 4)
