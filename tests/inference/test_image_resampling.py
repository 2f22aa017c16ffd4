"""Images are resampled as nnU-Net resamples them, for all its plans and in single precision."""

from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from nnunetv2.preprocessing.resampling.resample_torch import resample_torch_fornnunet
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from nnunetv2_le.inference import image_resampling
from nnunetv2_le.inference.image_resampling import (
    SmallMemoryConfiguration,
    preprocessing_configuration,
    resample_image,
)

CUBIC = {"order": 3, "order_z": 0, "force_separate_z": None, "is_seg": False}
LABELS = CUBIC | {"is_seg": True, "order": 1}
SPACINGS = {
    "isotropic": ((1.0, 1.0, 1.0), (1.5, 0.8, 1.2)),
    "one axis stays": ((1.0, 1.0, 1.0), (1.0, 0.7, 1.3)),
    "coarse first axis": ((5.0, 1.0, 1.0), (3.0, 1.5, 0.7)),
    "coarse second axis": ((1.0, 5.0, 1.0), (1.5, 3.0, 0.7)),
    "coarse third axis": ((1.0, 1.0, 5.0), (1.4, 0.8, 6.0)),
    "coarse axis that stays": ((5.0, 1.0, 1.0), (5.0, 1.5, 0.7)),
}


def configuration(function: str = "resample_data_or_seg_to_shape", **options: Any) -> Any:
    return ConfigurationManager(
        {
            "architecture": {},
            "resampling_fn_data": function,
            "resampling_fn_data_kwargs": options or CUBIC,
            "resampling_fn_seg": "resample_data_or_seg_to_shape",
            "resampling_fn_seg_kwargs": LABELS,
        }
    )


def random_image(*shape: int) -> Any:
    """Values with jumps, where splines overshoot the range of the image."""
    rng = np.random.default_rng(sum(shape))
    return (rng.normal(size=shape) + 5 * rng.integers(0, 2, shape)).astype(np.float32)


def new_shape(shape: Any, old: Any, new: Any) -> list[int]:
    return [round(n * a / b) for n, a, b in zip(shape, old, new, strict=True)]


@pytest.mark.parametrize(("old", "new"), SPACINGS.values(), ids=SPACINGS.keys())
@pytest.mark.parametrize("order", [1, 2, 3])
def test_resampling_equals_nnunet(old: Any, new: Any, order: int):
    image = random_image(2, 14, 17, 19)
    shape = new_shape(image.shape[1:], old, new)
    ours = resample_image(image, shape, old, new, order=order, force_separate_z=None)
    stock = resample_data_or_seg_to_shape(image, shape, old, new, **CUBIC | {"order": order})
    assert ours.dtype == stock.dtype == np.float32
    np.testing.assert_allclose(ours, stock, atol=1e-5)


@settings(max_examples=25)
@given(
    shape=st.tuples(*[st.integers(1, 20)] * 3),
    size=st.tuples(*[st.integers(1, 24)] * 3),
)
def test_resampling_equals_nnunet_for_every_shape(shape: Any, size: Any):
    image, spacing = random_image(1, *shape), (1.0, 1.0, 1.0)
    ours = resample_image(image, size, spacing, spacing)
    stock = resample_data_or_seg_to_shape(image, size, spacing, spacing, **CUBIC)
    np.testing.assert_allclose(ours, stock, atol=1e-5)


def test_the_size_of_pieces_changes_nothing():
    image, spacing = random_image(1, 30, 10, 12), (1.0, 1.0, 1.0)
    whole = resample_image(image, (20, 15, 7), spacing, spacing)
    with mock.patch.object(image_resampling, "_PIECE_BYTES", 4 * 10 * 12 * 7):
        pieces = resample_image(image, (20, 15, 7), spacing, spacing)
    np.testing.assert_allclose(pieces, whole, atol=1e-6)


def test_an_image_of_the_right_shape_is_left_alone():
    image = random_image(1, 4, 5, 6)
    assert resample_image(image, (4, 5, 6), (1, 1, 1), (1, 1, 1)) is image


def test_a_constant_image_stays_constant():
    image = np.full((1, 9, 9, 9), 7.0, dtype=np.float32)
    resized = resample_image(image, (13, 5, 9), (1, 1, 1), (1, 1, 1))
    np.testing.assert_array_equal(resized, np.float32(7.0))


def test_nnunets_default_is_done_our_way():
    function = SmallMemoryConfiguration(configuration(), needs_labels=True).resampling_fn_data
    assert isinstance(function, partial)
    assert function.func is resample_image
    assert function.keywords == {"order": 3, "force_separate_z": None}


def test_the_order_of_the_splines_is_that_of_the_configuration():
    changed = configuration(**(CUBIC | {"order": 1}))
    function = SmallMemoryConfiguration(changed, needs_labels=True).resampling_fn_data
    assert function.func is resample_image
    assert function.keywords["order"] == 1


@pytest.mark.parametrize(
    ("function", "options"),
    [
        ("resample_data_or_seg_to_shape", CUBIC | {"is_seg": True, "order": 1}),
        ("resample_torch_fornnunet", {"is_seg": False, "force_separate_z": False}),
        ("resample_data_or_seg_to_shape", CUBIC | {"order": 5}),
        ("resample_data_or_seg_to_shape", CUBIC | {"order_z": 1}),
    ],
)
def test_another_interpolation_stays_nnunets(function: str, options: Any):
    ours = SmallMemoryConfiguration(configuration(function, **options), needs_labels=True)
    kept = ours.resampling_fn_data
    assert kept.func in (resample_torch_fornnunet, resample_data_or_seg_to_shape)
    assert kept.keywords == options


def test_labels_that_are_wanted_are_resampled_by_nnunet():
    with_labels = SmallMemoryConfiguration(configuration(), needs_labels=True)
    assert with_labels.resampling_fn_seg.func is resample_data_or_seg_to_shape


def test_labels_that_nobody_wants_are_of_the_right_shape():
    without = SmallMemoryConfiguration(configuration(), needs_labels=False)
    mask = np.full((1, 4, 5, 6), -1, dtype=np.int8)
    resized = without.resampling_fn_seg(mask, (2, 3, 4), (1, 1, 1), (2, 2, 2))
    assert resized.shape == (1, 2, 3, 4)
    assert resized.dtype == np.int8


class OtherSteps(DefaultPreprocessor):  # type: ignore[misc]
    """A preprocessor of somebody else, who may look at the labels."""

    def run_case_npy(self, *arguments: Any) -> Any:
        return super().run_case_npy(*arguments)


def test_a_preprocessor_with_other_steps_gets_the_configuration_as_it_is():
    given_one = configuration()
    theirs = preprocessing_configuration(given_one, OtherSteps(), needs_labels=False)
    ours = preprocessing_configuration(given_one, DefaultPreprocessor(), needs_labels=False)
    assert theirs is given_one
    assert isinstance(ours, SmallMemoryConfiguration)
