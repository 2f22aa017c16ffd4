"""Are the probabilities right? Likelihood, Brier score and calibration errors, piece by piece.

Conventions:
    Probabilities have shape (channels, voxels). Classes are exclusive and sum to 1, channel 0 is
    the background; regions are independent, each a yes-or-no question of its own. Voxels of the
    ignore label are left out by the caller. Volumes come in pieces of any size; only histograms are
    kept, so pieces of one case and cases of a data set add up.

Metrics:
    nll: mean of -ln p of the true class, nats (regions: mean of the binary value over regions). A
        probability below 2^-23, the spacing of float32 at 1, counts as 2^-23, as in scikit-learn's
        log_loss; ``clipped`` says how often.
    brier: mean over voxels of the sum over classes of (p - y)^2, between 0 and 2 (regions: mean of
        the binary value).
    ece: sum over bins b of n_b / n |accuracy_b - confidence_b| for the most probable class; NaN for
        regions, which have no single answer. 15 bins of equal width, or (adaptive) of equal mass.
    classwise_ece: the same for each channel's probability against "is it this class", mean over
        channels.

References:
    Guo et al. 2017, arXiv:1706.04599 (ECE). Nixon et al. 2019, arXiv:1904.01685 (classwise = static
    calibration error, adaptive calibration error). Brier 1950.

Deviations:
    Equal-mass bins are cut from a histogram of 15,360 cells, so probabilities that differ by less
    than 1/15,360 stay in one bin; a cell that holds more than a bin's share of voxels (the sure
    background) is one bin.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from nnunetv2_le.errors import InputError

NUM_BINS = 15  # Guo et al. 2017
_CELLS_PER_BIN = 1024
NUM_CELLS = NUM_BINS * _CELLS_PER_BIN
MIN_PROBABILITY = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class ReliabilityBins:
    """A reliability diagram's bins.

    Attributes:
        counts: predictions in each bin.
        confidences: their mean probability; NaN in an empty bin.
        accuracies: how often they came true; NaN in an empty bin.
    """

    counts: Int[np.ndarray, "bins"]
    confidences: Float[np.ndarray, "bins"]
    accuracies: Float[np.ndarray, "bins"]

    @property
    def expected_error(self) -> float:
        """Sum over bins of n_b / n |accuracy_b - confidence_b|; NaN without any prediction."""
        filled = self.counts > 0
        if not filled.any():
            return float("nan")
        gaps = np.abs(self.accuracies[filled] - self.confidences[filled])
        return float((self.counts[filled] * gaps).sum() / self.counts.sum())


@dataclass
class CellHistogram:
    """Predictions sorted into narrow cells of probability.

    Attributes:
        counts: predictions in each cell.
        sums: their summed probability.
        hits: how many of them came true.
    """

    counts: Int[np.ndarray, "cells"] = field(default_factory=lambda: np.zeros(NUM_CELLS, np.int64))
    sums: Float[np.ndarray, "cells"] = field(default_factory=lambda: np.zeros(NUM_CELLS))
    hits: Int[np.ndarray, "cells"] = field(default_factory=lambda: np.zeros(NUM_CELLS, np.int64))

    def add(self, probabilities: Float[np.ndarray, "voxels"], came_true: np.ndarray) -> None:
        """Count predictions and their outcomes."""
        probabilities = _at_least_single(probabilities)
        cells = np.minimum((probabilities * NUM_CELLS).astype(np.int64), NUM_CELLS - 1)
        self.counts += np.bincount(cells, minlength=NUM_CELLS)
        self.sums += np.bincount(cells, weights=probabilities, minlength=NUM_CELLS)
        self.hits += np.bincount(cells[came_true], minlength=NUM_CELLS)

    def merge(self, other: "CellHistogram") -> None:
        """Add the predictions of another histogram."""
        self.counts += other.counts
        self.sums += other.sums
        self.hits += other.hits

    def bins(self, *, adaptive: bool = False) -> ReliabilityBins:
        """The cells joined to 15 bins of equal width or, ``adaptive``, of about equal mass."""
        bin_of_cell = np.arange(NUM_CELLS) // _CELLS_PER_BIN
        if adaptive:
            middle = np.cumsum(self.counts) - self.counts / 2
            total = max(int(self.counts.sum()), 1)
            bin_of_cell = np.minimum((middle * NUM_BINS / total).astype(int), NUM_BINS - 1)
        counts, sums, hits = (
            np.bincount(bin_of_cell, weights=values, minlength=NUM_BINS)
            for values in (self.counts, self.sums, self.hits)
        )
        with np.errstate(invalid="ignore"):
            return ReliabilityBins(counts.astype(np.int64), sums / counts, hits / counts)


@dataclass(frozen=True)
class CalibrationFigures:
    """The figures of one case or of many; see the module. NaN without voxels."""

    nll: float
    brier: float
    ece: float
    ece_adaptive: float
    classwise_ece: float
    classwise_ece_adaptive: float
    clipped: int
    voxels: int


class CalibrationHistogram:
    """Takes probabilities piece by piece and keeps what the calibration figures need.

    Args:
        num_channels: classes with the background, or regions.
        has_regions: whether channels are independent regions.
    """

    def __init__(self, num_channels: int, *, has_regions: bool = False) -> None:
        self.has_regions = has_regions
        self.top_label = CellHistogram()
        self.channels = [CellHistogram() for _ in range(num_channels)]
        self.nll_sum = self.brier_sum = 0.0
        self.clipped = self.voxels = 0

    def add(self, probabilities: Float[np.ndarray, "channels voxels"], truth: np.ndarray) -> None:
        """Count voxels.

        Args:
            probabilities: of each channel at each voxel, between 0 and 1.
            truth: classes: the true channel of each voxel, shape (voxels,). Regions: whether each
                region holds, bool, shape (regions, voxels).

        Raises:
            InputError: if the number of channels differs, or a probability is not between 0 and 1.
        """
        self._check(probabilities)
        if not probabilities.shape[1]:
            return
        probabilities = _at_least_single(probabilities)
        came_true = (
            truth.astype(bool)
            if self.has_regions
            else truth == np.arange(len(self.channels))[:, None]
        )
        self.voxels += probabilities.shape[1]
        self._add_likelihood(probabilities, came_true)
        for channel, histogram in enumerate(self.channels):
            histogram.add(probabilities[channel], came_true[channel])
        if not self.has_regions:
            top = probabilities.argmax(axis=0)
            self.top_label.add(
                np.take_along_axis(probabilities, top[None], axis=0)[0], top == truth
            )

    def merge(self, other: "CalibrationHistogram") -> None:
        """Add everything that another histogram has counted."""
        self.top_label.merge(other.top_label)
        for mine, its in zip(self.channels, other.channels, strict=True):
            mine.merge(its)
        self.nll_sum += other.nll_sum
        self.brier_sum += other.brier_sum
        self.clipped += other.clipped
        self.voxels += other.voxels

    def figures(self) -> CalibrationFigures:
        """The calibration figures of everything counted so far."""
        voxels = self.voxels or float("nan")
        static = [channel.bins().expected_error for channel in self.channels]
        adaptive = [channel.bins(adaptive=True).expected_error for channel in self.channels]
        return CalibrationFigures(
            nll=self.nll_sum / voxels,
            brier=self.brier_sum / voxels,
            ece=self.top_label.bins().expected_error,
            ece_adaptive=self.top_label.bins(adaptive=True).expected_error,
            classwise_ece=float(np.mean(static)),
            classwise_ece_adaptive=float(np.mean(adaptive)),
            clipped=self.clipped,
            voxels=self.voxels,
        )

    def reliability(self, channel: int | None = None) -> ReliabilityBins:
        """Equal-width bins of the most probable class (None) or of one channel."""
        histogram = self.top_label if channel is None else self.channels[channel]
        return histogram.bins()

    def _add_likelihood(self, probabilities: np.ndarray, came_true: np.ndarray) -> None:
        if self.has_regions:
            of_truth = np.where(came_true, probabilities, 1 - probabilities)
            per_voxel = len(probabilities)
        else:
            of_truth, per_voxel = probabilities[came_true], 1
        self.clipped += int(np.count_nonzero(of_truth < MIN_PROBABILITY))
        logs = np.log(np.maximum(of_truth, MIN_PROBABILITY), dtype=np.float64)
        self.nll_sum -= float(logs.sum()) / per_voxel
        squares = np.square(probabilities - came_true, dtype=np.float64)
        self.brier_sum += float(squares.sum()) / per_voxel

    def _check(self, probabilities: np.ndarray) -> None:
        if len(probabilities) != len(self.channels):
            raise InputError(
                f"expected probabilities of {len(self.channels)} channels, "
                f"got {len(probabilities)}; do they belong to this data set?"
            )
        if not probabilities.size:
            return
        low, high = float(probabilities.min()), float(probabilities.max())
        if not (low >= 0 and high <= 1 + 1e-3):  # float16 rounding may pass 1
            raise InputError(
                f"probabilities must lie between 0 and 1, got {low!r} to {high!r}; "
                "were logits saved?"
            )


def _at_least_single(probabilities: np.ndarray) -> np.ndarray:
    """Half precision has too few digits for cells and squares."""
    return probabilities.astype(np.promote_types(probabilities.dtype, np.float32), copy=False)
