"""The members of a prediction: what the passes of all networks over one tile give.

A head is its logits averaged over all mirror passes and networks; a mirror pass is the fused heads
of that pass, averaged over networks; a fold (checkpoint, model) is the fused heads of its networks,
averaged over these; a dropout sample is the fused heads of one pass with active dropout, averaged
over networks. Families therefore add up (heads + mirrors + folds volumes), they do not multiply.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from nnunetv2_le.inference.ensemble import TrainedNetwork
from nnunetv2_le.inference.mirroring import mirror_passes, mirrored_passes
from nnunetv2_le.inference.networks import Networks
from nnunetv2_le.network.logits import mean_probability_logits, upsample
from nnunetv2_le.types import HEAD_FAMILIES, MemberPlan

NoteFeatures = Callable[[Tensor], None]

_EXTRA = "extra heads"
_OF_HEADS = frozenset({*HEAD_FAMILIES, _EXTRA})


class TilePredictor:
    """All members of one tile, from one forward pass a network and mirroring.

    Heads are averaged over networks and mirror passes at their own layer's resolution and upsampled
    once: linear upsampling commutes with sums and flips, so the result is the same and eight times
    cheaper. Members are made one after another, so that one of them at a time exists in full size.

    What is blended are the members, or with ``separate_networks`` those of each network, one
    network after another; ``combine`` makes the members of these.

    Args:
        networks: the networks of the run that see the image alike.
        plan: which members are wanted; members of ``models`` that are none of these networks are
            left out.
        device: where the networks work.
        mirror_axes: spatial axes to mirror, None or empty for one pass.
        has_regions: whether channels are overlapping regions.
        separate_networks: blend the members of each network by themselves, as nnU-Net does.
        compiled: run the networks through ``torch.compile``.

    Attributes:
        batch_passes: predict all mirror passes of a network in one batch: faster on a GPU.
        num_blended: how many predictions of a tile are blended.
    """

    def __init__(
        self,
        networks: Sequence[TrainedNetwork],
        plan: MemberPlan,
        *,
        device: torch.device,
        mirror_axes: Sequence[int] | None,
        has_regions: bool,
        separate_networks: bool = False,
        compiled: bool = False,
    ) -> None:
        sources = [network.source for network in networks]
        self.networks = Networks(sources, device, compiled=compiled)
        self.passes = mirror_passes(mirror_axes)
        self.has_regions = has_regions
        self.batch_passes = device.type == "cuda"
        self.num_fused_heads = [source.num_fused_heads for source in sources]
        self.parts = _parts(plan, networks)
        self.names = {part.name for part in self.parts}
        self.separate = separate_networks and len(networks) > 1
        self.shared = [part for part in self.parts if not part.groups]
        self.has_groups = len(self.shared) < len(self.parts)
        self.num_blended = sum(part.num_members for part in self.parts)
        if self.separate:
            each = sum(part.num_members for part in self.shared) + self.has_groups
            self.num_blended = each * len(networks)

    def __call__(
        self, tile: Float[Tensor, "1 channels *space"], *, note_features: NoteFeatures | None = None
    ) -> Iterator[Float[Tensor, "classes *space"]]:
        """Logits that are blended, in order; the caller may overwrite them.

        Args:
            tile: a part of the image.
            note_features: gets the pooled features of the tile, (features,), as the first network
                sees it unmirrored; not called where the network has none, or in a run of dropout
                samples alone.
        """
        if not self.separate:
            sums = self._sums(tile, range(len(self.networks)), note_features)
            for part in self.parts:
                yield from part.members(sums)
            return
        for number in range(len(self.networks)):
            sums = self._sums(tile, [number], None if number else note_features)
            for part in self.shared:
                yield from part.members(sums)
            if self.has_groups:
                yield sums.last_network[0]

    def combine(
        self, blended: Float[Tensor, "blended channels *space"]
    ) -> Float[Tensor, "members channels *space"]:
        """The members of what was blended; networks are averaged as nnU-Net averages them."""
        if not self.separate:
            return blended
        networks = blended.chunk(len(self.networks))
        members, first = [], 0
        for part in self.parts:
            if part.groups:
                members += [_mean([networks[n][-1:] for n in group]) for group in part.groups]
                continue
            which = slice(first, first + part.num_members)
            members.append(_mean([logits[which] for logits in networks]))
            first += part.num_members
        return torch.cat(members) if len(members) > 1 else members[0]

    def _sums(
        self, tile: Tensor, numbers: Sequence[int], note_features: NoteFeatures | None
    ) -> "_Sums":
        """One run of these networks over the tile."""
        sums = _Sums(tile.shape[2:], len(numbers), len(self.passes))
        samples = sum(part.num_members for part in self.parts if part.name == "dropout")
        for number in numbers:
            if self.names != {"dropout"}:
                self._add_passes(sums, tile, number, note_features if number == 0 else None)
            for sample in range(samples):
                # one draw for all tiles and cases: a sample is one thinned network
                seed = sample * len(self.networks) + number
                with self.networks.dropping(number, seed=seed) as network:
                    logits = network(tile).heads
                    _add_at(sums.dropout, sample, self._fuse(logits, number, sums.size))
        return sums

    def _add_passes(
        self, sums: "_Sums", tile: Tensor, number: int, note_features: NoteFeatures | None
    ) -> None:
        """Add the mirror passes of one network to the sums."""
        own: list[Tensor] = []
        keeps_heads = bool(self.names & _OF_HEADS)
        network = self.networks.use(number)
        passes = mirrored_passes(network, tile, passes=self.passes, in_one_batch=self.batch_passes)
        for place, (logits, features) in enumerate(passes):
            if place == 0 and note_features is not None and features is not None:
                note_features(features[0])
            # sums are new tensors: a mirror pass may be the very tensor of the last head
            if keeps_heads:
                sums.heads = _added(sums.heads, logits)
            if self.has_groups:
                own = _added(own, logits[-self.num_fused_heads[number] :])
            if "mirrors" in self.names:
                _add_at(sums.mirrors, place, self._fuse(logits, number, sums.size))
        if self.has_groups:
            self._add_network(sums, number, [logits / len(self.passes) for logits in own])

    def _add_network(self, sums: "_Sums", number: int, heads: Sequence[Tensor]) -> None:
        """Add what one network says to the members that it belongs to."""
        sums.last_network = self._fuse(heads, number, sums.size)
        if self.separate:
            return
        for part in self.parts:
            for member, group in enumerate(part.groups):
                if number in group:
                    of_part = sums.groups.setdefault(part.name, {})
                    before = of_part.get(member)
                    now = sums.last_network
                    of_part[member] = now if before is None else before + now

    def _fuse(self, heads: Sequence[Tensor], number: int, size: Sequence[int]) -> Tensor:
        full = [upsample(logits, size) for logits in heads[-self.num_fused_heads[number] :]]
        return mean_probability_logits(full, has_regions=self.has_regions)


@dataclass
class _Sums:
    """What a tile's passes add up to.

    Attributes:
        size: of the tile.
        num_networks: networks that were added.
        num_passes: mirror passes of each.
        heads: each head, over networks and passes, at its own resolution.
        mirrors: each pass, over networks.
        dropout: each sample, over networks.
        groups: part and member to the sum over the member's networks.
        last_network: what the last network says.
    """

    size: Sequence[int]
    num_networks: int
    num_passes: int
    heads: list[Tensor] = field(default_factory=list)
    mirrors: list[Tensor] = field(default_factory=list)
    dropout: list[Tensor] = field(default_factory=list)
    groups: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    last_network: Tensor = field(default_factory=lambda: torch.empty(0))


@dataclass(frozen=True)
class _Part:
    """Members that are made alike.

    Attributes:
        name: the family, or ``extra heads``.
        num_members: how many.
        heads: numbers of the heads, for families of heads.
        groups: numbers of each member's networks, for families of networks.
    """

    name: str
    num_members: int
    heads: tuple[int, ...] = ()
    groups: tuple[tuple[int, ...], ...] = ()

    def members(self, sums: _Sums) -> Iterator[Tensor]:
        """Logits of each member, made when asked for; the caller may overwrite them."""
        if self.groups:
            for member, group in enumerate(self.groups):
                yield _resized(sums.groups[self.name][member], len(group), sums.size, shared=True)
        elif self.heads:
            count = sums.num_networks * sums.num_passes
            yield from (_resized(sums.heads[head], count, sums.size) for head in self.heads)
        else:
            passes = sums.mirrors if self.name == "mirrors" else sums.dropout
            yield from (_resized(logits, sums.num_networks, sums.size) for logits in passes)


def _parts(plan: MemberPlan, networks: Sequence[TrainedNetwork]) -> list[_Part]:
    """The plan's families, and what is there to be fused only."""
    heads = networks[0].source.head_names
    parts = [
        _part(family.name, family.members, networks, heads=family.name in _OF_HEADS)
        for family in plan.families
    ]
    if plan.extra:
        of_heads = set(plan.extra) <= set(heads)
        parts.append(_part(_EXTRA if of_heads else "models", plan.extra, networks, heads=of_heads))
    return parts


