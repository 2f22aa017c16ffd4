"""What nnU-Net does with predictions works on ours."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from helpers import processes_as_threads
from inference import faulty_runs as runs
from inference.model_folders import TinyModel
from nnunetv2.ensembling.ensemble import ensemble_folders
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder2
from nnunetv2.postprocessing.remove_connected_components import (
    apply_postprocessing_to_folder,
    remove_all_but_largest_component_from_segmentation,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def output(tmp_path_factory: Any) -> Path:
    folder: Path = tmp_path_factory.mktemp("results")
    model = TinyModel(trainer="LayerEnsembleTrainer", stages=3, mirror_axes=(2,))
    source = runs.write_cases(folder / "in", runs.CASES[:2])
    result = folder / "out"
    options = ("--save_heads", "--save_probabilities")
    assert runs.predict(model.write(folder / "model"), source, result, *options) == 0
    return result


def test_heads_can_be_ensembled(output: Path, tmp_path: Path):
    heads = sorted((output / "heads").iterdir())
    assert [head.name for head in heads] == [f"head_{n:02d}" for n in range(5)]
    with processes_as_threads():
        ensemble_folders([str(head) for head in heads[-2:]], str(tmp_path), num_processes=1)
    # the fused prediction is the mean probability of the last two heads
    for case in runs.CASES[:2]:
        mean, fused = (
            sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{case}.nii.gz")))
            for folder in (tmp_path, output)
        )
        assert np.mean(mean == fused) > 0.999


def test_results_can_be_evaluated(output: Path, tmp_path: Path):
    files = (str(output / "dataset.json"), str(output / "plans.json"))
    with processes_as_threads():
        compute_metrics_on_folder2(
            str(output), str(output), *files, output_file=str(tmp_path / "s.json"), num_processes=1
        )
    assert '"Dice": 1.0' in (tmp_path / "s.json").read_text()


def test_results_can_be_postprocessed(output: Path, tmp_path: Path):
    with processes_as_threads():
        apply_postprocessing_to_folder(
            str(output),
            str(tmp_path),
            [remove_all_but_largest_component_from_segmentation],
            [{"labels_or_regions": [1]}],
            plans_file_or_dict=str(output / "plans.json"),
            dataset_json_file_or_dict=str(output / "dataset.json"),
            num_processes=1,
        )
    assert sorted(path.name for path in tmp_path.glob("*.nii.gz")) == [
        "first.nii.gz",
        "second.nii.gz",
    ]
