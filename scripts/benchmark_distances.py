"""Time of all surface distances of a pair of masks, beside single distance transforms.

    python scripts/benchmark_distances.py [--repeats 3]

Pairs of ellipsoids, the prediction a voxel smaller and moved, in 300 x 384 x 384 voxels. Processor
time on one core, in turn, medians. A distance transform of each mask, in the box around both, is
the least that a computation with distance maps needs.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import distance_transform_edt

from nnunetv2_le.evaluation.surface_distance import surface_distances

SHAPE = (300, 384, 384)
SPACING_MM = (2.5, 0.8, 0.8)
RADII = (0.15, 0.3, 0.45)  # of the edge of the volume
MOVED = (1, 2, -2)  # voxels


def main() -> None:
    """Measure every size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    print("| voxels | all figures, s | SimpleITK, two maps, s | SciPy, two maps, s | ratios |")
    print("|---|---|---|---|---|")
    for radius in RADII:
        reference, prediction = ellipsoid(radius), np.roll(ellipsoid(radius, 1), MOVED, (0, 1, 2))
        box = boxed(reference | prediction)
        masks = [reference[box], prediction[box]]
        ways: list[Callable[[], object]] = [
            lambda pair=(reference, prediction): surface_distances(*pair, spacing_mm=SPACING_MM),
            lambda masks=masks: [itk_map(mask) for mask in masks],
            lambda masks=masks: [distance_transform_edt(~m, sampling=SPACING_MM) for m in masks],
        ]
        seconds: list[list[float]] = [[] for _ in ways]
        for _ in range(arguments.repeats):
            for times, way in zip(seconds, ways, strict=True):
                begin = time.process_time()
                way()
                times.append(time.process_time() - begin)
        ours, itk, scipy = (statistics.median(times) for times in seconds)
        print(
            f"| {reference.sum() / 1e6:.1f} million | {ours:.2f} | {itk:.2f} | {scipy:.2f} | "
            f"{ours / itk:.2f}, {ours / scipy:.2f} |",
            flush=True,
        )


def ellipsoid(radius: float, smaller_by: int = 0) -> np.ndarray:
    """A mask in the middle of the volume, radii in shares of its edges less some voxels."""
    axes = np.ogrid[tuple(slice(-n / 2, n / 2) for n in SHAPE)]
    radii = [radius * n - smaller_by for n in SHAPE]
    return np.asarray(sum((a / r) ** 2 for a, r in zip(axes, radii, strict=True)) <= 1)


def boxed(mask: np.ndarray) -> tuple[slice, ...]:
    """The box around a mask."""
    found = (np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3))
    return tuple(slice(int(where[0]), int(where[-1]) + 1) for where in found)


def itk_map(mask: np.ndarray) -> sitk.Image:
    """SimpleITK's signed distance map."""
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing(SPACING_MM[::-1])
    return sitk.SignedMaurerDistanceMap(image, squaredDistance=False, useImageSpacing=True)


if __name__ == "__main__":
    main()
