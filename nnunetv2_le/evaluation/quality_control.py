"""The quality-control curve: which poor segmentations are left once the least trusted are flagged?

Conventions:
    ``poor`` says which cases are poor (Dice below a threshold), ``confidences`` is higher for
    better. Cases are flagged least confident first. Tied cases have no order: the curve is its mean
    over their orders.

Metrics:
    remaining fraction after flagging k of n cases = poor cases not flagged / n; its area by the
    trapezoid over the flagged fraction 0..1. Random flagging gives the straight line from the share
    of poor cases to 0 (area: half that share), ideal flagging the line of slope -1 (area: half the
    squared share).

References:
    Kushibar et al. 2022, arXiv:2203.08878, fig. 4, after Ng et al. 2018 (estimating the uncertainty
    of segmentations for quality control). Theirs samples the flagged fraction at 50 points; ours
    has every case.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.integrate import trapezoid

from nnunetv2_le.evaluation.failure_detection import risk_coverage_curve

ACCEPTED_REMAINING = 0.05  # the 5 % line of Kushibar et al. 2022, fig. 4


@dataclass(frozen=True)
class QualityControlCurve:
    """Poor segmentations left against cases flagged.

    Attributes:
        flagged: fraction of cases flagged, 0, 1/n, ..., 1.
        remaining: poor cases not flagged, as a fraction of all cases.
        ideal: the same if the poor cases were flagged first.
    """

    flagged: Float[np.ndarray, "steps"]
    remaining: Float[np.ndarray, "steps"]
    ideal: Float[np.ndarray, "steps"]

    @property
    def poor_fraction(self) -> float:
        """Share of poor cases before anything is flagged."""
        return float(self.remaining[0])

    @property
    def random(self) -> Float[np.ndarray, "steps"]:
        """What flagging at random leaves, on average."""
        return self.poor_fraction * (1 - self.flagged)

    @property
    def area(self) -> float:
        """Area under the curve; lower is better."""
        return float(trapezoid(self.remaining, self.flagged))

    @property
    def ideal_area(self) -> float:
        """Area under the ideal curve."""
        return float(trapezoid(self.ideal, self.flagged))

    @property
    def random_area(self) -> float:
        """Area under the random line."""
        return float(trapezoid(self.random, self.flagged))

    def flagged_to_reach(self, remaining: float = ACCEPTED_REMAINING) -> float:
        """Smallest flagged fraction that leaves at most this fraction of poor cases."""
        return float(self.flagged[np.argmax(self.remaining <= remaining + 1e-12)])


def quality_control_curve(
    poor: Bool[np.ndarray, "cases"], confidences: Float[np.ndarray, "cases"]
) -> QualityControlCurve:
    """The curve of one score.

    Args:
        poor: which cases are poor.
        confidences: confidence of each case, higher is better.

    Raises:
        InputError: if there is no case or a confidence is not finite.
    """
    count = len(poor)
    curve = risk_coverage_curve(poor.astype(float), confidences)
    steps = np.arange(count + 1)
    return QualityControlCurve(
        flagged=steps / count,
        remaining=np.concatenate([curve.generalized_risks[::-1], [0.0]]),
        ideal=np.maximum(poor.sum() - steps, 0) / count,
    )
