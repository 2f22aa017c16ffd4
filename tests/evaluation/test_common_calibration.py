"""Reliability of methods that lack different cases: counted on the cases that all of them have."""

import pytest
from evaluation.made_up_predictions import make

from nnunetv2_le.evaluation.case_metrics import MetricSettings
from nnunetv2_le.evaluation.common_calibration import common_calibration
from nnunetv2_le.evaluation.evaluate import evaluate_prediction
from nnunetv2_le.evaluation.method import MethodSettings

FAST = {"metrics": MetricSettings(distances=False), "method": MethodSettings(num_draws=0)}


@pytest.fixture
def made(tmp_path):
    return {name: make(tmp_path / name, num_cases=4, probabilities=True) for name in "AB"}


def evaluated(made):
    references = [made["A"].references]
    methods = {n: evaluate_prediction(m.out, references, **FAST) for n, m in made.items()}
    folders = {name: one.out for name, one in made.items()}
    return methods, common_calibration(methods, folders, references, metrics=FAST["metrics"])


@pytest.mark.parametrize("ending", ["nii.gz", "npz"])
def test_a_case_that_one_method_lacks_counts_for_none(made, ending):
    (made["B"].out / f"case_01.{ending}").unlink()
    methods, common = evaluated(made)
    assert methods["A"].calibration[0].voxels == 4 * 8 * 14 * 12
    for name, number in (("A", 3), ("B", 3)):
        whole, interest = common[name]
        assert whole.voxels == number * 8 * 14 * 12
        kept = methods[name].cases.drop(index="case_01", errors="ignore")
        assert interest.voxels == kept["roi_voxels"].sum()
        assert whole.figures().nll == pytest.approx(kept["nll"].mean())


def test_nothing_is_read_again_where_all_methods_have_the_same_cases(made):
    methods, common = evaluated(made)
    assert all(common[name] is methods[name].calibration for name in "AB")


def test_methods_without_a_common_case_of_probabilities_have_no_reliability(made):
    for case, name in (("case_00", "A"), ("case_01", "A"), ("case_02", "B"), ("case_03", "B")):
        (made[name].out / f"{case}.npz").unlink()
    assert evaluated(made)[1] == {"A": None, "B": None}


def test_a_method_that_saved_no_probabilities_takes_none_from_the_others(made):
    for file in made["B"].out.glob("*.npz"):
        file.unlink()
    common = evaluated(made)[1]
    assert common["A"][0].voxels == 4 * 8 * 14 * 12
    assert common["B"] is None
