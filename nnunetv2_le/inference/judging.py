"""What a calibration says of a predicted case, as far as predicting has to know it.

Prediction works without a calibration. Where a model has one, a judge adds columns to the tables,
calibrates probabilities and makes voxel maps; `nnunetv2_le.calibration.judge` has the only one.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from jaxtyping import UInt
from numpy import ndarray

from nnunetv2_le.inference.prediction import CasePrediction
from nnunetv2_le.types import LogitScaling


@dataclass(frozen=True)
class Judgement:
    """What is said of one case.

    Attributes:
        numbers: columns of the table of cases; NaN where undefined.
        texts: columns of words: ``flag`` and ``flag_reason``.
        labels: label name to columns of the table of labels.
    """

    numbers: dict[str, float]
    texts: dict[str, str]
    labels: dict[str, dict[str, float]] = field(default_factory=dict)


@runtime_checkable
class Judge(Protocol):
    """Judges cases of one model, whose calibration it was made from."""

    @property
    def key(self) -> str:
        """Tells one calibration from another: a case that another one judged is not done."""
        ...

    def judge(self, prediction: CasePrediction) -> Judgement:
        """What is said of a case."""
        ...

    def scaling(self, head: str | None) -> LogitScaling | None:
        """How logits of a head are calibrated, or with None those of the fused prediction."""
        ...

    def voxel_map(self, name: str, prediction: CasePrediction) -> UInt[ndarray, "z y x"]:
        """A map of ``CALIBRATED_MAPS`` on the image's grid."""
        ...

    def describe(self) -> dict[str, Any]:
        """What ``uncertainty.json`` says of the calibration; ``columns`` are the added ones."""
        ...


def with_calibration(description: dict[str, Any], judge: Judge | None) -> dict[str, Any]:
    """What ``uncertainty.json`` says of a run, with its calibration and the columns it adds."""
    if judge is None:
        return description | {"calibration": None}
    said = judge.describe()
    columns = description["columns"] | said.pop("columns")
    return description | {"columns": columns, "calibration": said}
