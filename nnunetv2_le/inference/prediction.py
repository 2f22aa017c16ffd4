"""From a preprocessed case to its prediction: first on the network's grid, then on the image's."""

import logging
import math
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from nnunetv2_le.errors import SettingError
from nnunetv2_le.inference.cases import PreparedCase
from nnunetv2_le.inference.grid_predictor import OnGrid
from nnunetv2_le.inference.model import Model
from nnunetv2_le.inference.native_grid import NativeGrid, NativeVolume, native_grid
from nnunetv2_le.inference.voxel_volume import voxel_volume_ml
from nnunetv2_le.types import Accumulated, CaseScores, Labels, LogitScaling, MemberPlan
from nnunetv2_le.uncertainty.components import MAX_COMPONENTS
from nnunetv2_le.uncertainty.scores import score_case

logger = logging.getLogger(__name__)

Volume = Float[np.ndarray, "depth height width"]


@dataclass(frozen=True)
class CasePrediction:
    """All that is known of a case once its members were predicted.

    Arrays on the image's grid are made when asked for.

    Attributes:
        case: name of the case.
        scores: its scores, tables' rows.
        plan: the members.
        labels: what channels mean.
        accumulated: the result on the network's grid.
        grid: the way to the image's grid.
        properties: what nnU-Net's reader and preprocessor noted, for writing with the right
            geometry.
        features: pooled features of the encoder, mean over tiles; None where the network has none.
    """

    case: str
    scores: CaseScores
    plan: MemberPlan
    labels: Labels
    accumulated: Accumulated
    grid: NativeGrid
    properties: dict[str, Any]
    features: Float[np.ndarray, "features"] | None = None

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        kept = self.accumulated
        arrays = [kept.fused_logits, kept.decisions, *kept.maps.values()]
        if kept.member_logits is not None:
            arrays += kept.member_logits.values()
        return sum(array.nbytes for array in arrays)

    def segmentation(self) -> Integer[np.ndarray, "z y x"]:
        """The fused label map on the image's grid, as nnU-Net's label manager would paint it."""
        dtype = np.uint8 if max(self._painted()) < 255 else np.uint16
        array, view = self.grid.empty(dtype)
        decisions = self.accumulated.decisions
        if not self.is_resampled:
            view[...] = self._paint(decisions, dtype)
            return array
        for rows, logits in self.grid.pieces(self.accumulated.fused_logits):
            decided = logits > 0 if self.labels.has_regions else logits.max(dim=0).indices
            view[rows] = self._paint(decided.numpy(), dtype)
        return array

    @property
    def is_resampled(self) -> bool:
        """Whether the network's grid is another than that of the (cropped) image."""
        return self.accumulated.decisions.shape[-3:] != self.grid.cropped_shape

    def volumes_ml(
        self, segmentation: Integer[np.ndarray, "z y x"]
    ) -> tuple[float, dict[str, float]]:
        """Volume of a segmentation on the image's grid: of its foreground, and of each label.

        Args:
            segmentation: what ``segmentation`` gives.
        """
        voxel_ml = voxel_volume_ml(self.properties["spacing"])
        values, counts = np.unique(segmentation, return_counts=True)
        voxels = dict(zip(values.tolist(), counts.tolist(), strict=True))
        foreground = sum(count for value, count in voxels.items() if value)
        return foreground * voxel_ml, {
            name: sum(voxels.get(part, 0) for part in np.atleast_1d(value).tolist()) * voxel_ml
            for name, value in zip(self.labels.names, self.labels.values, strict=True)
        }

    def probabilities(
        self,
        logits: Float[np.ndarray, "channels depth height width"] | None = None,
        *,
        scaling: LogitScaling | None = None,
    ) -> Float[np.ndarray, "channels z y x"]:
        """Probabilities on the image's grid; outside the crop all is background.

        Args:
            logits: logits on the network's grid; None takes the fused prediction's.
            scaling: calibrates the logits first.
        """
        logits = self.accumulated.fused_logits if logits is None else logits
        array, view = self.grid.empty(np.float32, channels=(len(logits),))
        if not self.labels.has_regions:
            array[0] = 1  # the background, outside the crop
        for rows, values in self.probability_pieces(logits, scaling=scaling):
            view[:, rows] = values.numpy()
        return array

    def probability_pieces(
        self,
        logits: Float[np.ndarray, "channels depth height width"] | None = None,
        *,
        scaling: LogitScaling | None = None,
    ) -> Iterator[tuple[slice, Float[Tensor, "channels rows height2 width2"]]]:
        """Probabilities some rows of the cropped image's grid at a time; see ``probabilities``."""
        for rows, piece in self.grid.pieces(
            self.accumulated.fused_logits if logits is None else logits
        ):
            values = piece if scaling is None else _scaled(piece, scaling)
            yield (
                rows,
                torch.sigmoid(values) if self.labels.has_regions else torch.softmax(values, dim=0),
            )

    def voxel_map(self, name: str) -> Float[np.ndarray, "z y x"]:
        """A voxel map on the image's grid; outside the crop every member is certain."""
        return self.voxel_map_pieces(name).array()

    def voxel_map_pieces(self, name: str) -> NativeVolume:
        """A voxel map on the image's grid, in pieces.

        Raises:
            SettingError: there is no such map.
        """
        if name not in self.accumulated.maps:
            raise SettingError(
                f"Expected one of the voxel maps {' '.join(sorted(self.accumulated.maps))}; got "
                f"{name!r}. Maps on demand are made where PredictionSettings(maps=...) names them."
            )
        outside = 1.0 if name.endswith("_agreement") else 0.0
        return self.grid.native_volume(self.accumulated.maps[name], outside=outside)

    def without_maps_but(self, names: Collection[str]) -> "CasePrediction":
        """The same with fewer voxel maps; its scores were made of all."""
        maps = {name: values for name, values in self.accumulated.maps.items() if name in names}
        return replace(self, accumulated=replace(self.accumulated, maps=maps))

    def _painted(self) -> tuple[int, ...]:
        """The value that each label or region is painted with, in the order of painting."""
        if self.labels.has_regions:
            return self.labels.region_values
        return tuple(value for value in self.labels.values if isinstance(value, int))

    def _paint(self, decisions: np.ndarray, dtype: Any) -> np.ndarray:
        """Numbers of classes, or masks of regions, as the values that nnU-Net writes."""
        if not self.labels.has_regions:
            return np.asarray(np.array((0, *self._painted()), dtype=dtype)[decisions])
        painted = np.zeros(decisions.shape[1:], dtype=dtype)
        for value, region in zip(self._painted(), decisions, strict=True):
            painted[region] = value
        return painted


