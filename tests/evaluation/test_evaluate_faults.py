"""What an evaluation cannot use is named, and the rest is evaluated."""

import json

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from evaluation.made_up_predictions import make, write

from nnunetv2_le.errors import InputError
from nnunetv2_le.evaluation.evaluate import evaluate_prediction
from nnunetv2_le.evaluation.method import MethodSettings

FAST = MethodSettings(num_draws=20)


def evaluate(made, **settings):
    return evaluate_prediction(made.out, [made.references], **{"method": FAST, **settings})


def test_other_shape_is_named_and_the_rest_evaluated(tmp_path):
    made = make(tmp_path)
    write(np.ones((8, 14, 13)), made.references / "case_01.nii.gz")
    evaluation = evaluate(made)
    assert list(evaluation.cases.index) == [c for c in made.cases if c != "case_01"]
    assert ("case_01", "shape (8, 14, 13), its prediction (8, 14, 12)") in [
        (p.case, p.problem[len("its reference has ") :].split(":")[0]) for p in evaluation.problems
    ]


def test_other_spacing_is_named_and_the_rest_evaluated(tmp_path):
    made = make(tmp_path)
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(made.references / "case_02.nii.gz")))
    write(array, made.references / "case_02.nii.gz", spacing=(3, 1, 0.8))
    evaluation = evaluate(made)
    assert "case_02" not in evaluation.cases.index
    assert any(p.case == "case_02" and "spacing" in p.problem for p in evaluation.problems)


def test_unknown_labels_are_counted_and_the_case_evaluated(tmp_path):
    made = make(tmp_path)
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(made.references / "case_00.nii.gz")))
    array[0, 0, :4] = 7
    write(array, made.references / "case_00.nii.gz")
    evaluation = evaluate(made)
    assert "case_00" in evaluation.cases.index
    assert any(p.case == "case_00" and "7 (4 voxels)" in p.problem for p in evaluation.problems)


def test_an_image_given_as_reference_is_named_and_the_rest_evaluated(tmp_path):
    made = make(tmp_path)
    image = sitk.GetImageFromArray(np.arange(8 * 14 * 12, dtype=np.uint16).reshape(8, 14, 12) * 40)
    image.SetSpacing((0.8, 1.0, 1.5))
    sitk.WriteImage(image, str(made.references / "case_00.nii.gz"))
    evaluation = evaluate(made)
    assert "case_00" not in evaluation.cases.index
    said = "case_00.nii.gz: a label image must hold at most 1024 different values, got 1344"
    assert any(p.case == "case_00" and said in p.problem for p in evaluation.problems)


def test_of_many_unknown_labels_the_first_are_listed(tmp_path):
    made = make(tmp_path)
    array = np.arange(8 * 14 * 12).reshape(8, 14, 12) % 200
    write(array, made.references / "case_00.nii.gz")
    (problem,) = [p.problem for p in evaluate(made).problems if p.case == "case_00"]
    assert problem.endswith("6 (7 voxels), 7 (7 voxels) and 192 more")


@pytest.mark.parametrize("ending", [".nrrd", ".nii.gz"])  # the NIfTI library reads NaN as 0
def test_nan_in_a_reference_is_named_and_the_rest_evaluated(tmp_path, ending):
    made = make(tmp_path, ending=ending)
    image = sitk.GetImageFromArray(np.full((8, 14, 12), np.nan, np.float32))
    image.SetSpacing((0.8, 1.0, 1.5))
    sitk.WriteImage(image, str(made.references / f"case_00{ending}"))
    evaluation = evaluate(made)
    assert "case_00" not in evaluation.cases.index
    said = "whole numbers, got 1344 voxels with NaN"
    assert any(p.case == "case_00" and said in p.problem for p in evaluation.problems)


def test_a_reference_of_several_volumes_is_named_and_the_rest_evaluated(tmp_path):
    made = make(tmp_path)
    volume = sitk.ReadImage(str(made.references / "case_00.nii.gz"))
    for case, number in (("case_00", 3), ("case_01", 1)):
        volume = sitk.ReadImage(str(made.references / f"{case}.nii.gz"))
        series = sitk.JoinSeries([volume] * number)
        sitk.WriteImage(series, str(made.references / f"{case}.nii.gz"))
    evaluation = evaluate(made)
    assert "case_00" not in evaluation.cases.index
    assert "case_01" in evaluation.cases.index
    said = "case_00.nii.gz: a label image must hold one volume or channel, got 3"
    assert any(p.case == "case_00" and said in p.problem for p in evaluation.problems)


