"""The summary of an evaluation: whose bins are whose."""

import numpy as np
import pandas as pd

from nnunetv2_le.evaluation.calibration_error import CalibrationHistogram
from nnunetv2_le.evaluation.dataset import EvaluationDataset
from nnunetv2_le.evaluation.evaluate import Evaluation
from nnunetv2_le.evaluation.result_files import summary
from nnunetv2_le.types import Labels


def test_every_region_has_bins_of_its_own():
    labels = Labels(("whole", "core"), ((1, 2), 2), has_regions=True, region_values=(1, 2))
    histogram = CalibrationHistogram(2, has_regions=True)
    histogram.add(np.array([[0.1, 0.9], [0.2, 0.2]]), np.array([[False, True], [False, True]]))
    evaluation = Evaluation(
        pd.DataFrame({"dice": [0.5]}, ["a"]),
        pd.DataFrame({"label_name": ["whole"], "dice": [0.5]}),
        (),
        pd.DataFrame(),
        (histogram, histogram),
        (),
        EvaluationDataset(".nii.gz", labels, None, (0, 1, 2), None),
    )
    bins = summary(evaluation)["calibration"]["image"]["bins"]
    assert list(bins) == ["whole", "core"]
    for channel, name in enumerate(labels.names):
        assert bins[name]["counts"] == histogram.reliability(channel).counts.tolist()
    assert bins["whole"]["counts"] != bins["core"]["counts"]
