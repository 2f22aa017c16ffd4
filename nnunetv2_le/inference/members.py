"""The members of a prediction: what the passes over one tile give, and which of them are kept.

A head is its logits averaged over all mirror passes and folds; a mirror pass is the fused heads of
that pass, averaged over folds. Families therefore add up (heads + mirrors volumes), they do not
multiply.
"""

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from nnunetv2_le.errors import SettingError
from nnunetv2_le.network.head_sources import HeadsAndFeatures, HeadSource
from nnunetv2_le.network.logits import mean_probability_logits, upsample
from nnunetv2_le.types import FAMILIES, Family, MemberPlan

logger = logging.getLogger(__name__)

Network = Callable[[Tensor], HeadsAndFeatures]
NoteFeatures = Callable[[Tensor], None]

_WHY_MISSING = {
    "heads": "the network has one head",
    "mirrors": "mirroring is switched off, or the model was trained without it",
}


def mirror_passes(axes: Sequence[int] | None) -> list[tuple[int, ...]]:
    """The mirrored axes of each pass, in nnU-Net's order: none, each axis, each pair, all."""
    axes = axes or ()
    return [
        combination
        for number in range(len(axes) + 1)
        for combination in itertools.combinations(axes, number)
    ]


def plan_members(
    source: HeadSource, *, families: Sequence[str], mirror_axes: Sequence[int] | None
) -> MemberPlan:
    """Decide which members a run keeps.

    Args:
        source: the heads of the network.
        families: names of the families that were asked for, in order.
        mirror_axes: axes that the run mirrors, None for a run without mirroring.

    Raises:
        SettingError: a family is unknown, or none of the families exists for this network and run.
    """
    available = {}
    if len(source.head_names) > 1:
        available["heads"] = Family("heads", source.head_names, ordered=True)
    if mirror_axes:
        names = ("+".join(map(str, axes)) or "none" for axes in mirror_passes(mirror_axes))
        available["mirrors"] = Family("mirrors", tuple(f"mirror_{name}" for name in names))
    if unknown := [name for name in families if name not in FAMILIES]:
        raise SettingError(
            f"-members takes {' '.join(FAMILIES)}; got {' '.join(unknown)}. Leave out what is not "
            "listed."
        )
    chosen = [available[name] for name in dict.fromkeys(families) if name in available]
    for name in families:
        if name not in available:
            logger.info("No %s in this run: %s.", name, _WHY_MISSING[name])
    if not chosen:
        reasons = "; ".join(f"no {name}: {_WHY_MISSING[name]}" for name in families)
        raise SettingError(
            f"Uncertainty needs at least two members, but this run has none ({reasons}). Use a "
            "checkpoint with several heads (nnUNetv2_le_train), or leave mirroring on (no "
            "--disable_tta)."
        )
    return _with_fused(source, chosen)


def _with_fused(source: HeadSource, families: list[Family]) -> MemberPlan:
    """The plan, the last heads fused; extra members where heads are no family of the run."""
    names = [member for family in families for member in family.members]
    to_fuse = source.head_names[-source.num_fused_heads :]
    if any(family.name == "heads" for family in families):
        return MemberPlan(tuple(families), fused=tuple(names.index(name) for name in to_fuse))
    numbers = range(len(names), len(names) + len(to_fuse))
    return MemberPlan(tuple(families), fused=tuple(numbers), extra=to_fuse)


