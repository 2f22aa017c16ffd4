"""Does a confidence score find the cases that went wrong? Risk-coverage curves and their areas.

Conventions:
    ``risks`` holds one number a case, higher is worse (usually 1 - Dice); ``confidences`` one
    number a case, higher is better (negate an uncertainty first). Coverage is the fraction of cases
    that are kept, most confident first. Cases with the same confidence have no order: every figure
    here is its mean over all orders of tied cases. Within a tie the k-th case in line has the mean
    risk of the tie, because the selective risk is linear in the risks.

Metrics:
    risk_coverage_curve, aurc, optimal_aurc, random_aurc, excess_aurc, normalized_aurc, augrc,
    failure_auroc, failure_average_precision.

References:
    Geifman, Uziel and El-Yaniv 2019, "Bias-reduced uncertainty estimation", arXiv:1805.08206 (AURC,
    excess AURC). Traub et al. 2024, "Overcoming common flaws in the evaluation of selective
    classification", arXiv:2407.01032 (AUGRC). Zenk et al. 2025, "Comparative benchmarking of
    failure detection methods in medical image segmentation", arXiv:2406.03323, whose AURC follows
    fd-shifts (Jaeger et al. 2023, arXiv:2211.15259).

Deviations:
    The benchmark's code sorts once, so under ties its result depends on the order of the rows; ours
    does not. Without ties the two agree. As there, AURC is the trapezoid from coverage 1/n to 1 and
    AUGRC the one from (0, 0) to coverage 1; nothing is multiplied by 1000. (Later versions of
    fd-shifts extend AURC flat from 1/n to 0, which adds 1/n of the risk of the most confident
    case.)
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from sklearn.metrics import average_precision_score, roc_auc_score

from nnunetv2_le.errors import InputError


@dataclass(frozen=True)
class RiskCoverageCurve:
    """The risk that remains when the least confident cases are given away.

    Attributes:
        coverages: k / n for k = 1..n, the fraction of cases kept.
        selective_risks: mean risk of the k most confident cases.
        generalized_risks: their summed risk divided by n: the probability-weighted risk over all
            cases.
    """

    coverages: Float[np.ndarray, "cases"]
    selective_risks: Float[np.ndarray, "cases"]
    generalized_risks: Float[np.ndarray, "cases"]


def risk_coverage_curve(
    risks: Float[np.ndarray, "cases"], confidences: Float[np.ndarray, "confidences"]
) -> RiskCoverageCurve:
    """Selective and generalised risk at every coverage, averaged over the orders of tied cases.

    Args:
        risks: risk of each case, higher is worse.
        confidences: confidence of each case, higher is better.

    Returns:
        The curve at coverages 1/n, 2/n, ..., 1.

    Raises:
        InputError: if the arrays are empty, differ in length or hold anything but finite numbers.
    """
    risks, confidences = _checked(risks, confidences)
    sums, counts = _tie_groups(risks, confidences)
    accepted = np.cumsum(np.repeat(sums / counts, counts.astype(int)))
    kept = np.arange(1, len(risks) + 1)
    return RiskCoverageCurve(kept / len(risks), accepted / kept, accepted / len(risks))


def aurc(risks: Float[np.ndarray, "cases"], confidences: Float[np.ndarray, "confidences"]) -> float:
    """Area under the risk-coverage curve; lower is better.

    AURC = (1/n) sum_{k=1}^{n-1} (R_k + R_{k+1}) / 2, R_k the mean risk of the k most confident
    cases.

    Args:
        risks: risk of each case, higher is worse.
        confidences: confidence of each case, higher is better.

    Returns:
        The area; NaN for a single case, whose curve is a point.

    Raises:
        InputError: as `risk_coverage_curve`.

    Source:
        Zenk et al. 2025 and fd-shifts (trapezoid from coverage 1/n to 1); tied cases averaged over
        their orders.
    """
    risks, confidences = _checked(risks, confidences)
    return float(grouped_aurc(*_tie_groups(risks, confidences)))


def optimal_aurc(risks: Float[np.ndarray, "cases"]) -> float:
    """AURC of the perfect score, which puts the cases in the order of their risk."""
    return aurc(risks, -np.asarray(risks, dtype=float))


def random_aurc(risks: Float[np.ndarray, "cases"]) -> float:
    """The published benchmark's AURC of a score without information: the mean risk.

    It is the area under the flat line from coverage 0 to 1. The trapezoid starts at 1/n, so the
    mean of `aurc` over all orders is (n - 1)/n of it; we keep the published value so that
    normalised figures compare.

    Raises:
        InputError: if there is no case or a risk is not finite.
    """
    risks, _ = _checked(risks, risks)
    return float(risks.mean())


def excess_aurc(
    risks: Float[np.ndarray, "cases"], confidences: Float[np.ndarray, "confidences"]
) -> float:
    """AURC above that of the perfect score: AURC - optimal AURC >= 0; lower is better.

    Source:
        Geifman, Uziel and El-Yaniv 2019.
    """
    return aurc(risks, confidences) - optimal_aurc(risks)


def normalized_aurc(
    risks: Float[np.ndarray, "cases"], confidences: Float[np.ndarray, "confidences"]
) -> float:
    """Where the AURC lies between random (0) and perfect (1); higher is better.

    (random AURC - AURC) / (random AURC - optimal AURC), as the published benchmark (Zenk et al.
    2025) normalises.

    Returns:
        The figure; NaN where all risks are equal, so that no score could do better than another.
    """
    optimal, random = optimal_aurc(risks), random_aurc(risks)
    if np.ptp(risks) == 0:
        return float("nan")
    return (random - aurc(risks, confidences)) / (random - optimal)


def augrc(
    risks: Float[np.ndarray, "cases"], confidences: Float[np.ndarray, "confidences"]
) -> float:
    """Area under the generalised risk-coverage curve; lower is better.

    AUGRC = (1/n) sum_{k=1}^{n} (G_{k-1} + G_k) / 2, G_k the summed risk of the k most confident
    cases divided by n, G_0 = 0. For risks 0 and 1 it is the probability that a failure goes through
    unnoticed, averaged over coverages.

    Args:
        risks: risk of each case, higher is worse.
        confidences: confidence of each case, higher is better.

    Raises:
        InputError: as `risk_coverage_curve`.

    Source:
        Traub et al. 2024, eq. 4; tied cases averaged over their orders (a straight line between the
        ends of the tie).
    """
    risks, confidences = _checked(risks, confidences)
    return float(grouped_augrc(*_tie_groups(risks, confidences)))


def failure_auroc(failures: np.ndarray, confidences: Float[np.ndarray, "cases"]) -> float:
    """Probability that a failed case has a lower confidence than a good one, ties counting half.

    NaN where all cases failed or none did.

    Args:
        failures: True where the case failed, for example Dice below a threshold.
        confidences: confidence of each case, higher is better.
    """
    failures = np.asarray(failures, dtype=bool)
    if failures.all() or not failures.any():
        return float("nan")
    return float(roc_auc_score(failures, -np.asarray(confidences, dtype=float)))


def failure_average_precision(
    failures: np.ndarray, confidences: Float[np.ndarray, "confidences"]
) -> float:
    """Average precision of low confidence at finding failures; NaN where all cases failed or none.

    Args:
        failures: True where the case failed.
        confidences: confidence of each case, higher is better.
    """
    failures = np.asarray(failures, dtype=bool)
    if failures.all() or not failures.any():
        return float("nan")
    return float(average_precision_score(failures, -np.asarray(confidences, dtype=float)))


def grouped_aurc(
    sums: Float[np.ndarray, "*samples groups"], counts: Float[np.ndarray, "*samples groups"]
) -> Float[np.ndarray, "*samples"]:
    """AURC from tie groups, for any number of samples at once (a bootstrap needs thousands).

    A group of m cases with summed risk s after K cases with summed risk S adds, averaged over its
    orders, sum_{j=1}^{m} (S + j s/m) / (K + j) = s + (S - K s/m) (H_{K+m} - H_K), H the harmonic
    numbers.

    Args:
        sums: summed risk of each tie group, most confident group first; 0 where the group is empty.
        counts: cases in each group.

    Returns:
        The area; NaN where a sample has fewer than two cases.
    """
    counts = counts.astype(int)
    after, risk_after = np.cumsum(counts, axis=-1), np.cumsum(sums, axis=-1)
    before, risk_before = after - counts, risk_after - sums
    total = after[..., -1]
    means = sums / np.maximum(counts, 1)
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, np.max(total, initial=0) + 1))])
    area = sums + (risk_before - before * means) * (harmonic[after] - harmonic[before])
    first_group = np.argmax(counts > 0, axis=-1)[..., None]
    first_risk = np.take_along_axis(means, first_group, axis=-1)[..., 0]
    last_risk = risk_after[..., -1] / np.maximum(total, 1)
    trapezoid = (area.sum(axis=-1) - (first_risk + last_risk) / 2) / np.maximum(total, 1)
    return np.where(total > 1, trapezoid, np.nan)


def grouped_augrc(
    sums: Float[np.ndarray, "*samples groups"], counts: Float[np.ndarray, "*samples groups"]
) -> Float[np.ndarray, "*samples"]:
    """AUGRC from tie groups, for any number of samples at once.

    A group of m cases with summed risk s after a summed risk S is a straight piece: area m (S +
    s/2) / n^2.

    Args:
        sums: summed risk of each tie group, most confident group first; 0 where the group is empty.
        counts: cases in each group.

    Returns:
        The area; NaN where a sample has no case.
    """
    risk_before = np.cumsum(sums, axis=-1) - sums
    total = counts.sum(axis=-1)
    area = (counts * (risk_before + sums / 2)).sum(axis=-1)
    return np.where(total > 0, area / np.maximum(total, 1) ** 2, np.nan)


def _tie_groups(
    risks: Float[np.ndarray, "cases"], confidences: Float[np.ndarray, "confidences"]
) -> tuple[Float[np.ndarray, "groups"], Float[np.ndarray, "groups"]]:
    """Summed risk and number of cases of each distinct confidence, highest confidence first."""
    _, group, counts = np.unique(-confidences, return_inverse=True, return_counts=True)
    return np.bincount(group, weights=risks), counts.astype(float)


def _checked(risks: np.ndarray, confidences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    risks, confidences = np.asarray(risks, dtype=float), np.asarray(confidences, dtype=float)
    if risks.ndim != 1 or risks.shape != confidences.shape or not len(risks):
        raise InputError(
            "risks and confidences must hold one number for each of at least one case, "
            f"got shapes {risks.shape} and {confidences.shape}"
        )
    undefined = int(np.count_nonzero(~(np.isfinite(risks) & np.isfinite(confidences))))
    if undefined:
        raise InputError(
            f"risks and confidences must be finite, got {undefined} of {len(risks)} cases with NaN "
            "or infinity; leave these cases out and report their number"
        )
    return risks, confidences
