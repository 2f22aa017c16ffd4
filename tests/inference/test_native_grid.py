"""The way back to the image's grid: nnU-Net's own resampling, in pieces of any size."""

from typing import Any

import numpy as np
import pytest
from inference.model_folders import TinyModel
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_le.inference import native_grid as module
from nnunetv2_le.inference.native_grid import NativeGrid, native_grid

SHAPE, CROPPED = (4, 6, 5), (7, 9, 3)


def properties(spacing: tuple[float, ...], shape: tuple[int, ...] = CROPPED) -> dict[str, Any]:
    """As nnU-Net's preprocessor notes them; spacing is that of the image's own axes."""
    return {
        "spacing": spacing,
        "shape_after_cropping_and_before_resampling": shape,
        "shape_before_cropping": tuple(size + 3 for size in shape),
        "bbox_used_for_cropping": [[1, 1 + size] for size in shape],
    }


def way_back(model: TinyModel, noted: dict[str, Any], **options: Any) -> NativeGrid:
    plans = model._plans()
    own = plans["configurations"][model.configuration]
    own["resampling_fn_probabilities_kwargs"] |= options
    manager = PlansManager(plans)
    return native_grid(noted, manager, manager.get_configuration(model.configuration))


def resampled(grid: NativeGrid, volume: np.ndarray) -> np.ndarray:
    pieces = list(grid.pieces(volume))
    assert [rows.start for rows, _ in pieces] == [0, *(rows.stop for rows, _ in pieces[:-1])]
    return np.concatenate([values.numpy() for _, values in pieces], axis=1)


SPACINGS = {
    "no axis is coarse": (1.0, 1.2, 0.9),
    "first axis is coarse": (5.0, 1.0, 0.9),
    "second axis is coarse": (1.0, 5.0, 0.9),
    "third axis is coarse": (1.0, 1.2, 6.0),
}


@pytest.mark.parametrize("spacing", SPACINGS.values(), ids=SPACINGS)
@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize("order", [1, 3])
def test_pieces_are_the_rows_of_nnunets_own_resampling(
    spacing: tuple[float, ...], rows: int, order: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
    monkeypatch.setattr(module, "_PIECE_BYTES", rows * 4 * 2 * CROPPED[1] * CROPPED[2])
    model = TinyModel(transpose_forward=(0, 1, 2))
    grid = way_back(model, properties(spacing), order=order)
    options = {"is_seg": False, "order": order, "order_z": 0, "force_separate_z": None}
    expected = resample_data_or_seg_to_shape(volume, CROPPED, (1, 1, 1), spacing, **options)
    np.testing.assert_allclose(resampled(grid, volume), expected, atol=2e-5)


@pytest.mark.parametrize("options", [{"order": 0}, {"order_z": 1}, {"is_seg": True}])
def test_another_interpolation_is_nnunets_own(options: dict[str, Any]) -> None:
    spacing = (5.0, 1.0, 0.9)
    volume = np.random.default_rng(0).integers(0, 3, (1, *SHAPE)).astype(np.float32)
    grid = way_back(TinyModel(), properties(spacing), **options)
    chosen = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None} | options
    expected = resample_data_or_seg_to_shape(volume, CROPPED, (1, 1, 1), spacing, **chosen)
    np.testing.assert_allclose(resampled(grid, volume), expected, atol=1e-6)


def test_half_precision_is_kept_as_nnunet_keeps_it() -> None:
    volume = np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float16)
    values = resampled(way_back(TinyModel(), properties((1.0, 1.2, 0.9))), volume)
    np.testing.assert_array_equal(values, values.astype(np.float16))


def test_the_coarse_axis_is_that_of_the_networks_order() -> None:
    model = TinyModel(transpose_forward=(2, 0, 1))
    assert way_back(model, properties((5.0, 1.0, 0.9))).nearest_axis == 1
    assert way_back(model, properties((1.0, 1.0, 5.0))).nearest_axis == 0


def test_slices_keep_the_images_spacing_along_the_axis_that_the_network_does_not_see() -> None:
    slices = TinyModel(patch=(8, 8), spacing=(1.0, 1.0), transpose_forward=(1, 0, 2))
    assert way_back(slices, properties((1.0, 5.0, 1.0))).nearest_axis == 0
    assert way_back(slices, properties((1.0, 1.0, 1.0))).nearest_axis is None
    assert way_back(slices, properties((1.0, 1.0, 5.0))).nearest_axis == 2


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_a_voxel_keeps_its_place_in_the_image(order: tuple[int, int, int]) -> None:
    place = tuple(slice(low, low + size) for low, size in zip((3, 1, 2), CROPPED, strict=True))
    grid = NativeGrid(CROPPED, (20, 20, 20), place, order)
    here = grid.native_voxel((1.0, 2.0, 0.5), CROPPED)
    assert tuple(here[axis] for axis in order) == pytest.approx((4.0, 3.0, 2.5))
    twice = tuple(2 * size for size in CROPPED)
    fine = grid.native_voxel((0.5, 2.5, -0.5), twice)  # borders of voxels lie upon each other
    assert tuple(fine[axis] for axis in order) == pytest.approx((3.0, 2.0, 1.5))
