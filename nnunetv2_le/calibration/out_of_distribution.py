"""Is an image unlike everything the model knows? Distances of its features.

Conventions:
    A feature vector is a case's encoder features pooled over the image, of one network; vectors of
    different networks (folds) are not compared. Features are standardised by mean and standard
    deviation of the known cases; features that are constant there are left out.

Metrics:
    mahalanobis: sqrt(z' C^-1 z), C the shrunken covariance (1 - s) S + s m I of the known cases: S
        their covariance, m its mean variance, s by Ledoit and Wolf (scikit-learn).
    nearest: mean Euclidean distance to the k nearest known cases.
    For a known case both are found without its own patient: for Mahalanobis S and the centre are
    those of the others (exactly, by a formula for few removed rows), s and m stay.
    quantile: the share of known cases that lie nearer, sum over {r_i < r} of 1 / N_i / (K + 1), K
        known patients, N_i cases of the patient of case i. r is the larger of the two shares
        (weighed like this) of known cases with a smaller mahalanobis and a smaller nearest. A case
        is flagged where its quantile is at least 1 - alpha. Of new cases that are like the known
        ones at most about a share alpha + 1 / (K + 1) is, not alpha: ranks are taken among the
        known cases without the new one, and known distances lack one patient.

References:
    Lee et al. 2018, arXiv:1807.03888 (Mahalanobis distance of features). Sun et al. 2022,
    arXiv:2204.06507 (nearest neighbours). Ledoit and Wolf 2004 (shrinkage). Gonzalez et al. 2021,
    arXiv:2107.05975 (lung lesions with nnU-Net).
    ``documentation/decisions/016-how-features-are-compared.md``.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from sklearn.covariance import ledoit_wolf_shrinkage

from nnunetv2_le.calibration.conformal import require_enough
from nnunetv2_le.errors import InputError

DEFAULT_NEIGHBOURS = 5
MIN_CASES = 10
_DECIMALS = 9  # sums of thirds that ought to be equal are


@dataclass(frozen=True)
class OutlierScores:
    """How far out a case lies.

    Attributes:
        mahalanobis: distance to the centre of the known cases.
        nearest: mean distance to the nearest known cases.
        quantile: share of known cases that lie nearer, by both distances, patients counted
            equally; see the module.
    """

    mahalanobis: float
    nearest: float
    quantile: float


class OutOfDistribution:
    """Distances to the known cases of one network.

    Args:
        features: of the known cases.
        groups: the number of each case's patient; None: every case is one.
        neighbours: known cases that ``nearest`` looks at.

    Attributes:
        known_mahalanobis: of each known case, without its patient.
        known_nearest: of each known case, without its patient.

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
        table = np.asarray(features, dtype=float)
        groups = np.arange(len(table)) if groups is None else groups
        _require_usable(table, groups)
        self.num_features = table.shape[1]
        self._centre = table.mean(axis=0)
        scales = table.std(axis=0)
        self._differs = scales > 1e-12 * np.abs(self._centre)
        if not self._differs.any():
            raise InputError(
                f"all {self.num_features} features are the same in all {len(table)} known cases; "
                "they cannot tell cases apart"
            )
        self._scales = scales[self._differs]
        self._known = self._standardised(table)
        self.neighbours = min(neighbours, len(np.unique(groups)) - 1)
        self._shrinkage = float(ledoit_wolf_shrinkage(self._known, assume_centered=True))
        self._floor = self._shrinkage * float(np.square(self._known).mean())
        _, widths, self._axes = np.linalg.svd(self._known, full_matrices=False)
        self._scatter = np.square(widths)
        self.known_mahalanobis, self.known_nearest = self._of_known(groups)
        _, numbers, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        self._weights, self._num_groups = 1.0 / sizes[numbers], len(sizes)
        self._known_ranks = self._ranks(self.known_mahalanobis, self.known_nearest)

    def score(self, features: Float[np.ndarray, "features"]) -> OutlierScores:
        """Distances and quantile of a new case.

        Raises:
            InputError: another number of features, or values that are not finite.
        """
        if features.shape != (self.num_features,) or not np.isfinite(features).all():
            raise InputError(
                f"expected {self.num_features} finite features, got shape {features.shape} with "
                f"{int(np.count_nonzero(~np.isfinite(features)))} undefined; calibrate and predict "
                "with one network"
            )
        values = self._standardised(np.asarray(features, dtype=float)[None])
        solved = self._solve(values, len(self._known))
        mahalanobis = float(np.sqrt((values * solved).sum()))
        distances = np.sort(np.linalg.norm(self._known - values, axis=1))
        nearest = float(distances[: self.neighbours].mean())
        rank = self._ranks(np.array([mahalanobis]), np.array([nearest]))[0]
        nearer = round(float(self._weights[self._known_ranks < rank].sum()), _DECIMALS)
        return OutlierScores(mahalanobis, nearest, nearer / (self._num_groups + 1))

    def _standardised(self, table: np.ndarray) -> Float[np.ndarray, "cases features"]:
        return np.asarray((table - self._centre)[:, self._differs] / self._scales)

    def _solve(
        self, values: Float[np.ndarray, "vectors features"], num_cases: int
    ) -> Float[np.ndarray, "vectors features"]:
        """((1 - s) T / n + s m I)^-1 v, T the scatter of the known cases, n = ``num_cases``."""
        along = values @ self._axes.T
        variances = (1 - self._shrinkage) * self._scatter / num_cases + self._floor
        beyond = values - along @ self._axes
        # without shrinkage nothing is known beyond the axes; such vectors lie in their span or far
        floor = max(self._floor, 1e-12 * float(variances.max()))
        return np.asarray((along / np.maximum(variances, floor)) @ self._axes + beyond / floor)

    def _of_known(
        self, groups: Int[np.ndarray, "cases"]
    ) -> tuple[Float[np.ndarray, "cases"], Float[np.ndarray, "cases"]]:
        """Both distances of each known case to the cases of other patients."""
        mahalanobis, nearest = np.zeros(len(groups)), np.zeros(len(groups))
        for group in np.unique(groups):
            own = groups == group
            removed, others = self._known[own], self._known[~own]
            mahalanobis[own] = self._without(removed, len(others))
            gaps = np.linalg.norm(removed[:, None] - others[None], axis=2)
            nearest[own] = np.sort(gaps, axis=1)[:, : self.neighbours].mean(axis=1)
        return mahalanobis, nearest

    def _without(
        self, removed: Float[np.ndarray, "removed features"], num_left: int
    ) -> Float[np.ndarray, "removed"]:
        """Mahalanobis distance of some known cases to the others (Woodbury's identity).

        With D the removed rows and t their sum, the others have the centre -t / n and the scatter
        T - U'U, U = (D; t / sqrt(n)), n their number.
        """
        shift = removed.sum(axis=0)
        away = removed + shift / num_left
        rows = np.vstack([removed, shift / np.sqrt(num_left)])
        factor = (1 - self._shrinkage) / num_left
        solved_rows, solved = self._solve(rows, num_left), self._solve(away, num_left)
        inner = np.eye(len(rows)) - factor * rows @ solved_rows.T
        across = solved @ rows.T
        extra = factor * (across * np.linalg.solve(inner, across.T).T).sum(axis=1)
        return np.asarray(np.sqrt((away * solved).sum(axis=1) + extra))

    def _ranks(self, mahalanobis: np.ndarray, nearest: np.ndarray) -> Float[np.ndarray, "cases"]:
        """The larger number of known patients with a smaller distance; parts of patients count."""
        below = self._weight_below(mahalanobis, self.known_mahalanobis)
        return np.asarray(np.maximum(below, self._weight_below(nearest, self.known_nearest)))

    def _weight_below(self, values: np.ndarray, known: np.ndarray) -> Float[np.ndarray, "cases"]:
        order = np.argsort(known, kind="stable")
        below = np.concatenate([[0.0], np.cumsum(self._weights[order])])
        return np.asarray(np.round(below[np.searchsorted(known[order], values)], _DECIMALS))


def _require_usable(table: np.ndarray, groups: np.ndarray) -> None:
    undefined = int(np.count_nonzero(~np.isfinite(table)))
    if undefined:
        raise InputError(f"features of known cases must be finite, got {undefined} that are not")
    patients = len(np.unique(groups))
    if patients < MIN_CASES:
        raise InputError(
            f"distances to known cases need at least {MIN_CASES} known patients, got {patients}"
        )


def require_enough_known(num_groups: int, alpha: float) -> None:
    """Refuse a share of outliers that so few known cases cannot tell.

    Raises:
        SettingError: ``alpha`` is not between 0 and 1.
        InputError: more known cases are needed.
    """
    require_enough(num_groups, alpha, purpose="a flag of cases out of distribution")
