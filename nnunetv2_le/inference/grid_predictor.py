"""Predicting a case on the grid of one model: tiles, bands, and what to do without memory."""

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from nnunetv2_le.errors import CaseError
from nnunetv2_le.inference.cases import PreparedCase
from nnunetv2_le.inference.ensemble import TrainedNetwork
from nnunetv2_le.inference.members import TilePredictor
from nnunetv2_le.inference.model import Model
from nnunetv2_le.inference.networks import is_compiling
from nnunetv2_le.inference.settings import PredictionSettings
from nnunetv2_le.inference.sliding_window import Slab, Window
from nnunetv2_le.types import Accumulated, MemberPlan
from nnunetv2_le.uncertainty.accumulator import Accumulator

logger = logging.getLogger(__name__)

# Logits of all members that are blended at one time. Above it an image is predicted in bands.
_BLENDING_BYTES = 2 * 2**30

# A network changes while it works (dropout, whose weights lie in its place), and so does what torch
# draws from: of the threads of a process one at a time predicts on a device.
_AT_WORK: dict[torch.device, Lock] = defaultdict(Lock)


@dataclass(frozen=True)
class OnGrid:
    """What is left of a case's members on the network's grid.

    Attributes:
        accumulated: fused prediction, maps and counts.
        features: pooled features of the first network's encoder, mean over tiles; None where it has
            none.
    """

    accumulated: Accumulated
    features: Float[np.ndarray, "features"] | None


class GridPredictor:
    """All members of a case on the network's grid.

    Args:
        model: the model whose grid it is.
        networks: the networks that see an image as this model does.
        plan: which members are kept, those included that come from elsewhere.
        settings: how tiles are cut and members fused.
        device: where the networks work.
        show_progress: show a progress bar of tiles.
    """

    def __init__(
        self,
        model: Model,
        networks: Sequence[TrainedNetwork],
        plan: MemberPlan,
        *,
        settings: PredictionSettings,
        device: torch.device,
        show_progress: bool = True,
    ) -> None:
        self.model, self.plan, self.settings = model, plan, settings
        self.device, self.show_progress = device, show_progress
        self.predict_tile = TilePredictor(
            networks,
            plan,
            device=device,
            mirror_axes=model.mirror_axes if settings.use_mirroring else None,
            has_regions=model.labels.has_regions,
            # nnU-Net blends each fold by itself; elsewhere one blending of their mean is enough
            separate_networks=settings.fusion == "nnunet",
            compiled=is_compiling(),
        )

    def predict(
        self, prepared: PreparedCase, elsewhere: Mapping[str, Tensor] | None = None
    ) -> OnGrid:
        """Predict a preprocessed case and reduce its members to what is kept.

        Where a GPU fails, as it does when its memory is too small, mirror passes are predicted one
        by one and tiles are blended on the CPU, as nnU-Net does after any error of the GPU.

        Args:
            prepared: the case.
            elsewhere: logits on this grid of the members that come from elsewhere, by name.

        Raises:
            CaseError: the network's output is not finite.
        """
        on_device = self.settings.perform_everything_on_device and self.device.type == "cuda"
        try:
            return self._predict(prepared, elsewhere or {}, on_device=on_device)
        except CaseError:
            raise
        except RuntimeError as error:  # cuDNN does not always say that memory is what it lacks
            if self.device.type != "cuda":
                raise
            logger.warning(
                "The device failed, most likely for lack of memory (%s): predicting %s with tiles "
                "blended on the CPU.",
                str(error).partition("\n")[0],
                prepared.name,
            )
        self.predict_tile.batch_passes = False
        torch.cuda.empty_cache()
        return self._predict(prepared, elsewhere or {}, on_device=False)

    def _predict(
        self, prepared: PreparedCase, elsewhere: Mapping[str, Tensor], *, on_device: bool
    ) -> OnGrid:
        depth, height, width = prepared.image.shape[1:]
        accumulator = Accumulator(
            self.plan,
            self.model.labels,
            (depth, height, width),
            fusion=self.settings.fusion,
            keep_members=self.plan.head_numbers if self.settings.save_heads else (),
            maps=self.settings.maps,
        )
        features = _MeanFeatures()
        with _AT_WORK[self.device], torch.inference_mode(), _autocast(self.device):
            for slab in self._slabs(prepared, features, on_device=on_device):
                logits = self._with_members_from_elsewhere(slab, elsewhere)
                accumulator.add(slab.start, logits, column=slab.column)
        return OnGrid(accumulator.result(), features.mean())

    def _slabs(
        self, prepared: PreparedCase, features: "_MeanFeatures", *, on_device: bool
    ) -> Iterator[Slab]:
        """Final rows of all members that these networks give."""
        window = self._window(on_device=on_device)
        shape = prepared.image.shape[1:]
        sizes = {
            "num_members": self.predict_tile.num_blended,
            "num_channels": self.model.labels.num_channels,
        }
        num_bands = window.num_bands(shape, **sizes, max_bytes=_BLENDING_BYTES)
        if num_bands > 1:
            logger.info("%s is predicted in %d bands to save memory.", prepared.name, num_bands)
        tiles = window.num_tiles(shape, num_bands)
        hidden = not self.show_progress
        with tqdm(total=tiles, desc=prepared.name, disable=hidden, leave=False) as bar:
            yield from window.slabs(
                prepared.image,
                partial(self.predict_tile, note_features=features.add),
                **sizes,
                combine=self.predict_tile.combine,
                num_bands=num_bands,
                progress=bar.update,
            )

    def _with_members_from_elsewhere(
        self, slab: Slab, elsewhere: Mapping[str, Tensor]
    ) -> Float[Tensor, "members channels rows height width"]:
        """All members of the plan in its order."""
        if not elsewhere:
            return slab.logits
        rows, height = slab.logits.shape[2:4]
        place = (
            slice(None),
            slice(slab.start, slab.start + rows),
            slice(slab.column, slab.column + height),
        )
        ours = iter(slab.logits)
        names = [member for family in self.plan.families for member in family.members]
        return torch.stack(
            [
                elsewhere[name][place].to(slab.logits) if name in elsewhere else next(ours)
                for name in names
            ]
        )

    def _window(self, *, on_device: bool) -> Window:
        return Window(
            patch_size=tuple(int(size) for size in self.model.configuration.patch_size),
            step_size=self.settings.step_size,
            use_gaussian=self.settings.use_gaussian,
            device=self.device,
            results_device=self.device if on_device else torch.device("cpu"),
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
