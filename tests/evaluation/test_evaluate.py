"""Evaluation of a folder: nnU-Net's own figures, scores joined, and every kind of bad input."""

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from evaluation.made_up_predictions import make, softened, write
from helpers import processes_as_threads
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder, load_summary_json
from scipy import ndimage
from sklearn.metrics import brier_score_loss, log_loss

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
