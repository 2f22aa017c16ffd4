"""Volumes of voxels as nnU-Net's own readers describe images."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunetv2_le.inference.voxel_volume import has_nominal_thickness, voxel_volume_ml


@pytest.mark.parametrize(
    ("reader", "name", "shape", "spacing", "expected"),
    [
        (NaturalImage2DIO(), "a.png", (5, 6), None, 1 / 1000),
        (SimpleITKIO(), "a.nii.gz", (5, 6), (0.5, 0.8), 0.4 / 1000),
        (SimpleITKIO(), "a.nii.gz", (1, 5, 6), (0.5, 0.8, 3.0), 1.2 / 1000),
        (SimpleITKIO(), "a.nii.gz", (4, 5, 6), (0.5, 0.8, 3.0), 1.2 / 1000),
    ],
)
def test_an_image_of_two_axes_is_a_slice_of_one_millimetre(
    tmp_path: Path,
    reader: BaseReaderWriter,
    name: str,
    shape: tuple[int, ...],
    spacing: tuple[float, ...] | None,
    expected: float,
):
    image = sitk.GetImageFromArray(np.zeros(shape, dtype=np.uint8))
    if spacing is not None:
        image.SetSpacing(spacing)
    sitk.WriteImage(image, str(tmp_path / name))
    _, properties = reader.read_images([str(tmp_path / name)])
    assert voxel_volume_ml(properties["spacing"]) == pytest.approx(expected)
    assert has_nominal_thickness(properties["spacing"]) == (len(shape) == 2)
