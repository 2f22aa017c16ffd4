"""Evaluation of a folder: nnU-Net's own figures, scores joined, and every kind of bad input."""

import json

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from evaluation.made_up_predictions import make, softened, write
from helpers import processes_as_threads
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder, load_summary_json
from scipy import ndimage
from sklearn.metrics import brier_score_loss, log_loss

from nnunetv2_le.errors import InputError
from nnunetv2_le.evaluation.case_metrics import MetricSettings
from nnunetv2_le.evaluation.evaluate import evaluate_prediction
from nnunetv2_le.evaluation.method import MethodSettings
from nnunetv2_le.evaluation.surface_distance import surface_distances

FAST = MethodSettings(num_draws=20)


def evaluate(made, **settings):
    return evaluate_prediction(made.out, [made.references], **{"method": FAST, **settings})


def nnunet_figures(references, out, dataset, file_ending):
    """Dice and IoU as nnUNetv2_evaluate_folder writes them."""
    with processes_as_threads():
        compute_metrics_on_folder(
            str(references),
            str(out),
            str(out / "summary.json"),
            dataset.reader,
            file_ending,
            list(dataset.labels.values),
            dataset.ignore_label,
            num_processes=1,
        )
    summary = load_summary_json(str(out / "summary.json"))
    return [case["metrics"] for case in summary["metric_per_case"]]


def assert_equal_to_nnunet(evaluation, references, out, file_ending):
    expected = nnunet_figures(references, out, evaluation.dataset, file_ending)
    labels = evaluation.dataset.labels
    for column, name in (("dice", "Dice"), ("iou", "IoU")):
        mine = evaluation.labels[column].to_numpy().reshape(-1, len(labels.values))
        theirs = [[float(case[value][name]) for value in labels.values] for case in expected]
        np.testing.assert_array_equal(mine, np.array(theirs))


def synthetic(labels, number, rng):
    """A prediction made from its reference: shifted, eroded, noised or empty."""
    kind = number % 4
    if kind == 0:
        return np.roll(labels, 1, axis=-1)
    if kind == 1:
        return labels * ndimage.binary_erosion(labels > 0)
    if kind == 2:
        return np.where(rng.random(labels.shape) < 0.02, rng.integers(0, 2, labels.shape), labels)
    return np.zeros_like(labels)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "ending"), [("Dataset004_Hippocampus", ".nii.gz"), ("Dataset101_LIDC", ".png")]
)
def test_dice_and_iou_equal_nnunet_on_real_data(tmp_path, data_root, name, ending):
    references, out = data_root / name / "labelsTs", tmp_path / "out"
    out.mkdir()
    content = (data_root / name / "dataset.json").read_text()
    (out / "dataset.json").write_text(content)
    rng = np.random.default_rng(0)
    for number, file in enumerate(sorted(references.iterdir())[:40]):
        image = sitk.ReadImage(str(file))
        array = sitk.GetArrayFromImage(image)
        array = np.rint(array).astype(np.uint8)
        changed = synthetic(array if array.ndim == 3 else array[None], number, rng)
        result = sitk.GetImageFromArray(changed.reshape(array.shape).astype(np.uint8))
        result.CopyInformation(image)
        sitk.WriteImage(result, str(out / file.name))
    evaluation = evaluate_prediction(out, [references], method=FAST)
    assert len(evaluation.cases) == 40
    assert_equal_to_nnunet(evaluation, references, out, ending)


