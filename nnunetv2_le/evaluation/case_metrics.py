"""All figures of one case: its files in, numbers out.

Conventions:
    The value of a case is the mean over its labels (or regions) where the figure is defined. A
    label that is in neither image has no figure; one that only one side has gets overlap 0 and no
    distance. The table counts these labels. With several raters the reference is their consensus
    (most votes, see `raters.consensus`).

Metrics:
    dice, iou (`overlap`); hd95_mm, modified_hausdorff_mm, mean_surface_distance_mm, surface_dice
    (`surface_distance`); volume_error_ml = prediction - reference, its absolute value, and
    relative_volume_error = prediction / reference - 1; nll, brier, ece... (`calibration_error`),
    over the whole image and, prefixed ``roi_``, over the region of interest: the union of the
    prediction's and the reference's foreground, dilated; generalised energy distance (`raters`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import ndimage

from nnunetv2_le.errors import InputError, first_few
from nnunetv2_le.evaluation.calibration_error import CalibrationHistogram
from nnunetv2_le.evaluation.cases import CaseFiles
from nnunetv2_le.evaluation.dataset import EvaluationDataset
from nnunetv2_le.evaluation.grids import difference
from nnunetv2_le.evaluation.overlap import (
    JointHistogram,
    confusion,
    joint_histogram,
    label_boxes,
    label_mask,
)
from nnunetv2_le.evaluation.rater_metrics import rater_figures
from nnunetv2_le.evaluation.raters import consensus
from nnunetv2_le.evaluation.saved_probabilities import iterate_slabs
from nnunetv2_le.evaluation.surface_distance import surface_distances
from nnunetv2_le.evaluation.volumes import read_segmentation
from nnunetv2_le.inference.voxel_volume import has_nominal_thickness
from nnunetv2_le.types import LabelValue
from nnunetv2_le.uncertainty.aggregation import bounding_box

_LISTED = 5  # unknown values of a case


@dataclass(frozen=True)
class MetricSettings:
    """What to compute of each case.

    Attributes:
        distances: surface distances too.
        tolerance_mm: of surface Dice.
        probabilities: calibration figures, where probabilities were saved.
        roi_margin_voxels: dilation of the region of interest.
    """

    distances: bool = True
    tolerance_mm: float = 1.0
    probabilities: bool = True
    roi_margin_voxels: int = 5


@dataclass(frozen=True)
class CaseMetrics:
    """The figures of one case.

    Attributes:
        case: its name.
        values: figure to value, mean over labels where there is one a label.
        per_label: label name to figures.
        problems: what was left out and why; the case is in the figures all the same.
        failure: why the case has no figures at all.
        calibration: histogram of the whole image and of the region of interest, to be added up over
            cases.
    """

    case: str
    values: dict[str, float] = field(default_factory=dict)
    per_label: dict[str, dict[str, float]] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    failure: str | None = None
    calibration: tuple[CalibrationHistogram, CalibrationHistogram] | None = None


@dataclass(frozen=True)
class _Images:
    """One case's label maps on one grid."""

    prediction: np.ndarray
    reference: np.ndarray
    raters: tuple[np.ndarray, ...]
    spacing_mm: tuple[float, ...]
    problems: tuple[str, ...] = ()


def evaluate_case(
    files: CaseFiles, dataset: EvaluationDataset, settings: MetricSettings
) -> CaseMetrics:
    """Every figure of one case; a case that cannot be used says why in ``failure``.

    Args:
        files: of the case.
        dataset: how they are read.
        settings: what to compute.
    """
    try:
        images = _read(files, dataset)
        histogram = joint_histogram(images.reference, images.prediction)
    except InputError as error:
        return CaseMetrics(files.case, failure=str(error))
    problems = [*images.problems, *_unknown_labels(histogram, dataset)]
    per_label = _figures_of_labels(images, histogram, dataset, settings)
    values = _mean_over_labels(list(per_label.values()))
    calibration = None
    if settings.probabilities and files.probabilities is not None:
        try:
            calibration = _calibration(files.probabilities, images, dataset, settings)
            values |= _calibration_values(calibration)
        except InputError as error:
            problems.append(f"its probabilities are left out: {error}")
    if len(images.raters) > 1:
        figures, complaints = rater_figures(files, images.raters, images.prediction, dataset)
        values |= figures
        problems += complaints
    return CaseMetrics(files.case, values, per_label, tuple(problems), calibration=calibration)


def _read(files: CaseFiles, dataset: EvaluationDataset) -> _Images:
    prediction = read_segmentation(files.prediction, dataset.reader)
    raters, problems = [], []
    for file in files.references:
        rater = read_segmentation(file, dataset.reader)
        if rater.labels.shape != prediction.labels.shape:
            raise InputError(
                f"its reference has shape {rater.labels.shape}, its prediction "
                f"{prediction.labels.shape}: {file}"
            )
        if found := difference(rater.grid, prediction.grid):
            said = f"its reference has {found.what} {found.here}, its prediction {found.there}"
            if found.what == "spacing":
                raise InputError(f"{said}: {file}")
            problems.append(f"{said}; compared voxel by voxel as nnU-Net does: {file}")
        raters.append(rater.labels)
    reference = raters[0] if len(raters) == 1 else consensus(raters)
    spacing_mm = prediction.grid.spacing_mm
    return _Images(prediction.labels, reference, tuple(raters), spacing_mm, tuple(problems))


