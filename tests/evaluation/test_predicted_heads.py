"""Heads from a model: the members that are heads, in order, on the image's grid."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from evaluation.made_up_predictions import make, write

from nnunetv2_le.errors import InputError
from nnunetv2_le.evaluation.cases import find_cases
from nnunetv2_le.evaluation.dataset import read_dataset
from nnunetv2_le.evaluation.predicted_heads import predicted_head_cases
from nnunetv2_le.evaluation.skip_heads import skip_heads_per_case
from nnunetv2_le.types import Family, MemberPlan

PLAN = MemberPlan((Family("mirrors", ("m0",)), Family("heads", ("h0", "h1"), ordered=True)), (1,))


class Predictor:
    """Stands for a model: member k is sure of class k."""

    def predict_files(self, images):
        logits = np.zeros((3, 3, 8, 14, 12), np.float32)
        for member in range(3):
            logits[member, member] = 5
        powers = np.exp
        return SimpleNamespace(
            plan=PLAN,
            accumulated=SimpleNamespace(member_logits=logits),
            probabilities=lambda one: powers(one) / powers(one).sum(axis=0),
        )


def prepared(tmp_path):
    made = make(tmp_path, num_cases=2)
    images = tmp_path / "images"
    images.mkdir()
    write(np.ones((8, 14, 12)), images / "case_00_0000.nii.gz")
    dataset = read_dataset(made.out / "dataset.json")
    files, _ = find_cases(made.out, [made.references], file_ending=".nii.gz")
    return files, images, dataset


def test_heads_are_the_members_of_their_family_in_order(tmp_path):
    files, images, dataset = prepared(tmp_path)
    (case,) = predicted_head_cases(Predictor(), files[:1], images, dataset)
    assert [int(case.heads[k].argmax(axis=0).max()) for k in range(len(case.heads))] == [1, 2]
    assert len(skip_heads_per_case([case], dataset.labels)) == 2


def test_case_without_image_is_named(tmp_path):
    files, images, dataset = prepared(tmp_path)
    with pytest.raises(InputError, match=r"has no image case_01_0000\.nii\.gz"):
        list(predicted_head_cases(Predictor(), files, images, dataset))


def test_brackets_in_a_name_are_no_pattern(tmp_path):
    files, images, dataset = prepared(tmp_path)
    write(np.ones((8, 14, 12)), images / "scan[1]_0000.nii.gz")
    (case,) = predicted_head_cases(
        Predictor(), [replace(files[0], case="scan[1]")], images, dataset
    )
    assert case.case == "scan[1]"