class TilePredictor:
    """All members of one tile, from one forward pass a fold and mirroring.

    Heads are averaged over folds and mirror passes at their own layer's resolution and upsampled
    once: linear upsampling commutes with sums and flips, so the result is the same and eight times
    cheaper. Members are made one after another, so that one of them at a time exists in full size.

    Args:
        sources: the heads of each fold, on the device of the tiles.
        plan: which members are wanted.
        mirror_axes: spatial axes to mirror, None or empty for one pass.
        has_regions: whether channels are overlapping regions.
        separate_folds: give the members of each fold, one fold after another, instead of their
            mean over folds.
        batch_passes: predict all mirror passes of a fold in one batch: faster on a GPU.
        compiled: run the networks through ``torch.compile``.
    """

    def __init__(
        self,
        sources: Sequence[HeadSource],
        plan: MemberPlan,
        *,
        mirror_axes: Sequence[int] | None,
        has_regions: bool,
        separate_folds: bool = False,
        batch_passes: bool = False,
        compiled: bool = False,
    ) -> None:
        first = sources[0]
        folds: list[Network] = [torch.compile(source) if compiled else source for source in sources]
        self.groups = [[fold] for fold in folds] if separate_folds else [folds]
        self.passes = mirror_passes(mirror_axes)
        self.has_regions = has_regions
        self.batch_passes = batch_passes
        self.families = [family.name for family in plan.families]
        self.extra = [first.head_names.index(name) for name in plan.extra]
        self.num_heads = len(first.head_names)
        self.num_fused_heads = first.num_fused_heads

    def __call__(
        self, tile: Float[Tensor, "1 channels *space"], *, note_features: NoteFeatures | None = None
    ) -> Iterator[Float[Tensor, "classes *space"]]:
        """Logits of all members, in the order of the plan; the caller may overwrite them.

        Args:
            tile: a part of the image.
            note_features: gets the pooled features of the tile, (features,), as the first fold's
                network sees it unmirrored; not called where the network has none.
        """
        for number, folds in enumerate(self.groups):
            yield from self._members(tile, folds, None if number else note_features)

    def _members(
        self, tile: Tensor, folds: Sequence[Network], note_features: NoteFeatures | None
    ) -> Iterator[Tensor]:
        """Logits of all members, averaged over folds."""
        size = tile.shape[2:]
        heads, mirrors = self._sums(tile, folds, note_features)
        passes = len(self.passes) * len(folds)
        members = {
            "heads": lambda: (_resized(heads[n], passes, size) for n in range(self.num_heads)),
            "mirrors": lambda: (_resized(logits, len(folds), size) for logits in mirrors),
        }
        for name in self.families:
            yield from members[name]()
        yield from (_resized(heads[number], passes, size) for number in self.extra)

    def _sums(
        self, tile: Tensor, folds: Sequence[Network], note_features: NoteFeatures | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Sums of each head over passes and folds, and of each pass's fused heads over folds."""
        heads: list[Tensor] = []
        mirrors: list[Tensor] = []
        keep_mirrors = "mirrors" in self.families
        for fold in folds:
            for number, (logits, features) in enumerate(self._passes(fold, tile)):
                if note_features is not None and features is not None:
                    note_features(features[0])
                    note_features = None
                # sums are new tensors: a mirror pass may be the very tensor of the last head
                heads = [a + b for a, b in zip(heads, logits, strict=True)] if heads else logits
                if not keep_mirrors:
                    continue
                fused = self._fuse(logits, tile.shape[2:])
                if number < len(mirrors):
                    mirrors[number] = mirrors[number] + fused
                else:
                    mirrors.append(fused)
        return heads, mirrors

    def _passes(self, fold: Network, tile: Tensor) -> Iterator[HeadsAndFeatures]:
        """Heads of every mirror pass, turned back, and its features."""
        flips = [[axis + 2 for axis in axes] for axes in self.passes]
        if self.batch_passes and len(flips) > 1:
            batch = fold(torch.cat([tile.flip(dims) if dims else tile for dims in flips]))
            for number, dims in enumerate(flips):
                rows = [logits[number : number + 1] for logits in batch.heads]
                features = None if batch.features is None else batch.features[number : number + 1]
                yield HeadsAndFeatures(_turned(rows, dims), features)
            return
        for dims in flips:
            heads, features = fold(tile.flip(dims) if dims else tile)
            yield HeadsAndFeatures(_turned(heads, dims), features)

    def _fuse(self, heads: list[Tensor], size: Sequence[int]) -> Tensor:
        full = [upsample(logits, size) for logits in heads[-self.num_fused_heads :]]
        return mean_probability_logits(full, has_regions=self.has_regions)


def _turned(heads: list[Tensor], dims: list[int]) -> list[Tensor]:
    return [logits.flip(dims) for logits in heads] if dims else heads


def _resized(logits: Tensor, count: int, size: Sequence[int]) -> Tensor:
    """A sum of so many logits as their mean, at the size of the tile."""
    mean = logits / count if count > 1 else logits
    return upsample(mean, size)[0]