def test_unreadable_file_is_named_and_the_rest_evaluated(tmp_path):
    made = make(tmp_path)
    (made.out / "case_03.nii.gz").write_bytes(b"nonsense")
    evaluation = evaluate(made)
    assert "case_03" not in evaluation.cases.index
    assert any(p.case == "case_03" and "cannot be read" in p.problem for p in evaluation.problems)


@pytest.mark.parametrize("side", ["out", "references"])
def test_a_damaged_file_is_named_and_the_rest_evaluated(tmp_path, side):
    made = make(tmp_path)
    file = getattr(made, side) / "case_03.nii.gz"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(content)
    evaluation = evaluate(made)
    assert "case_03" not in evaluation.cases.index
    said = "cannot be read: its content is damaged"
    assert any(p.case == "case_03" and said in p.problem for p in evaluation.problems)


def test_broken_probabilities_are_left_out_and_named(tmp_path):
    made = make(tmp_path, probabilities=True)
    np.savez(made.out / "case_01.npz", probabilities=np.full((3, 8, 14, 12), 5.0))
    evaluation = evaluate(made)
    assert np.isnan(evaluation.cases.loc["case_01", "nll"])
    assert np.isfinite(evaluation.cases.loc["case_01", "dice"])
    assert any(
        p.case == "case_01" and "were logits saved" in p.problem for p in evaluation.problems
    )


def test_nothing_usable_is_an_error(tmp_path):
    made = make(tmp_path, num_cases=2)
    for case in made.cases:
        write(np.ones((2, 2, 2)), made.references / f"{case}.nii.gz")
    with pytest.raises(InputError, match="none of 2 cases could be evaluated; the first: case_00"):
        evaluate(made)


def test_constant_and_undefined_scores_are_named(tmp_path):
    evaluation = evaluate(make(tmp_path))
    problems = [p.problem for p in evaluation.problems]
    assert "score constant over all: it is constant, so it orders nothing" in problems
    assert any("score sometimes over all: undefined in 1 cases (case_01)" in p for p in problems)


def test_fewer_than_three_cases_have_no_correlation_but_figures(tmp_path):
    evaluation = evaluate(make(tmp_path, num_cases=2))
    row = evaluation.score_table.set_index(["subset", "score"]).loc[("all", "consensus_dice")]
    assert np.isnan(row["spearman_dice"])
    assert np.isfinite(row["aurc"])
    few = [p.problem for p in evaluation.problems if "3 are needed" in p.problem]
    assert few == [
        f"4 scores over {subset}: 2 cases have Dice, 3 are needed"
        for subset in ("all", "label=front", "label=back")
    ]


def test_a_score_that_few_cases_have_is_named(tmp_path):
    made = make(tmp_path)
    table = pd.read_csv(made.out / "uncertainty.csv")
    table.loc[2:, "sometimes"] = np.nan
    table.to_csv(made.out / "uncertainty.csv", index=False)
    problems = [p.problem for p in evaluate(made).problems]
    assert "score sometimes over all: 1 cases have it and Dice, 3 are needed" in problems


def test_case_without_scores_is_named(tmp_path):
    made = make(tmp_path)
    table = pd.read_csv(made.out / "uncertainty.csv")
    table[table["case"] != "case_04"].to_csv(made.out / "uncertainty.csv", index=False)
    evaluation = evaluate(made)
    problems = {(p.case, p.problem) for p in evaluation.problems}
    assert ("case_04", "uncertainty.csv has no row for it") in problems


def test_stock_predictions_without_scores_are_evaluated(tmp_path):
    made = make(tmp_path)
    for name in ("uncertainty.csv", "uncertainty_per_label.csv", "uncertainty.json"):
        (made.out / name).unlink()
    evaluation = evaluate(made)
    assert evaluation.scores == ()
    assert evaluation.score_table.empty
    assert np.isfinite(evaluation.cases["dice"]).all()


def test_direction_must_be_known(tmp_path):
    made = make(tmp_path, num_cases=3)
    columns = {"consensus_dice": {"direction": "sideways"}}
    (made.out / "uncertainty.json").write_text(json.dumps({"columns": columns}))
    with pytest.raises(InputError, match="direction of consensus_dice must be one of"):
        evaluate(made)


def test_case_named_twice_in_a_table_is_refused(tmp_path):
    made = make(tmp_path, num_cases=3)
    text = (made.out / "uncertainty.csv").read_text()
    (made.out / "uncertainty.csv").write_text(text + text.splitlines()[-1] + "\n")
    with pytest.raises(InputError, match="names 1 rows twice"):
        evaluate(made)
