"""What the figures of a case are made of: its own files, its slice, its heads."""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import SimpleITK as sitk
from evaluation.made_up_predictions import MadeUp, make, write, write_map

from nnunetv2_le.errors import InputError
from nnunetv2_le.evaluation.cases import find_cases
from nnunetv2_le.evaluation.dataset import read_dataset
from nnunetv2_le.report import case_figures as module
from nnunetv2_le.report.slices import busiest_slice

SHAPE = (8, 14, 12)


@pytest.fixture
def made(tmp_path: Path) -> MadeUp:
    return make(tmp_path, num_cases=1, num_heads=3, probabilities=True)


def array(file: Path) -> Any:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def drawn(made: MadeUp, *references: Path, **how: Any) -> dict[str, Any]:
    """How the two figures of the only case are asked for; none of them is drawn."""
    dataset = read_dataset(made.out / "dataset.json")
    (files,), _ = find_cases(made.out, references or (made.references,), file_ending=".nii.gz")
    calls = mock.Mock()
    calls.save_figure.side_effect = lambda _, folder, name: [folder / name]
    with mock.patch.multiple(
        module,
        case_figure=calls.case,
        layer_agreement_figure=calls.heads,
        save_figure=calls.save_figure,
    ):
        written = module.case_figures(files, dataset, made.folder / "figures", **how)
    return {"written": written, "case": calls.case.call_args, "heads": calls.heads.call_args}


def test_the_figure_of_a_case_has_its_labels_maps_image_and_dice(made: MadeUp) -> None:
    image = made.folder / "images" / "case_00_0000.nii.gz"
    image.parent.mkdir()
    write(np.random.default_rng(0).integers(0, 9, SHAPE), image)
    variance = np.random.default_rng(1).random(SHAPE).astype(np.float32)
    write_map(variance, made.out / "uncertainty" / "case_00_heads_variance.nii.gz")
    found = drawn(made, image_folder=image.parent, dice=0.25)
    prediction, reference, maps = found["case"].args
    np.testing.assert_array_equal(prediction, array(made.out / "case_00.nii.gz"))
    np.testing.assert_array_equal(reference, array(made.references / "case_00.nii.gz"))
    assert list(maps) == ["entropy", "heads_variance"]
    np.testing.assert_array_equal(maps["heads_variance"], variance)
    how = dict(found["case"].kwargs)
    np.testing.assert_array_equal(how.pop("image"), array(image))
    assert how.pop("spacing_mm") == pytest.approx((1.5, 1.0, 0.8))
    index = busiest_slice([reference, prediction])
    assert how == {"case": "case_00", "index": index, "dice": 0.25}
    folder = made.folder / "figures"
    assert found["written"] == [folder / "case_case_00", folder / "layer_agreement_case_00"]


def test_without_images_there_is_none(made: MadeUp) -> None:
    assert drawn(made)["case"].kwargs["image"] is None
    with pytest.raises(InputError, match=r"the image .*case_00_0000\.nii\.gz cannot be read"):
        drawn(made, image_folder=made.folder)


def test_the_reference_of_several_raters_is_what_most_say(made: MadeUp) -> None:
    folders = []
    for number, label in enumerate((1, 2, 2)):
        folders.append(made.folder / f"rater_{number}")
        folders[-1].mkdir()
        write(np.full(SHAPE, label), folders[-1] / "case_00.nii.gz")
    assert (drawn(made, *folders)["case"].args[1] == 2).all()


def test_a_reference_of_another_shape_is_refused(made: MadeUp) -> None:
    write(np.zeros((8, 14, 11)), made.references / "case_00.nii.gz")
    with pytest.raises(InputError, match=r"case_00: reference \(8, 14, 11\) and prediction"):
        drawn(made)


def test_heads_are_shown_in_their_order_beside_the_agreements_of_the_record(made: MadeUp) -> None:
    asked = drawn(made)
    (heads, agreements), how = asked["heads"]
    for number, segmentation in enumerate(heads):
        with np.load(made.out / "heads" / f"head_{number:02d}" / "case_00.npz") as saved:
            np.testing.assert_array_equal(segmentation, saved["probabilities"].argmax(0))
    assert agreements == pytest.approx([0.5, 0.55])
    assert how["index"] == asked["case"].kwargs["index"]
    assert how["spacing_mm"] == asked["case"].kwargs["spacing_mm"]
    assert (how["case"], how["head_names"]) == ("case_00", None)


@pytest.mark.parametrize(
    ("names", "shown"), [(["a", "b", "c"], ["a", "b", "c"]), (["a", "b"], None), ([], None)]
)
def test_heads_have_their_names_where_the_record_has_one_for_each(
    made: MadeUp, names: list[str], shown: list[str] | None
) -> None:
    change_record(made, members={"heads": names})
    assert drawn(made)["heads"].kwargs["head_names"] == shown


@pytest.mark.parametrize("curve", [[None, 0.5], [], None])
def test_an_undefined_agreement_has_no_figure(made: MadeUp, curve: Any) -> None:
    change_record(made, layer_agreement=curve)
    found = drawn(made)
    assert found["heads"] is None
    assert [file.name for file in found["written"]] == ["case_case_00"]


def change_record(made: MadeUp, **values: Any) -> None:
    file = made.out / "cases" / "case_00.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
