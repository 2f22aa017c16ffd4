"""Positions in arrays that nnU-Net's readers turned, as indices of the files."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient

from nnunetv2_le.inference.file_orientation import voxel_in_file

READERS = (SimpleITKIO, SimpleITKIOWithReorient, NibabelIO, NibabelIOWithReorient)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SLA", "LIP"])
def test_a_voxel_is_found_in_the_file_whatever_its_orientation(
    tmp_path: Path, reader: Any, axes: str
) -> None:
    volume = np.zeros((5, 6, 7), dtype=np.uint8)
    volume[1, 2, 4] = 1
    tilted = np.array([[1, 0.1, 0, 3], [-0.1, 1, 0, -4], [0, 0, 2, 5], [0, 0, 0, 1]])
    tilted[:3, :2] /= np.sqrt(1.01)  # columns of length 1
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.io_orientation(tilted), nibabel.orientations.axcodes2ornt(axes)
    )
    file = tmp_path / "case.nii.gz"
    nibabel.save(nibabel.Nifti1Image(volume, tilted).as_reoriented(turn), file)

    labels, properties = reader().read_seg(str(file))
    (found,) = np.argwhere(labels[0] == 1)
    (expected,) = np.argwhere(np.asarray(nibabel.load(file).dataobj).transpose(2, 1, 0))

    in_file = voxel_in_file(tuple(found.tolist()), labels.shape[1:], properties)
    assert in_file == tuple(expected.tolist())


def test_formats_without_orientation_keep_positions() -> None:
    assert voxel_in_file((0.0, 1.5, 2.0), (1, 4, 5), {"spacing": (999, 1, 1)}) == (0.0, 1.5, 2.0)
