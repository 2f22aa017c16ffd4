"""How often cases that are like the known ones are flagged as out of distribution.

    python scripts/study_out_of_distribution.py

Simulated: independent Gaussian features; cases of one patient share a part of them. Each repetition
draws known patients and as many new ones as make 200, one case each.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nnunetv2_le.calibration.out_of_distribution import OutOfDistribution

NEW_CASES = 200
SHARED = 0.7  # of the variance within a patient with several cases
SETTINGS = ((19, 1), (20, 1), (60, 1), (100, 1), (12, 4), (20, 3), (40, 4))  # patients, cases each


def main() -> None:
    """Print the share of flagged cases for every number of patients."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument("--features", type=int, default=10)
    parser.add_argument("--repetitions", type=int, default=200)
    arguments = parser.parse_args()
    print("| patients | cases of each | flagged | standard error |\n|---|---|---|---|")
    for number, (patients, cases) in enumerate(SETTINGS):
        rng = np.random.default_rng(number)
        shares = [
            flagged(rng, patients, cases, num_features=arguments.features, alpha=arguments.alpha)
            for _ in range(arguments.repetitions)
        ]
        error = np.std(shares, ddof=1) / np.sqrt(len(shares))
        print(f"| {patients} | {cases} | {np.mean(shares):.3f} | {error:.3f} |")


def flagged(
    rng: np.random.Generator, patients: int, cases: int, *, num_features: int, alpha: float
) -> float:
    """Share of new cases, like the known ones, whose quantile is at least 1 - alpha."""
    shared = SHARED if cases > 1 else 0.0
    common = np.repeat(rng.normal(size=(patients, num_features)), cases, axis=0)
    own = rng.normal(size=common.shape)
    known = np.sqrt(shared) * common + np.sqrt(1 - shared) * own
    groups = np.repeat(np.arange(patients), cases)
    detector = OutOfDistribution(known, groups=groups)
    new = rng.normal(size=(NEW_CASES, num_features))
    quantiles = np.array([detector.score(features).quantile for features in new])
    return float(np.mean(quantiles >= 1 - alpha))


if __name__ == "__main__":
    main()
