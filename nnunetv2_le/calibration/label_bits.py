"""Maps of a calibrated model that say several labels at one voxel: one bit a label.

Conventions:
    Unsigned integers on the image's grid. Classes: bit c (value 2^c) is class c in the order of
    ``dataset.json``, bit 0 the background. Regions, which have no background: bit r is region r,
    and in a prediction set bit R + r (R regions) says that region r may be absent. Outside the part
    of the image that nnU-Net crops, background alone is possible.
"""

import numpy as np
from jaxtyping import Bool, UInt

from nnunetv2_le.calibration.contours import ContourMargins, contours
from nnunetv2_le.calibration.prediction_sets import PredictionSets, prediction_sets
from nnunetv2_le.errors import SettingError
from nnunetv2_le.evaluation.overlap import label_mask
from nnunetv2_le.inference.prediction import CasePrediction
from nnunetv2_le.types import LogitScaling


def prediction_set_bits(
    prediction: CasePrediction, fitted: PredictionSets, *, scaling: LogitScaling | None
) -> UInt[np.ndarray, "z y x"]:
    """Which labels remain possible at each voxel.

    Args:
        prediction: of the case.
        fitted: the threshold.
        scaling: of the fused logits, the one that the threshold was fitted with.
    """
    labels = prediction.labels
    regions = len(labels.names)
    num_bits = 2 * regions if labels.has_regions else labels.num_channels
    outside = ((1 << regions) - 1) << regions if labels.has_regions else 1
    dtype = _dtype(num_bits)
    array, view = prediction.grid.empty(dtype, outside)
    for rows, probabilities in prediction.probability_pieces(scaling=scaling):
        masks = prediction_sets(probabilities.numpy(), fitted, has_regions=labels.has_regions)
        view[rows] = _joined(masks, range(num_bits), dtype)
    return array


def contour_bits(
    prediction: CasePrediction, margins: ContourMargins, *, is_outer: bool
) -> UInt[np.ndarray, "z y x"]:
    """The inner or the outer contour's mask of each label."""
    labels = prediction.labels
    segmentation = prediction.segmentation().astype(np.int32)
    spacing_mm = [float(size) for size in prediction.properties["spacing"]]
    first = 0 if labels.has_regions else 1
    dtype = _dtype(first + len(labels.names))
    joined = np.zeros(segmentation.shape, dtype=dtype)
    for bit, (name, value) in enumerate(zip(labels.names, labels.values, strict=True), first):
        mask = label_mask(segmentation, value)
        chosen = contours(mask, margins.labels[name], spacing_mm=spacing_mm)[int(is_outer)]
        joined |= _joined(chosen[None], [bit], dtype)
    return joined


def _joined(
    masks: Bool[np.ndarray, "labels *space"],
    bits: "range | list[int]",
    dtype: type[np.unsignedinteger],
) -> np.ndarray:
    joined = np.zeros(masks.shape[1:], dtype=dtype)
    for bit, mask in zip(bits, masks, strict=True):
        joined |= mask.astype(dtype) << dtype(bit)
    return joined


def _dtype(num_bits: int) -> type[np.unsignedinteger]:
    kinds: tuple[type[np.unsignedinteger], ...] = (np.uint8, np.uint16, np.uint32, np.uint64)
    for dtype in kinds:
        if num_bits <= 8 * np.dtype(dtype).itemsize:
            return dtype
    raise SettingError(
        f"A map of possible labels has room for 64 bits, this model needs {num_bits}. Leave it "
        "out of -maps."
    )