def score_prediction(
    prepared: PreparedCase,
    found: OnGrid,
    *,
    model: Model,
    plan: MemberPlan,
    skip_heads: int = 0,
) -> CasePrediction:
    """The prediction of a case from what its members left on the network's grid.

    Args:
        prepared: the preprocessed case.
        found: what is left of its members.
        model: the model whose grid it is.
        plan: the members.
        skip_heads: how many of the first heads layer agreement leaves out.
    """
    grid = native_grid(prepared.properties, model.plans, model.configuration)
    scores = score_case(
        prepared.name,
        found.accumulated,
        plan=plan,
        labels=model.labels,
        voxel_volume_ml=_voxel_volume_ml(prepared, grid),
        skip_heads=skip_heads,
    )
    counts = Counter(component.label for component in scores.components)
    if full := [label for label, count in counts.items() if count == MAX_COMPONENTS]:
        logger.warning(
            "%s: the table of components has the %d largest of %s; a label in so many pieces is "
            "most often noise.",
            prepared.name,
            MAX_COMPONENTS,
            full[0] if len(full) == 1 else f"{len(full)} labels",
        )
    return CasePrediction(
        prepared.name,
        scores,
        plan,
        model.labels,
        found.accumulated,
        grid,
        prepared.properties,
        found.features,
    )


def _scaled(logits: Tensor, scaling: LogitScaling) -> Tensor:
    weights, biases = (
        torch.from_numpy(values).to(logits.dtype)[:, None, None, None]
        for values in (scaling.weights, scaling.biases)
    )
    return logits * weights + biases


def _voxel_volume_ml(prepared: PreparedCase, grid: NativeGrid) -> float:
    """Volume of a voxel of the network's grid: the image's spacing times its resampling."""
    ratio = math.prod(grid.cropped_shape) / math.prod(prepared.image.shape[1:])
    return voxel_volume_ml(prepared.properties["spacing"]) * ratio