@pytest.mark.filterwarnings("ignore:Mean of empty slice")  # nnU-Net's own
def test_empty_and_missed_labels_follow_nnunet(tmp_path):
    made = make(tmp_path, num_cases=3)
    for case, references, prediction in (("case_00", 0, 0), ("case_01", 1, 0), ("case_02", 0, 1)):
        write(np.full((8, 14, 12), references), made.references / f"{case}.nii.gz")
        write(np.full((8, 14, 12), prediction), made.out / f"{case}.nii.gz")
    evaluation = evaluate(made)
    assert_equal_to_nnunet(evaluation, made.references, made.out, ".nii.gz")
    rows = evaluation.cases
    assert rows["dice"].tolist() == pytest.approx([np.nan, 0, 0], nan_ok=True)
    assert rows["hd95_mm"].isna().all()
    assert rows["surface_dice"].tolist() == pytest.approx([np.nan, 0, 0], nan_ok=True)
    assert rows["missed_labels"].tolist() == [0, 1, 0]
    assert rows["invented_labels"].tolist() == [0, 0, 1]
    assert rows["absent_labels"].tolist() == [2, 1, 1]
    assert np.isnan(rows["relative_volume_error"].iloc[2])


def test_regions_and_ignore_label_follow_nnunet(tmp_path):
    labels = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    made = make(tmp_path, num_cases=3, labels=labels)
    for case in made.cases:
        image = sitk.ReadImage(str(made.references / f"{case}.nii.gz"))
        array = sitk.GetArrayFromImage(image)
        array[:2] = 3
        write(array, made.references / f"{case}.nii.gz")
    evaluation = evaluate(made)
    assert_equal_to_nnunet(evaluation, made.references, made.out, ".nii.gz")
    assert all(p.case == "" for p in evaluation.problems)


def test_case_figures_equal_the_functions_on_arrays(tmp_path):
    made = make(tmp_path, num_cases=3, probabilities=True)
    evaluation = evaluate(made, metrics=MetricSettings(tolerance_mm=1.2))
    case = made.cases[2]
    reference, prediction = (
        sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{case}.nii.gz")))
        for folder in (made.references, made.out)
    )
    row = evaluation.labels.set_index(["case", "label_name"]).loc[(case, "back")]
    expected = surface_distances(
        reference == 2, prediction == 2, spacing_mm=(1.5, 1.0, 0.8), tolerance_mm=1.2
    )
    for name, value in vars(expected).items():
        assert row[name] == pytest.approx(value, abs=1e-5)
    error = int((prediction == 2).sum()) - int((reference == 2).sum())
    assert row["volume_error_ml"] == pytest.approx(error * 1.5 * 0.8 / 1000, rel=1e-5)
    channels = np.load(made.out / f"{case}.npz")["probabilities"].reshape(3, -1).T.astype(float)
    channels /= channels.sum(axis=1, keepdims=True)
    row = evaluation.cases.loc[case]
    truth = reference.ravel()
    assert row["nll"] == pytest.approx(log_loss(truth, channels, labels=[0, 1, 2]), abs=1e-5)
    assert row["brier"] == pytest.approx(
        brier_score_loss(truth, channels, labels=[0, 1, 2], scale_by_half=False), abs=1e-5
    )
    near = ndimage.binary_dilation((reference > 0) | (prediction > 0), iterations=5).ravel()
    assert row["roi_voxels"] == near.sum()
    assert row["roi_nll"] == pytest.approx(
        log_loss(truth[near], channels[near], labels=[0, 1, 2]), abs=1e-5
    )


def test_region_probabilities_are_evaluated(tmp_path):
    labels = {"background": 0, "whole": [1, 2], "core": [2]}
    made = make(tmp_path, num_cases=3, labels=labels)
    rng = np.random.default_rng(0)
    for case in made.cases:
        soft = softened(np.zeros((8, 14, 12)), rng, noise=1.0)[:2]
        np.savez(made.out / f"{case}.npz", probabilities=soft)
    evaluation = evaluate(made)
    assert np.isfinite(evaluation.cases["nll"]).all()
    assert evaluation.cases["ece"].isna().all()


def test_png_slices_have_no_volume_in_millilitres(tmp_path):
    made = make(tmp_path, num_cases=3, shape=(1, 30, 30), ending=".png")
    rows = evaluate(made).cases
    assert rows["volume_error_ml"].isna().all()
    assert np.isfinite(rows["relative_volume_error"]).all()
    assert np.isfinite(rows["mean_surface_distance_mm"]).any()


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


