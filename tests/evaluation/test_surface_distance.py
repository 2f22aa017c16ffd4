"""Surface distances: closed forms, brute force, SimpleITK and SciPy's distance transform."""

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from scipy.spatial.distance import cdist

from nnunetv2_le.errors import InputError
from nnunetv2_le.evaluation.surface_distance import surface, surface_distances

MASKS = arrays(np.bool_, (4, 5, 6))


def blob(centre, radius, shape=(20, 24, 22)):
    grid = np.ogrid[tuple(slice(0, size) for size in shape)]
    return sum(((g - c) / radius) ** 2 for g, c in zip(grid, centre, strict=True)) <= 1


def image_of(mask, spacing):
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing(spacing[::-1])
    return image


@settings(deadline=None, max_examples=50)
@given(MASKS, MASKS, st.tuples(*[st.floats(0.3, 5)] * 3))
def test_distances_equal_brute_force_over_all_pairs_of_points(reference, prediction, spacing):
    assume(reference.any() and prediction.any())
    result = surface_distances(reference, prediction, spacing_mm=spacing, tolerance_mm=1.0)
    points = [np.argwhere(surface(mask)) * spacing for mask in (reference, prediction)]
    pairs = cdist(*points)
    forth, back = pairs.min(axis=1), pairs.min(axis=0)
    assert result.hd95_mm == pytest.approx(
        max(np.percentile(forth, 95), np.percentile(back, 95)), abs=1e-9
    )
    assert result.mean_surface_distance_mm == pytest.approx(
        (forth.mean() + back.mean()) / 2, abs=1e-9
    )
    within = (forth <= 1).sum() + (back <= 1).sum()
    assert result.surface_dice == pytest.approx(within / (len(forth) + len(back)))
    voxels = cdist(np.argwhere(reference) * spacing, np.argwhere(prediction) * spacing)
    assert result.modified_hausdorff_mm == pytest.approx(
        max(voxels.min(axis=1).mean(), voxels.min(axis=0).mean()), abs=1e-9
    )


def test_distances_equal_a_distance_transform_to_a_millionth_of_a_millimetre():
    spacing = (2.5, 0.8, 0.7)
    reference, prediction = blob((9, 11, 10), 7), blob((10, 13, 11), 6)
    result = surface_distances(reference, prediction, spacing_mm=spacing)
    maps = [
        ndimage.distance_transform_edt(~surface(mask), sampling=spacing)
        for mask in (reference, prediction)
    ]
    forth, back = maps[1][surface(reference)], maps[0][surface(prediction)]
    assert result.hd95_mm == pytest.approx(
        max(np.percentile(forth, 95), np.percentile(back, 95)), abs=1e-6
    )
    assert result.mean_surface_distance_mm == pytest.approx(
        (forth.mean() + back.mean()) / 2, abs=1e-6
    )


def test_surface_and_mean_distance_equal_simpleitk():
    spacing = (2.5, 0.8, 0.7)
    reference, prediction = blob((9, 11, 10), 7), blob((10, 13, 11), 6)
    contours = [sitk.LabelContour(image_of(mask, spacing)) for mask in (reference, prediction)]
    for mask, contour in zip((reference, prediction), contours, strict=True):
        assert (sitk.GetArrayFromImage(contour) > 0).tolist() == surface(mask).tolist()
    filtered = sitk.HausdorffDistanceImageFilter()
    filtered.Execute(*contours)
    result = surface_distances(reference, prediction, spacing_mm=spacing)
    # SimpleITK's distance maps are float32, good to about 1e-5 mm
    assert result.mean_surface_distance_mm == pytest.approx(
        filtered.GetAverageHausdorffDistance(), abs=2e-5
    )
    filtered.Execute(image_of(reference, spacing), image_of(prediction, spacing))
    assert result.modified_hausdorff_mm >= filtered.GetAverageHausdorffDistance() - 2e-5


