"""Is an image unlike everything the model knows? Distances of its features.

Conventions:
    A feature vector is a case's encoder features pooled over the image, of one network; vectors of
    different networks (folds) are not compared. Features are standardised by mean and standard
    deviation of the known cases; features that are constant there are left out.

Metrics:
    mahalanobis: sqrt(z' C^-1 z), C the shrunken covariance of the known cases.
    nearest: mean Euclidean distance to the k nearest known cases, over sqrt(features).
    quantile: share of known cases whose own distance is smaller, (#{d_i < d}) / (n + 1), where d_i
    is found without the patient of case i. A case is flagged where it is at least 1 - alpha; of new
    cases like the known ones at most a share alpha is.

References:
    Lee et al. 2018, arXiv:1807.03888 (Mahalanobis distance of features). Sun et al. 2022,
    arXiv:2204.06507 (nearest neighbours). Ledoit and Wolf 2004 (shrinkage). Gonzalez et al. 2021,
    arXiv:2107.05975 (lung lesions with nnU-Net).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

DEFAULT_NEIGHBOURS = 5


@dataclass(frozen=True)
class OutlierScores:
    """How far out a case lies.

    Attributes:
        mahalanobis: distance to the centre of the known cases.
        nearest: distance to the nearest known cases.
        quantile: the larger of the quantiles of both; see `OutOfDistribution.score`.
    """

    mahalanobis: float
    nearest: float
    quantile: float


class OutOfDistribution:
    """Distances to the known cases of one network.

    Args:
        features: of the known cases.
        groups: the number of each case's patient.
        neighbours: known cases that ``nearest`` looks at.

    Raises:
        InputError: too few cases, values that are not finite, or features that never differ.
    """

    def __init__(
        self,
        features: Float[np.ndarray, "cases features"],
        *,
        groups: Int[np.ndarray, "cases"] | None = None,
        neighbours: int = DEFAULT_NEIGHBOURS,
    ) -> None:
        raise NotImplementedError

    def score(self, features: Float[np.ndarray, "features"]) -> OutlierScores:
        """Distances and quantile of a new case.

        Raises:
            InputError: another number of features, or values that are not finite.
        """
        raise NotImplementedError
