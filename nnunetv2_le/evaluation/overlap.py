"""Overlap of a segmentation with its reference: Dice and IoU from one joint histogram.

Conventions:
    Label maps hold integers (nnU-Net's readers give them as float32). A label is one value, a
    region a tuple of values. Voxels where the reference has the ignore label count nowhere.

Metrics:
    dice = 2 TP / (2 TP + FP + FN), iou = TP / (TP + FP + FN), volume error = (TP + FP) - (TP + FN)
    voxels. Empty reference and empty prediction: NaN, as in nnUNetv2_evaluate_folder. One of them
    empty: 0.

References:
    nnunetv2.evaluation.evaluate_predictions (the same counts, one pass over the volume for each
    label and count).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from scipy import ndimage

from nnunetv2_le.errors import InputError
from nnunetv2_le.types import LabelValue

_MAX_VALUES = 1024  # of a label image; atlases of the brain have a few hundred
_CHUNK_VOXELS = 2**22  # keeps the temporary index below 64 MiB whatever the volume


@dataclass(frozen=True)
class Confusion:
    """Voxel counts of one label or region."""

    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def dice(self) -> float:
        """2 TP / (2 TP + FP + FN); NaN where reference and prediction are empty."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def iou(self) -> float:
        """TP / (TP + FP + FN); NaN where reference and prediction are empty."""
        return _ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def num_reference(self) -> int:
        """Voxels of the reference."""
        return self.tp + self.fn

    @property
    def num_prediction(self) -> int:
        """Voxels of the prediction."""
        return self.tp + self.fp


@dataclass(frozen=True)
class JointHistogram:
    """How often each label value of the reference meets each of the prediction.

    Attributes:
        values: the label values that occur, ascending.
        counts: ``counts[i, j]`` voxels with ``values[i]`` in the reference, ``values[j]`` in the
            prediction.
    """

    values: Int[np.ndarray, "values"]
    counts: Int[np.ndarray, "values values"]

    def unknown_values(self, known: Sequence[int]) -> dict[int, int]:
        """Values that are not ``known``, with the number of voxels that hold them."""
        either = self.counts.sum(axis=0) + self.counts.sum(axis=1) - np.diag(self.counts)
        return {
            int(value): int(count)
            for value, count in zip(self.values, either, strict=True)
            if count and value not in known
        }


def label_map(array: np.ndarray) -> Int[np.ndarray, "*space"]:
    """A label image as integers.

    Raises:
        InputError: if a voxel is not a whole number, or there are more values than labels have.
    """
    with np.errstate(invalid="ignore"):
        labels = array.astype(np.int32, copy=False)
    odd = 0 if array.dtype == bool else int(np.count_nonzero(labels != array))
    if odd:
        raise InputError(
            f"a label image must hold whole numbers, got {odd} voxels with NaN or fractions; save "
            "it as integers, and resample labels by nearest neighbour"
        )
    if labels.size and int(labels.max()) - int(labels.min()) >= _MAX_VALUES:
        _require_few(len(np.unique(labels)), _MAX_VALUES)
    return labels


def joint_histogram(
    reference: Int[np.ndarray, "*space"], prediction: Int[np.ndarray, "*other_space"]
) -> JointHistogram:
    """Count every pair of label values in one pass.

    Args:
        reference: label map.
        prediction: label map of the same shape.

    Raises:
        InputError: if the shapes differ, there is no voxel, or more values than labels have.
    """
    if reference.shape != prediction.shape:
        raise InputError(
            "reference and prediction must have one shape, got "
            f"{reference.shape} and {prediction.shape}"
        )
    if not reference.size:
        raise InputError("reference and prediction hold no voxel")
    low = min(int(reference.min()), int(prediction.min()))
    size = max(int(reference.max()), int(prediction.max())) - low + 1
    flat_reference, flat_prediction = reference.reshape(-1), prediction.reshape(-1)
    if size > _MAX_VALUES:  # arbitrary label values: number them first, or the table would not fit
        values, numbers = np.unique(
            np.concatenate([flat_reference, flat_prediction]), return_inverse=True
        )
        flat_reference, flat_prediction = np.split(numbers.astype(np.int32), 2)
        low, size = 0, len(values)
        _require_few(size, 2 * _MAX_VALUES)
    else:
        values = np.arange(low, low + size)
    counts = np.zeros(size * size, dtype=np.int64)
    for start in range(0, len(flat_reference), _CHUNK_VOXELS):
        piece = slice(start, start + _CHUNK_VOXELS)
        pairs = (flat_reference[piece] - low) * size + (flat_prediction[piece] - low)
        counts += np.bincount(pairs, minlength=size * size)
    return JointHistogram(values.astype(np.int64), counts.reshape(size, size))


def confusion(
    histogram: JointHistogram, label: LabelValue, *, ignore_label: int | None = None
) -> Confusion:
    """Voxel counts of one label or region.

    Args:
        histogram: from `joint_histogram`.
        label: a label value, or the tuple of values that a region joins.
        ignore_label: voxels with this value in the reference are left out.
    """
    members = np.isin(histogram.values, label if isinstance(label, tuple) else (label,))
    counts = histogram.counts
    if ignore_label is not None:
        counts = counts[histogram.values != ignore_label]
    in_reference = members if ignore_label is None else members[histogram.values != ignore_label]
    return Confusion(
        tp=int(counts[np.ix_(in_reference, members)].sum()),
        fp=int(counts[np.ix_(~in_reference, members)].sum()),
        fn=int(counts[np.ix_(in_reference, ~members)].sum()),
        tn=int(counts[np.ix_(~in_reference, ~members)].sum()),
    )


def label_mask(labels: Int[np.ndarray, "*space"], label: LabelValue) -> np.ndarray:
    """The voxels of a label or region, as a boolean array."""
    if isinstance(label, tuple):
        return np.isin(labels, label)
    return np.asarray(labels == label)


def label_boxes(
    label_maps: Sequence[Int[np.ndarray, "*space"]], labels: Sequence[LabelValue]
) -> list[tuple[slice, ...]]:
    """For each label or region the box that holds it in every map, from one pass over each map.

    A box is a voxel wider where the image goes on, so an axis of it is thin only if the image's is.
    A label that no map has gets an empty box.

    Args:
        label_maps: of one shape.
        labels: label values, or tuples of values that regions join.
    """
    joined = [label if isinstance(label, tuple) else (label,) for label in labels]
    highest = max(1, *(value for values in joined for value in values))
    found = [ndimage.find_objects(one, max_label=highest) for one in label_maps]
    shape = label_maps[0].shape
    boxes = []
    for values in joined:
        if min(values) < 1:  # the background is everywhere
            boxes.append(tuple(slice(0, size) for size in shape))
        else:
            parts = [parts[value - 1] for parts in found for value in values]
            boxes.append(_joint_box([part for part in parts if part is not None], shape))
    return boxes


def _joint_box(boxes: Sequence[tuple[slice, ...]], shape: tuple[int, ...]) -> tuple[slice, ...]:
    if not boxes:
        return (slice(0, 0),) * len(shape)
    return tuple(
        slice(max(0, min(s.start for s in spans) - 1), min(size, max(s.stop for s in spans) + 1))
        for spans, size in zip(zip(*boxes, strict=True), shape, strict=True)
    )


def _require_few(number: int, at_most: int) -> None:
    if number > at_most:
        raise InputError(
            f"a label image must hold at most {at_most} different values, got {number}; is it an "
            "image instead of labels?"
        )


def _ratio(numerator: int, denominator: int) -> float:
    return numerator / denominator if denominator else float("nan")
