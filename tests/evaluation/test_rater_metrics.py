"""Figures against several raters: ignored voxels count nowhere."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from evaluation.made_up_predictions import (
    LABELS,
    describe,
    make,
    save,
    softened,
    two_blobs,
    write_map,
)

from nnunetv2_le.evaluation.cases import CaseFiles
from nnunetv2_le.evaluation.correlation import pearson
from nnunetv2_le.evaluation.dataset import read_dataset
from nnunetv2_le.evaluation.rater_metrics import _entropy, rater_figures
from nnunetv2_le.evaluation.raters import rater_disagreement
from nnunetv2_le.uncertainty.voxel_maps import entropy_nats

SHAPE = (6, 14, 10)
IGNORED = 3


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    made = make(tmp_path_factory.mktemp("data"), num_cases=1, shape=SHAPE)
    describe(replace(made, labels={**LABELS, "ignore": IGNORED}), ".nii.gz")
    return read_dataset(made.out / "dataset.json")


def volumes():
    """Three raters, a prediction, two heads and their mean."""
    rng = np.random.default_rng(0)
    truth = two_blobs(SHAPE, rng).astype(np.int32)
    raters = [np.roll(truth, shift, axis=2) for shift in (-1, 0, 1)]
    heads = [softened(truth, rng, noise=noise) for noise in (1.0, 0.5)]
    return raters, heads, np.mean(heads, axis=0)


def figures(folder, dataset, raters, heads, fused):
    files = [folder / f"head_{number}.npz" for number in range(len(heads))]
    for head, file in zip([*heads, fused], [*files, folder / "case.npz"], strict=True):
        save(head, file)
    case = CaseFiles(
        "case", folder / "case.nii.gz", (), probabilities=folder / "case.npz", heads=tuple(files)
    )
    return rater_figures(case, raters, fused.argmax(axis=0).astype(np.int32), dataset)


def test_ignored_voxels_count_as_little_as_if_they_were_cut_off(tmp_path, dataset):
    raters, heads, fused = volumes()
    ignoring = [rater.copy() for rater in raters]
    ignoring[0][:, :4] = IGNORED
    ignoring[1][:, :7] = IGNORED
    found, problems = figures(tmp_path / "whole", dataset, ignoring, heads, fused)
    expected, _ = figures(
        tmp_path / "cut",
        dataset,
        [rater[:, 7:] for rater in raters],
        [head[:, :, 7:] for head in heads],
        fused[:, :, 7:],
    )
    assert problems == []
    assert "energy_distance_squared" in found
    assert "entropy_disagreement_spearman" in found
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("has_regions", [False, True])
def test_entropy_of_saved_probabilities_is_the_one_that_predict_maps(
    tmp_path, dataset, has_regions
):
    probability = np.random.default_rng(0).dirichlet(np.ones(3), SHAPE).transpose(3, 0, 1, 2)
    probability = probability[1:] if has_regions else probability
    np.savez_compressed(tmp_path / "case.npz", probabilities=probability.astype(np.float32))
    files = CaseFiles("case", tmp_path / "case.nii.gz", (), probabilities=tmp_path / "case.npz")
    expected = entropy_nats(torch.from_numpy(probability), has_regions=has_regions)
    labels = replace(dataset.labels, has_regions=has_regions)
    found = _entropy(files, SHAPE, replace(dataset, labels=labels))
    np.testing.assert_allclose(found, expected.flatten(), rtol=1e-5)


def test_raters_that_ignore_everything_are_named(tmp_path, dataset):
    raters, heads, fused = volumes()
    raters[0][:, :7] = IGNORED
    raters[1][:, 7:] = IGNORED
    found, problems = figures(tmp_path, dataset, raters, heads, fused)
    assert found == {"num_raters": 3}
    assert problems == ["its raters ignore every voxel between them"]


def test_mean_dice_is_over_the_labels_of_a_rater_and_then_over_raters(tmp_path, dataset):
    prediction = np.zeros((1, 4, 8), np.int32)
    prediction[0, :2, :4] = 1
    with_both = prediction.copy()
    with_both[0, 3] = 2
    raters = [with_both, prediction.copy(), prediction.copy()]
    case = CaseFiles("case", tmp_path / "case.nii.gz", ())
    found, _ = rater_figures(case, raters, prediction, dataset)
    # the first rater has Dice 1 and 0, the others Dice 1 of the one label that is there
    assert found["mean_rater_dice"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert found["rater_pairwise_dice"] == pytest.approx((0.5 + 0.5 + 1) / 3)


def test_raters_that_agree_on_nothing_are_in_no_mean_dice(tmp_path, dataset):
    prediction = np.zeros((1, 4, 8), np.int32)
    some = prediction.copy()
    some[0, :2] = 1
    case = CaseFiles("case", tmp_path / "case.nii.gz", ())
    found, _ = rater_figures(case, [prediction, prediction, some], prediction, dataset)
    assert found["mean_rater_dice"] == 0
    found, _ = rater_figures(case, [prediction, prediction], prediction, dataset)
    assert np.isnan(found["mean_rater_dice"])


def test_an_entropy_map_that_does_not_fit_is_left_out_and_named(tmp_path, dataset):
    raters, _, fused = volumes()
    maps = {"small": fused[0, :-1], "whole": entropy_nats(torch.from_numpy(fused)).numpy()}
    for name, values in maps.items():
        write_map(values.astype(np.float32), tmp_path / f"{name}.nii.gz")
    prediction = fused.argmax(axis=0).astype(np.int32)
    case = CaseFiles("case", tmp_path / "case.nii.gz", (), entropy=tmp_path / "whole.nii.gz")
    found, problems = rater_figures(case, raters, prediction, dataset)
    expected = pearson(maps["whole"].ravel(), rater_disagreement(raters).ravel())
    assert found["entropy_disagreement_pearson"] == pytest.approx(expected)
    assert problems == []
    case = replace(case, entropy=tmp_path / "small.nii.gz")
    others, problems = rater_figures(case, raters, prediction, dataset)
    assert len(problems) == 1
    assert problems[0].startswith("its entropy map is left out: ")
    assert others == {name: value for name, value in found.items() if "entropy" not in name}
