"""From a preprocessed case to its prediction: first on the network's grid, then on the image's."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

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
            arrays.append(kept.member_logits)
        return sum(array.nbytes for array in arrays)

    def segmentation(self) -> Integer[np.ndarray, "z y x"]:
        """The fused label map on the image's grid, as nnU-Net's label manager would paint it."""
        dtype = np.uint8 if max(self._painted()) < 255 else np.uint16
        array, view = self.grid.empty(dtype)
        decisions = self.accumulated.decisions
        if decisions.shape[-3:] == self.grid.cropped_shape:
            view[...] = self._paint(decisions, dtype)
            return array
        for rows, logits in self.grid.pieces(self.accumulated.fused_logits):
            decided = logits > 0 if self.labels.has_regions else logits.max(dim=0).indices
            view[rows] = self._paint(decided.numpy(), dtype)
        return array

    def probabilities(
        self, logits: Float[np.ndarray, "channels depth height width"] | None = None
    ) -> Float[np.ndarray, "channels z y x"]:
        """Probabilities on the image's grid; outside the crop all is background.

        Args:
            logits: logits on the network's grid; None takes the fused prediction's.
        """
        logits = self.accumulated.fused_logits if logits is None else logits
        arrays, views = zip(
            *(
                self.grid.empty(np.float32, self._outside(channel))
                for channel in range(len(logits))
            ),
            strict=True,
        )
        for rows, piece in self.grid.pieces(logits):
            values = (
                torch.sigmoid(piece) if self.labels.has_regions else torch.softmax(piece, dim=0)
            )
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

    def _paint(self, decisions: np.ndarray, dtype: Any) -> np.ndarray:
        """Numbers of classes, or masks of regions, as the values that nnU-Net writes."""
        if not self.labels.has_regions:
            return np.asarray(np.array((0, *self._painted()), dtype=dtype)[decisions])
        painted = np.zeros(decisions.shape[1:], dtype=dtype)
        for value, region in zip(self._painted(), decisions, strict=True):
            painted[region] = value
        return painted


def predict_case(
    prepared: PreparedCase,
    model: Model,
    *,
    plan: MemberPlan,
    settings: PredictionSettings,
    window: Window,
    predict_tile: TilePredictor,
    num_folds: int = 1,
    num_bands: int = 1,
    progress: Callable[[], None] = lambda: None,
) -> CasePrediction:
    """Predict all members of a case and reduce them to what is kept.

    Args:
        prepared: the preprocessed case.
        model: the model that was trained.
        plan: which members are kept.
        settings: fusion, heads skipped, and whether members are kept.
        window: how the image is cut into tiles.
        predict_tile: the members of one tile.
        num_folds: folds that ``predict_tile`` keeps separate.
        num_bands: in how many bands along the second axis the image is predicted.
        progress: called once a tile.

    Raises:
        CaseError: the network's output is not finite.
    """
    depth, height, width = prepared.image.shape[1:]
    accumulator = Accumulator(
        plan,
        model.labels,
        (depth, height, width),
        fusion=settings.fusion,
        keep_members=settings.save_heads,
        maps=settings.maps,
    )
    features = _MeanFeatures()
    with torch.inference_mode(), _autocast(window.device):
        for slab in window.slabs(
            prepared.image,
            partial(predict_tile, note_features=features.add),
            num_members=plan.num_members,
            num_channels=model.labels.num_channels,
            num_folds=num_folds,
            num_bands=num_bands,
            progress=progress,
        ):
            accumulator.add(slab.start, slab.logits, column=slab.column)
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
        prepared.name,
        scores,
        plan,
        model.labels,
        accumulated,
        grid,
        prepared.properties,
        features.mean(),
    )


class _MeanFeatures:
    """Mean over the tiles of a case; a tile that two bands predict counts twice."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._count = 0

    def add(self, features: Tensor) -> None:
        """Take in a tile; nothing is copied from its device."""
        self._sum = features if self._sum is None else self._sum + features
        self._count += 1

    def mean(self) -> Float[np.ndarray, "features"] | None:
        """float32; None without a tile."""
        if self._sum is None:
            return None
        return np.asarray((self._sum / self._count).float().cpu().numpy())


def _autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Mixed precision on a GPU alone, as nnU-Net: elsewhere it is slow or not there."""
    return torch.autocast("cuda") if device.type == "cuda" else nullcontext()


def _voxel_volume_ml(prepared: PreparedCase, grid: NativeGrid) -> float:
    """Volume of a voxel of the network's grid: the image's spacing times its resampling."""
    native = float(np.prod([float(size) for size in prepared.properties["spacing"]])) / 1000
    ratio = float(np.prod(grid.cropped_shape)) / float(np.prod(prepared.image.shape[1:]))
    return native * ratio
