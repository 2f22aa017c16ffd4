"""From a preprocessed case to its prediction: members on the network's grid, then everything on the image's grid."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Integer

from nnunetv2_le.inference.cases import PreparedCase
from nnunetv2_le.inference.members import TilePredictor
from nnunetv2_le.inference.model import Model
from nnunetv2_le.inference.native_grid import NativeGrid, native_grid
from nnunetv2_le.inference.settings import PredictionSettings
from nnunetv2_le.inference.sliding_window import Window
from nnunetv2_le.types import Accumulated, CaseScores, Labels, MemberPlan
from nnunetv2_le.uncertainty.accumulator import Accumulator
from nnunetv2_le.uncertainty.scores import score_case

Volume = Float[np.ndarray, "depth height width"]


@dataclass(frozen=True)
class CasePrediction:
    """All that is known of a case once its members were predicted; arrays on the image's grid are made when asked for.

    Attributes:
        case: name of the case.
        scores: its scores, tables' rows.
        plan: the members.
        labels: what channels mean.
        accumulated: the result on the network's grid.
        grid: the way to the image's grid.
        properties: what nnU-Net's reader and preprocessor noted, for writing with the right geometry.
    """

    case: str
    scores: CaseScores
    plan: MemberPlan
    labels: Labels
    accumulated: Accumulated
    grid: NativeGrid
    properties: dict[str, Any]

    def segmentation(self) -> Integer[np.ndarray, "z y x"]:
        """The fused label map on the image's grid, as nnU-Net's label manager would paint it."""
        dtype = np.uint8 if max(self._painted()) < 255 else np.uint16
        array, view = self.grid.empty(dtype)
        if self.accumulated.fused_masks.shape[1:] == self.grid.cropped_shape:
            for value, mask in zip(self._painted(), self.accumulated.fused_masks, strict=True):
                view[mask] = value
            return array
        for rows, logits in self.grid.pieces(self.accumulated.fused_logits):
            view[rows] = self._paint(logits.numpy(), dtype)
        return array

    def probabilities(
        self, logits: Float[np.ndarray, "channels depth height width"] | None = None
    ) -> Float[np.ndarray, "channels z y x"]:
        """Probabilities on the image's grid, of the fused prediction or of given logits; outside the crop background."""
        logits = self.accumulated.fused_logits if logits is None else logits
        arrays, views = zip(
            *(self.grid.empty(np.float32, self._outside(channel)) for channel in range(len(logits))),
            strict=True,
        )
        for rows, piece in self.grid.pieces(logits):
            values = torch.sigmoid(piece) if self.labels.has_regions else torch.softmax(piece, dim=0)
            for view, channel in zip(views, values.numpy(), strict=True):
                view[rows] = channel
        return np.stack(arrays)

    def voxel_map(self, name: str) -> Float[np.ndarray, "z y x"]:
        """A voxel map on the image's grid; outside the crop every member is certain."""
        array, view = self.grid.empty(np.float32, 1.0 if name.endswith("_agreement") else 0.0)
        for rows, values in self.grid.pieces(self.accumulated.maps[name][None]):
            view[rows] = values[0].numpy()
        return array

    def _outside(self, channel: int) -> float:
        return 1.0 if channel == 0 and not self.labels.has_regions else 0.0

    def _painted(self) -> tuple[int, ...]:
        """The value that each label or region is painted with, in the order of painting."""
        if self.labels.has_regions:
            return self.labels.region_values
        return tuple(value for value in self.labels.values if isinstance(value, int))

    def _paint(self, logits: np.ndarray, dtype: Any) -> np.ndarray:
        painted = np.zeros(logits.shape[1:], dtype=dtype)
        if self.labels.has_regions:
            for value, region in zip(self._painted(), logits, strict=True):
                painted[region > 0] = value
            return painted
        best = logits[0].copy()
        for value, channel in zip(self._painted(), logits[1:], strict=True):
            better = channel > best
            painted[better] = value
            np.maximum(best, channel, out=best)
        return painted


def predict_case(
    prepared: PreparedCase,
    model: Model,
    *,
    plan: MemberPlan,
    settings: PredictionSettings,
    window: Window,
    progress: Callable[[], None] = lambda: None,
) -> CasePrediction:
    """Predict all members of a case and reduce them to what is kept.

    Raises:
        CaseError: the network's output is not finite.
    """
    accumulator = Accumulator(
        plan,
        model.labels,
        tuple(prepared.image.shape[1:]),
        fusion=settings.fusion,
        keep_members=settings.save_heads,
    )
    predictors = list(_predictors(model, plan, settings=settings, window=window))
    with torch.inference_mode(), torch.autocast(window.device.type, enabled=window.device.type == "cuda"):
        for slab in window.slabs(prepared.image, predictors, progress=progress):
            accumulator.add(slab.start, slab.logits)
    accumulated = accumulator.result()
    grid = native_grid(prepared.properties, model.plans, model.configuration)
    scores = score_case(
        prepared.name,
        accumulated,
        plan=plan,
        labels=model.labels,
        voxel_volume_ml=_voxel_volume_ml(prepared, grid),
        skip_heads=settings.skip_heads,
    )
    return CasePrediction(
        prepared.name, scores, plan, model.labels, accumulated, grid, prepared.properties
    )


def _predictors(
    model: Model, plan: MemberPlan, *, settings: PredictionSettings, window: Window
) -> Iterable[Callable[[torch.Tensor], torch.Tensor]]:
    """One function a fold; each loads its fold's parameters when the fold before it was another."""
    source = model.source.to(window.device)
    predictor = TilePredictor(
        source,
        plan,
        mirror_axes=model.mirror_axes if settings.use_mirroring else None,
        has_regions=model.labels.has_regions,
    )
    if len(model.parameters) == 1:
        return [predictor]
    loaded = [-1]

    def of_fold(number: int) -> Callable[[torch.Tensor], torch.Tensor]:
        def predict(tile: torch.Tensor) -> torch.Tensor:
            if loaded[0] != number:
                source.network.load_state_dict(model.parameters[number])
                loaded[0] = number
            return predictor(tile)

        return predict

    return [of_fold(number) for number in range(len(model.parameters))]


def _voxel_volume_ml(prepared: PreparedCase, grid: NativeGrid) -> float:
    """Volume of a voxel of the network's grid, from the image's own spacing and how far it was resampled."""
    native = float(np.prod([float(size) for size in prepared.properties["spacing"]])) / 1000
    return native * float(np.prod(grid.cropped_shape)) / float(np.prod(prepared.image.shape[1:]))
