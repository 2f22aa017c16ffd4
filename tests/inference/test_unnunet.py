"""The commands of documentation/unnunet.md do what UnnUNet does: against SciPy, from the parts."""

import json
import re
import shlex
import shutil
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from inference.model_folders import TinyImage, TinyModel
from scipy import ndimage

from nnunetv2_le.cli.predict import main

PAGE = Path(__file__).parents[2] / "documentation" / "unnunet.md"
CHECKPOINTS = [f"checkpoint_cycle{number}_epoch009" for number in range(3)]
NAME = "CyclicLearningRateTrainer__nnUNetPlans__2d"

pytestmark = pytest.mark.slow


@pytest.fixture
def images(nnunet_folders, tmp_path) -> Path:
    """A 2D model with two folds of three checkpoints each where nnU-Net looks for it, and images.

    Returns:
        The folder of the images.
    """
    model = nnunet_folders.results / "Dataset999_Tiny" / NAME
    TinyModel(
        trainer="CyclicLearningRateTrainer",
        patch=(16, 16),
        labels={"background": 0, "front": 1},
        mirror_axes=(0, 1),
        num_folds=6,
    ).write(model)
    for number in range(6):
        target = model / f"fold_{number % 2}" / f"{CHECKPOINTS[number // 2]}.pth"
        _damp(model / f"fold_{number}" / "checkpoint_final.pth", target)
    for number in range(2, 6):
        shutil.rmtree(model / f"fold_{number}")
    TinyImage(shape=(1, 24, 28)).write(tmp_path / "in", "case")
    return tmp_path / "in"


def _damp(source: Path, target: Path) -> None:
    """Make a random network less sure of itself, as different trained networks agree more."""
    content = torch.load(source, weights_only=False)
    weights = content["network_weights"]
    for name in weights:
        if "seg_layers." in name:
            weights[name] = weights[name] * 0.3
    torch.save(content, target)


def _run(images: Path, output: Path, arguments: list[str]) -> None:
    more = ["-device", "cpu", "--disable_progress_bar", "-npp", "0", "-nps", "0"]
    places = {"IN": str(images), "OUT": str(output), "DATASET": "999"}
    assert main([places.get(word, word) for word in arguments] + more) == 0


def _of_the_page(word: str) -> list[str]:
    """Arguments of the page's one predict command that contains a word."""
    lines = re.findall(r"^ {4}nnUNetv2_le_predict (.*)$", PAGE.read_text("utf-8"), re.MULTILINE)
    (line,) = (line for line in lines if word in line)
    return shlex.split(line)


def _probabilities(images: Path, tmp_path: Path, fold: int, checkpoint: str) -> np.ndarray:
    output = tmp_path / f"alone_{fold}_{checkpoint}"
    command = f"-i IN -o OUT -d DATASET -c 2d -tr CyclicLearningRateTrainer -f {fold}"
    options = ["-chk", f"{checkpoint}.pth", "--save_probabilities"]
    _run(images, output, [*command.split(), *options])
    with np.load(output / "case.npz") as file:
        return file["probabilities"].astype(np.float64)[:, 0]


def _map(output: Path, name: str) -> np.ndarray:
    return np.asarray(nibabel.load(output / "uncertainty" / f"case_{name}.nii.gz").dataobj).T[0]


def _boundary_ratio(values: np.ndarray, mask: np.ndarray) -> float:
    """UnnUNet's score: 100 x sum / pixels that a dilation by 3 x 3 adds."""
    ring = ndimage.binary_dilation(mask, np.ones((3, 3))) & ~mask
    return 100 * float(values.sum(dtype=np.float64)) / int(ring.sum())


def test_maps_and_scores_follow_from_the_checkpoints(images, tmp_path):
    output = tmp_path / "out"
    _run(images, output, _of_the_page("checkpoints_ttest"))
    members = np.stack([_probabilities(images, tmp_path, 0, name) for name in CHECKPOINTS])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        test = scipy.stats.ttest_ind(members[:, 0], members[:, 1], axis=0, equal_var=False)
    p_value = np.where(test.pvalue >= 0.05, test.pvalue, 0)
    sure = np.abs(test.pvalue - 0.05) > 0.01  # half precision may fall on either side
    mine = _map(output, "checkpoints_ttest")
    assert 0.1 < (p_value > 0).mean() < 0.9
    np.testing.assert_allclose(mine[sure], p_value[sure], atol=0.02)
    entropy = scipy.stats.entropy(members.mean(axis=0), axis=0)
    np.testing.assert_allclose(_map(output, "checkpoints_entropy"), entropy, atol=0.01)
    total = scipy.stats.entropy(members, axis=1).sum(axis=0)
    np.testing.assert_allclose(_map(output, "checkpoints_total_entropy"), total, atol=0.03)
    mask = np.asarray(nibabel.load(output / "case.nii.gz").dataobj).T[0] == 1
    (row,) = pd.read_csv(output / "uncertainty.csv").to_dict("records")
    for name in ("checkpoints_ttest", "checkpoints_entropy", "checkpoints_total_entropy"):
        expected = _boundary_ratio(_map(output, name), mask)
        assert row[f"{name}_boundary_ratio"] == pytest.approx(expected, rel=1e-5)


def test_the_fold_with_the_lowest_uncertainty_is_the_prediction(images, tmp_path):
    output = tmp_path / "out"
    arguments = _of_the_page("lowest_uncertainty")
    only = [word for word in arguments if word not in ("2", "3", "4")]  # two folds here
    _run(images, output, only)
    chosen = json.loads((output / "cases" / "case.json").read_text())["chosen"]
    segmentations, scores = [], []
    for fold in range(2):
        alone = tmp_path / f"fold_{fold}"
        without = [word for word in only if word not in ("folds", "-fusion", "lowest_uncertainty")]
        without[without.index("0") : without.index("1") + 1] = [str(fold)]
        _run(images, alone, without)
        segmentations.append(np.asarray(nibabel.load(alone / "case.nii.gz").dataobj))
        (row,) = pd.read_csv(alone / "uncertainty.csv").to_dict("records")
        scores.append(row["entropy_boundary_ratio"])
    best = int(np.argmin(scores))
    assert chosen["member"] == f"fold_{best}"
    assert list(chosen["entropy_boundary_ratio"].values()) == pytest.approx(scores, rel=1e-2)
    segmentation = np.asarray(nibabel.load(output / "case.nii.gz").dataobj)
    np.testing.assert_array_equal(segmentation, segmentations[best])
    assert not np.array_equal(*segmentations)