def _part(
    name: str, members: Sequence[str], networks: Sequence[TrainedNetwork], *, heads: bool
) -> _Part:
    if heads:
        numbers = tuple(networks[0].source.head_names.index(member) for member in members)
        return _Part(name, len(members), heads=numbers)
    if name not in networks[0].places:
        return _Part(name, len(members))
    groups = [
        tuple(n for n, network in enumerate(networks) if network.places[name] == member)
        for member in members
    ]
    there = tuple(group for group in groups if group)
    return _Part(name, len(there), groups=there)


def _added(sums: list[Tensor], values: Sequence[Tensor]) -> list[Tensor]:
    return [a + b for a, b in zip(sums, values, strict=True)] if sums else list(values)


def _add_at(sums: list[Tensor], place: int, values: Tensor) -> None:
    if place < len(sums):
        sums[place] = sums[place] + values
    else:
        sums.append(values)


def _resized(logits: Tensor, count: int, size: Sequence[int], *, shared: bool = False) -> Tensor:
    """A sum of so many logits as their mean, at the size of the tile.

    A tensor that several members share is copied.
    """
    mean = logits / count if count > 1 else logits
    resized = upsample(mean, size)[0]
    return resized.clone() if shared and count == 1 else resized


def _mean(networks: Sequence[Tensor]) -> Tensor:
    """In half precision, in nnU-Net's order."""
    if len(networks) == 1:
        return networks[0]
    first, *others = networks
    for other in others:
        first = first + other
    return first / len(networks)