def test_domains_and_patients_come_from_the_table_of_cases(tmp_path):
    made = make(tmp_path, num_cases=7)
    table = pd.DataFrame({"case": made.cases[:6], "site": list("aaabbb"), "who": list("xxyyzz")})
    table.to_csv(tmp_path / "cases.csv", index=False)
    evaluation = evaluate(
        made,
        case_table=tmp_path / "cases.csv",
        method=MethodSettings(num_draws=20, domain_column="site", patient_column="who"),
    )
    subsets = set(evaluation.score_table["subset"])
    assert subsets == {"all", "site=a", "site=b", "site=unknown", "label=front", "label=back"}
    sizes = evaluation.score_table.set_index(["subset", "score"])["num_cases"]
    assert sizes[("site=a", "consensus_dice")] == 3
    assert any(p.case == "case_06" and "table of cases" in p.problem for p in evaluation.problems)


def test_empty_rows_of_a_spreadsheet_are_no_cases(tmp_path):
    made = make(tmp_path, num_cases=3)
    rows = "\n".join(f"{case},x" for case in made.cases)
    (tmp_path / "cases.csv").write_text(f"case,who\n{rows}\n,\n,\n")
    settings = MethodSettings(num_draws=20, patient_column="who")
    evaluation = evaluate(made, case_table=tmp_path / "cases.csv", method=settings)
    assert list(evaluation.cases["who"]) == ["x"] * 3


@pytest.mark.parametrize("ending", ["", ",", " ", " ,"])
def test_blanks_and_commas_at_the_end_of_rows_change_nothing(tmp_path, ending):
    made = make(tmp_path, num_cases=4)
    rows = [f"{case},{who}" for case, who in zip(made.cases, "xxyy", strict=True)]
    text = "\n".join(["case,who", *(row + ending for row in rows), " , "])
    (tmp_path / "cases.csv").write_text(text)
    settings = MethodSettings(num_draws=20, patient_column="who")
    evaluation = evaluate(made, case_table=tmp_path / "cases.csv", method=settings)
    assert list(evaluation.cases["who"]) == ["x", "x", "y", "y"]


def test_rows_longer_than_the_header_are_refused(tmp_path):
    made = make(tmp_path, num_cases=3)
    rows = "\n".join(f"{case},x,y" for case in made.cases)
    (tmp_path / "cases.csv").write_text(f"case,who\n{rows}\n")
    with pytest.raises(InputError, match=r"cases\.csv cannot be read as a table: Length of header"):
        evaluate(made, case_table=tmp_path / "cases.csv", method=MethodSettings(num_draws=0))


def test_cases_without_a_patient_are_named_and_drawn_one_by_one(tmp_path):
    made = make(tmp_path)
    table = pd.DataFrame({"case": made.cases, "who": ["", "", "", "x", "x", "NA"], "note": ""})
    table.to_csv(tmp_path / "cases.csv", index=False)
    given = {"case_table": tmp_path / "cases.csv"}
    settings = MethodSettings(num_draws=50, patient_column="who")
    evaluation = evaluate(made, **given, method=settings)
    assert [p.case for p in evaluation.problems if "its who is empty" in p.problem] == [
        "case_00",
        "case_01",
        "case_02",
    ]
    assert evaluation.cases["who"].nunique() == 5
    assert evaluation.cases.loc["case_05", "who"] == "NA"
    table["who"] = [f"{number}" for number in range(6)]
    table.to_csv(tmp_path / "cases.csv", index=False)
    nobody = table.assign(who="")
    nobody.to_csv(tmp_path / "nobody.csv", index=False)
    alone = evaluate(made, **given, method=settings).score_table
    empty = evaluate(made, case_table=tmp_path / "nobody.csv", method=settings).score_table
    pd.testing.assert_frame_equal(alone, empty)


