"""The reference labels of a case, on the image's grid and on the network's.

Conventions:
    Label maps have the axes of the image (z, y, x) on its own grid, and those of the network on
    the network's. Truth is what a prediction is compared with: the number of the true channel of
    each voxel (0 is the background), for regions one mask a region. Voxels with the ignore label
    are not known. A reference with a value that the data set does not know, or of another shape or
    spacing than the image, is refused: what is fitted on it is applied to every later prediction.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from nnunetv2_le.errors import CaseError, InputError, first_few
from nnunetv2_le.evaluation.grids import Grid, difference, grid_of
from nnunetv2_le.evaluation.volumes import read_segmentation
from nnunetv2_le.inference.model import Model
from nnunetv2_le.inference.prediction import CasePrediction
from nnunetv2_le.types import Labels

logger = logging.getLogger(__name__)

_LISTED = 5  # unknown values of a case


@dataclass(frozen=True)
class Reference:
    """Reference labels of one case.

    Attributes:
        native: label map on the image's grid.
        network: label map on the network's grid, resampled as nnU-Net resamples labels.
    """

    native: Int[np.ndarray, "z y x"]
    network: Int[np.ndarray, "depth height width"]


def read_reference(file: Path, prediction: CasePrediction, model: Model) -> Reference:
    """Read a reference and bring it to the network's grid.

    Raises:
        CaseError: it cannot be read, has another shape or spacing than the image, or values that
            are neither labels of the data set nor its ignore label.
    """
    try:
        read = read_segmentation(file, model.plans.image_reader_writer_class())
    except InputError as error:
        raise CaseError(f"The reference of {prediction.case}: {error}.") from error
    labels = read.labels
    expected = prediction.grid.empty(np.uint8)[0].shape
    if labels.shape != expected:
        raise CaseError(
            f"Expected a reference of shape {expected}, as the image of {prediction.case}, got "
            f"{labels.shape}: {file}. Give the labels of this very image."
        )
    _require_spacing(read.grid, prediction, file)
    _require_known_values(labels, prediction.case, model, file)
    return Reference(labels, _on_network_grid(labels, prediction, model))


def truth(
    labels: Int[np.ndarray, "*space"], described: Labels
) -> Int[np.ndarray, "*space"] | Bool[np.ndarray, "regions *space"]:
    """The true channel of each voxel, or one mask a region."""
    if described.has_regions:
        return np.stack([np.isin(labels, value) for value in described.values])
    channels = np.zeros(labels.shape, dtype=np.int64)
    for channel, value in enumerate(described.values, start=1):
        channels[labels == value] = channel
    return channels


def known_voxels(
    labels: Int[np.ndarray, "*space"], described: Labels, *, ignore_label: int | None
) -> Bool[np.ndarray, "*space"]:
    """Voxels whose true label is known."""
    if described.has_regions:
        return np.asarray(labels != (-1 if ignore_label is None else ignore_label))
    values = [value for value in described.values if isinstance(value, int)]
    return np.isin(labels, [0, *values])


def _require_spacing(grid: Grid, prediction: CasePrediction, file: Path) -> None:
    """Another spacing is refused; another direction or origin is said, as nnU-Net does."""
    found = difference(grid, grid_of(prediction.properties))
    if found is None:
        return
    if found.what == "spacing":
        raise CaseError(
            f"Expected a reference of spacing {found.there}, as the image of "
            f"{prediction.case}, got {found.here}: {file}. Give the labels of this very image, or "
            "mend its header."
        )
    logger.warning(
        "%s: its reference has %s %s, its image %s; compared voxel by voxel as nnU-Net does: %s",
        *(prediction.case, found.what, found.here, found.there, file),
    )


def _require_known_values(
    labels: Int[np.ndarray, "z y x"], case: str, model: Model, file: Path
) -> None:
    manager = model.label_manager
    ignored = [] if manager.ignore_label is None else [manager.ignore_label]
    known = [int(value) for value in (*manager.all_labels, *ignored)]
    if unknown := [str(value) for value in np.unique(labels) if value not in known]:
        raise CaseError(
            f"The reference of {case} has the values {first_few(unknown, _LISTED)}, but "
            f"dataset.json has {', '.join(map(str, known))}: {file}. Convert the labels to those "
            "values."
        )


def _on_network_grid(labels: np.ndarray, prediction: CasePrediction, model: Model) -> np.ndarray:
    """Transposed, cropped and resampled as nnU-Net's preprocessor does it."""
    forward = list(model.plans.transpose_forward)
    cropped = labels.transpose(forward)[prediction.grid.place]
    shape = prediction.accumulated.fused_logits.shape[1:]
    if cropped.shape == shape:
        return cropped
    native = [float(prediction.properties["spacing"][axis]) for axis in forward]
    target = [float(size) for size in model.configuration.spacing]
    spacing = [*native[: 3 - len(target)], *target]  # a 2D network leaves slices as they are
    resampled = model.configuration.resampling_fn_seg(
        cropped[None].astype(np.int16), shape, native, spacing
    )
    return np.asarray(resampled[0]).astype(np.int32)