def _unknown_labels(histogram: JointHistogram, dataset: EvaluationDataset) -> list[str]:
    unknown = histogram.unknown_values(dataset.known_values)
    if not unknown:
        return []
    listed = first_few((f"{v} ({count} voxels)" for v, count in unknown.items()), _LISTED)
    return [f"labels that are not in dataset.json count as background: {listed}"]


def _figures_of_labels(
    images: _Images,
    histogram: JointHistogram,
    dataset: EvaluationDataset,
    settings: MetricSettings,
) -> dict[str, dict[str, float]]:
    """Label name to figures; distances are taken in the label's box, not in the whole volume."""
    names, values = dataset.labels.names, dataset.labels.values
    per_label = {
        name: _overlap_figures(images, histogram, value, dataset)
        for name, value in zip(names, values, strict=True)
    }
    if settings.distances:
        boxes = label_boxes([images.reference, images.prediction], values)
        for name, value, box in zip(names, values, boxes, strict=True):
            per_label[name] |= _distances(images, value, box, dataset, settings)
    return per_label


def _overlap_figures(
    images: _Images, histogram: JointHistogram, label: LabelValue, dataset: EvaluationDataset
) -> dict[str, float]:
    counts = confusion(histogram, label, ignore_label=dataset.ignore_label)
    voxel_ml = _voxel_ml(images)
    error = counts.num_prediction - counts.num_reference
    return {
        "dice": counts.dice,
        "iou": counts.iou,
        "volume_error_ml": error * voxel_ml,
        "absolute_volume_error_ml": abs(error) * voxel_ml,
        "relative_volume_error": error / counts.num_reference if counts.num_reference else np.nan,
        "reference_voxels": counts.num_reference,
        "prediction_voxels": counts.num_prediction,
    }


def _distances(
    images: _Images,
    label: LabelValue,
    box: tuple[slice, ...],
    dataset: EvaluationDataset,
    settings: MetricSettings,
) -> dict[str, float]:
    reference, prediction = images.reference[box], images.prediction[box]
    masks = [label_mask(image, label) for image in (reference, prediction)]
    if dataset.ignore_label is not None:
        kept = reference != dataset.ignore_label
        masks = [mask & kept for mask in masks]
    distances = surface_distances(
        masks[0], masks[1], spacing_mm=images.spacing_mm, tolerance_mm=settings.tolerance_mm
    )
    return vars(distances)


def _voxel_ml(images: _Images) -> float:
    """Volume of a voxel in millilitres; NaN for an image of one slice without thickness."""
    if images.reference.shape[0] == 1 and has_nominal_thickness(images.spacing_mm):
        return float("nan")
    return float(np.prod(images.spacing_mm)) / 1000


def _mean_over_labels(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    sizes = np.array([[row["reference_voxels"], row["prediction_voxels"]] for row in rows]) > 0
    means = {}
    for name in rows[0]:
        if name in {"reference_voxels", "prediction_voxels"}:
            continue
        defined = [row[name] for row in rows if not np.isnan(row[name])]
        means[name] = float(np.mean(defined)) if defined else float("nan")
    return means | {
        "missed_labels": int((sizes[:, 0] & ~sizes[:, 1]).sum()),
        "invented_labels": int((~sizes[:, 0] & sizes[:, 1]).sum()),
        "absent_labels": int((~sizes).all(axis=1).sum()),
    }


def _calibration(
    file: Path, images: _Images, dataset: EvaluationDataset, settings: MetricSettings
) -> tuple[CalibrationHistogram, CalibrationHistogram]:
    """Histograms of the whole image and of the region of interest."""
    labels = dataset.labels
    pair = tuple(
        CalibrationHistogram(labels.num_channels, has_regions=labels.has_regions) for _ in range(2)
    )
    counted = np.isin(images.reference, dataset.known_values)
    if dataset.ignore_label is not None:
        counted &= images.reference != dataset.ignore_label
    interest = _region_of_interest(images, dataset, settings.roi_margin_voxels)
    for slab, probabilities in iterate_slabs(file, shape=images.reference.shape):
        reference = images.reference[slab]
        truth = (
            np.stack([label_mask(reference, value) for value in labels.values])
            if labels.has_regions
            else reference
        )
        for histogram, kept in zip(
            pair, (counted[slab], counted[slab] & interest[slab]), strict=True
        ):
            histogram.add(probabilities[:, kept], truth[..., kept])
    return pair[0], pair[1]


def _region_of_interest(images: _Images, dataset: EvaluationDataset, margin: int) -> np.ndarray:
    values = [np.atleast_1d(value) for value in dataset.labels.values]
    foreground = np.isin(images.reference, np.concatenate(values))
    foreground |= np.isin(images.prediction, np.concatenate(values))
    if not margin or not foreground.any():
        return foreground
    margin = min(margin, sum(foreground.shape))  # more steps lead out of any image
    box = bounding_box(foreground, margin=margin)
    foreground[box] = ndimage.binary_dilation(foreground[box], iterations=margin)
    return foreground


def _calibration_values(
    calibration: tuple[CalibrationHistogram, CalibrationHistogram],
) -> dict[str, float]:
    whole, interest = (histogram.figures() for histogram in calibration)
    return vars(whole) | {f"roi_{name}": value for name, value in vars(interest).items()}