@pytest.mark.parametrize("column", ["dice", "volume_ml", "label"])
def test_columns_of_the_table_of_cases_may_be_called_like_ours(tmp_path, column):
    made = make(tmp_path)
    found = []
    for name in ("site", column):
        table = pd.DataFrame({"case": made.cases, name: list("ababab"), "who": list("xxyyzz")})
        table.to_csv(tmp_path / "cases.csv", index=False)
        settings = MethodSettings(num_draws=50, domain_column=name, patient_column=name)
        evaluation = evaluate(made, case_table=tmp_path / "cases.csv", method=settings)
        assert {f"{name}=a", f"{name}=b"} <= set(evaluation.score_table["subset"])
        found.append(evaluation.score_table.replace({f"{name}={site}": site for site in "ab"}))
    pd.testing.assert_frame_equal(found[0], found[1])


@pytest.mark.parametrize("name", ["NA", "None", "null", "nan"])
def test_a_label_may_be_called_like_nothing(tmp_path, name):
    made = make(tmp_path, labels={"background": 0, name: 1, "back": 2})
    row = evaluate(made).score_table.set_index(["subset", "score"])
    assert row.loc[(f"label={name}", "consensus_dice"), "num_cases"] == 6


def test_missing_column_of_the_table_of_cases_is_named(tmp_path):
    made = make(tmp_path, num_cases=3)
    pd.DataFrame({"case": made.cases}).to_csv(tmp_path / "cases.csv", index=False)
    with pytest.raises(InputError, match=r"has no column \['site'\]; it has \['case'\]"):
        evaluate(
            made,
            case_table=tmp_path / "cases.csv",
            method=MethodSettings(domain_column="site"),
        )


def test_several_processes_give_the_same_as_one(tmp_path):
    made = make(tmp_path, num_cases=5, probabilities=True)
    one = evaluate(made, num_processes=1)
    two = evaluate(made, num_processes=2)
    pd.testing.assert_frame_equal(one.cases, two.cases)
    pd.testing.assert_frame_equal(one.score_table, two.score_table)
    assert vars(one.calibration[0].figures()) == pytest.approx(
        vars(two.calibration[0].figures()), nan_ok=True
    )


def test_raters_in_one_folder_give_energy_distance_and_correlation(tmp_path):
    made = make(tmp_path, num_cases=3, num_heads=3, probabilities=True)
    raters = tmp_path / "raters"
    raters.mkdir()
    rng = np.random.default_rng(0)
    for case in made.cases:
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(made.references / f"{case}.nii.gz")))
        for number in range(4):
            shifted = np.roll(array, rng.integers(-1, 2), axis=1)
            write(shifted, raters / f"{case}_r{number}.nii.gz")
    rows = evaluate_prediction(made.out, [raters], method=FAST).cases
    assert (rows["num_raters"] == 4).all()
    terms = rows[["energy_member_rater", "energy_member_diversity", "energy_rater_diversity"]]
    expected = 2 * terms.iloc[:, 0] - terms.iloc[:, 1] - terms.iloc[:, 2]
    assert rows["energy_distance_squared"].to_numpy() == pytest.approx(expected.to_numpy())
    assert np.isfinite(rows["entropy_disagreement_pearson"]).any()
    assert (rows["mean_rater_dice"] <= 1).all()


@pytest.mark.data
def test_real_raters_disagree_as_the_data_say(tmp_path, data_root):
    folder = data_root / "Dataset101_LIDC"
    out = tmp_path / "out"
    out.mkdir()
    (out / "dataset.json").write_text((folder / "dataset.json").read_text())
    for file in sorted((folder / "labelsTs").iterdir())[:60]:
        (out / file.name).write_bytes(file.read_bytes())
    rows = evaluate_prediction(out, [folder / "ratersTs"], method=FAST).cases
    # predictions are the data set's labels: at least 2 of 4 raters, which is the consensus here
    assert (rows["dice"] == 1).all()
    assert rows["rater_pairwise_dice"].mean() == pytest.approx(0.83, abs=0.04)


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