def test_shifted_cube_closed_form():
    reference, prediction = np.zeros((10, 10, 10), bool), np.zeros((10, 10, 10), bool)
    reference[2:5, 2:5, 2:5] = True
    prediction[4:7, 2:5, 2:5] = True  # two voxels of 3 mm along the first axis, one plane shared
    result = surface_distances(reference, prediction, spacing_mm=(3, 1, 1), tolerance_mm=3)
    assert result.hd95_mm == pytest.approx(6)
    assert result.modified_hausdorff_mm == pytest.approx((0 + 3 + 6) / 3)
    # surface: 9 + 8 + 9 voxels at 6, 3 and 0 mm, but the plane's middle (0 mm apart in the other
    # mask) is on both surfaces too
    assert result.mean_surface_distance_mm == pytest.approx((9 * 6 + 8 * 3) / 26)
    assert result.surface_dice == pytest.approx((8 + 9) / 26)


@pytest.mark.parametrize(
    ("size_mm", "voxels"), [(0.8, 1), (0.7, 1), (0.1, 3), (0.4, 2), (0.2, 5), (1.0, 1), (0.03, 100)]
)
def test_a_distance_that_equals_the_tolerance_is_within_it(size_mm, voxels):
    mask = np.zeros((300, 8, 8), bool)
    mask[100:112, 2:6, 2:6] = True
    moved = np.roll(mask, voxels, axis=0)
    for size in (size_mm, float(np.float32(size_mm))):  # as it is meant, and as headers keep it
        result = surface_distances(
            mask, moved, spacing_mm=(size, 50, 50), tolerance_mm=size_mm * voxels
        )
        assert result.surface_dice == 1
        less = surface_distances(
            mask, moved, spacing_mm=(size, 50, 50), tolerance_mm=size_mm * voxels * 0.9999
        )
        assert less.surface_dice < 1


def test_equal_masks_have_distance_zero():
    mask = blob((9, 11, 10), 6)
    result = surface_distances(mask, mask, spacing_mm=(1, 1, 1), tolerance_mm=0)
    assert (result.hd95_mm, result.modified_hausdorff_mm) == (0, 0)
    assert (result.mean_surface_distance_mm, result.surface_dice) == (0, 1)


@given(MASKS, MASKS)
def test_distances_are_symmetric(one, other):
    spacing = (1.0, 2.0, 0.5)
    forth = surface_distances(one, other, spacing_mm=spacing)
    back = surface_distances(other, one, spacing_mm=spacing)
    assert vars(forth) == pytest.approx(vars(back), nan_ok=True)


def test_a_slice_is_measured_along_its_contour():
    disc = blob((10, 10), 6, shape=(21, 21))
    smaller = blob((10, 10), 4, shape=(21, 21))
    flat = surface_distances(disc, smaller, spacing_mm=(0.5, 0.5))
    as_volume = surface_distances(disc[None], smaller[None], spacing_mm=(999, 0.5, 0.5))
    assert flat == as_volume
    assert flat.mean_surface_distance_mm == pytest.approx(1, abs=0.2)


def test_distance_to_nothing_is_undefined():
    empty, full = np.zeros((4, 4), bool), np.ones((4, 4), bool)
    for pair in ((empty, full), (full, empty)):
        result = surface_distances(*pair, spacing_mm=(1, 1))
        assert np.isnan([result.hd95_mm, result.modified_hausdorff_mm]).all()
        assert np.isnan(result.mean_surface_distance_mm)
        assert result.surface_dice == 0
    assert np.isnan(surface_distances(empty, empty, spacing_mm=(1, 1)).surface_dice)


def test_spacing_must_fit_the_axes():
    with pytest.raises(InputError, match="one spacing an axis"):
        surface_distances(np.ones((2, 2), bool), np.ones((2, 2), bool), spacing_mm=(1, 1, 1))


def test_the_usual_tolerance_is_one_millimetre():
    mask = np.zeros((9, 9), bool)
    mask[3:6, 3:6] = True
    for spacing, expected in ((1.0, 1), (1.1, 5 / 8)):
        moved = surface_distances(mask, np.roll(mask, 1, axis=0), spacing_mm=(spacing, 1.0))
        assert moved.surface_dice == expected
