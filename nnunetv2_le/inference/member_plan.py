"""Which members a run keeps, and which of them make the segmentation."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from nnunetv2_le.errors import SettingError
from nnunetv2_le.inference.ensemble import Ensemble
from nnunetv2_le.inference.mirroring import mirror_passes
from nnunetv2_le.types import FAMILIES, HEAD_FAMILIES, Family, Fusion, MemberPlan

logger = logging.getLogger(__name__)

NETWORK_FAMILIES = ("folds", "models", "checkpoints")
"""Families of trained networks, in the order in which ``lowest_uncertainty`` looks for one."""

DEFAULT_NUM_SAMPLES = 10
"""Dropout samples where nobody asks for a number."""


@dataclass(frozen=True)
class MemberRequest:
    """What a run wants of its members.

    Attributes:
        families: the families in order; None for the heads and mirrors that there are.
        mirror_axes: axes that the run mirrors, None for a run without mirroring.
        num_samples: dropout samples.
        fusion: how members are fused.
    """

    families: tuple[str, ...] | None
    mirror_axes: Sequence[int] | None
    num_samples: int = DEFAULT_NUM_SAMPLES
    fusion: Fusion = "mean"


def plan_members(ensemble: Ensemble, request: MemberRequest) -> MemberPlan:
    """Decide which members a run keeps.

    A family that would have one member is left out, and the log says so.

    Args:
        ensemble: the networks of the run.
        request: what is wanted.

    Raises:
        SettingError: a family is unknown, heads or dropout were named but the networks have none,
            or no family is left.
    """
    wanted = _wanted(ensemble, request)
    families, missing = [], {}
    for name in wanted:
        members = _MEMBERS[name](ensemble, request)
        if isinstance(members, str):
            missing[name] = members
        else:
            families.append(Family(name, members, ordered=name == "heads"))
    for name, reason in missing.items():
        if request.families is not None and name in (*HEAD_FAMILIES, "dropout"):
            raise SettingError(f"-members names {name}, but {reason}. Leave {name} out.")
        logger.info("No %s in this run: %s.", name, reason)
    if not families:
        reasons = "; ".join(f"no {name}: {reason}" for name, reason in missing.items())
        raise SettingError(
            f"Uncertainty needs at least two members, but this run has none ({reasons}). Use a "
            "checkpoint with several heads (nnUNetv2_le_train), leave mirroring on (no "
            "--disable_tta), or name several folds, checkpoints or models."
        )
    return _with_fused(ensemble, families, request.fusion)


def has_dropout(network: nn.Module) -> bool:
    """Whether any layer of the network drops anything when it is active."""
    return any(isinstance(layer, _DropoutNd) and layer.p > 0 for layer in network.modules())


def _wanted(ensemble: Ensemble, request: MemberRequest) -> tuple[str, ...]:
    if request.families is None:
        if ensemble.others:
            return ("models",)
        return (ensemble.networks[0].source.family_name, "mirrors")
    if unknown := [name for name in request.families if name not in FAMILIES]:
        raise SettingError(
            f"-members takes {' '.join(FAMILIES)}; got {' '.join(unknown)}. Leave out what is not "
            "listed."
        )
    if ensemble.others and (more := [name for name in request.families if name != "models"]):
        raise SettingError(
            f"{', '.join(ensemble.others)} and {ensemble.names[0]} see an image differently "
            "(spacing, patch, preprocessing or mirroring), so that models are their only family: "
            f"use -members models, without {' '.join(more)}."
        )
    return tuple(dict.fromkeys(request.families))


def _heads(name: str) -> Callable[[Ensemble, MemberRequest], tuple[str, ...] | str]:
    def members(ensemble: Ensemble, _: MemberRequest) -> tuple[str, ...] | str:
        source = ensemble.networks[0].source
        if not ensemble.has_one_kind_of_heads:
            return _difference(ensemble)
        if len(source.head_names) == 1:
            return "the network has one head"
        if source.family_name != name:
            return f"the network's heads are of the family {source.family_name}"
        return source.head_names

    return members


def _difference(ensemble: Ensemble) -> str:
    """In which of their heads' properties the models differ: the first that not all share."""
    sources = [model.sources[0] for model in ensemble.models]
    properties: dict[str, list[object]] = {
        "their heads": [len(source.head_names) for source in sources],
        "the family of their heads": [source.family_name for source in sources],
        "the names of their heads": [" ".join(source.head_names) for source in sources],
        "how many heads make the segmentation": [source.num_fused_heads for source in sources],
    }
    what = next((name for name, own in properties.items() if len(set(own)) > 1), "their heads")
    values = zip(ensemble.names, properties[what], strict=True)
    return f"the models differ in {what} ({', '.join(f'{name}: {own}' for name, own in values)})"


def _mirrors(_: Ensemble, request: MemberRequest) -> tuple[str, ...] | str:
    if not request.mirror_axes:
        return "mirroring is switched off, or the model was trained without it"
    names = ("+".join(map(str, axes)) or "none" for axes in mirror_passes(request.mirror_axes))
    return tuple(f"mirror_{name}" for name in names)


def _networks(name: str) -> Callable[[Ensemble, MemberRequest], tuple[str, ...] | str]:
    def members(ensemble: Ensemble, _: MemberRequest) -> tuple[str, ...] | str:
        if name == "models":
            names = ensemble.names
        else:
            names = tuple(dict.fromkeys(network.places[name] for network in ensemble.networks))
        flag = {"folds": "-f", "checkpoints": "-chk", "models": "-m"}[name]
        return names if len(names) > 1 else f"{flag} names one"

    return members


def _dropout(ensemble: Ensemble, request: MemberRequest) -> tuple[str, ...] | str:
    without = [
        name
        for name, model in zip(ensemble.names, ensemble.models, strict=True)
        if not all(has_dropout(source) for source in model.sources)
    ]
    if without:
        return f"{', '.join(without)} has no layer with active dropout"
    return tuple(f"dropout_{number}" for number in range(request.num_samples))


_MEMBERS: dict[str, Callable[[Ensemble, MemberRequest], tuple[str, ...] | str]] = {
    **{name: _heads(name) for name in HEAD_FAMILIES},
    "mirrors": _mirrors,
    **{name: _networks(name) for name in NETWORK_FAMILIES},
    "dropout": _dropout,
}


def _with_fused(ensemble: Ensemble, families: list[Family], fusion: Fusion) -> MemberPlan:
    """The plan with what is fused; extra members where this is no family of the run."""
    plan = MemberPlan(tuple(families), fused=())
    by_name = {family.name: family for family in families}
    if fusion == "lowest_uncertainty":
        chosen = next((name for name in NETWORK_FAMILIES if name in by_name), None)
        if chosen is None:
            raise SettingError(
                "-fusion lowest_uncertainty takes the member of folds, models or checkpoints with "
                "the lowest uncertainty, but this run has none of these families. Add one to "
                "-members, with several -f, -m or -chk."
            )
        return MemberPlan(plan.families, fused=tuple(plan.numbers(by_name[chosen])))
    if list(by_name) == ["dropout"]:
        return MemberPlan(plan.families, fused=tuple(plan.numbers(by_name["dropout"])))
    if ensemble.has_one_kind_of_heads:
        source = ensemble.networks[0].source
        name, to_fuse = source.family_name, source.head_names[-source.num_fused_heads :]
        skipped = len(source.head_names) - source.num_fused_heads
    else:
        name, to_fuse, skipped = "models", ensemble.names, 0
    if name in by_name:
        return MemberPlan(plan.families, fused=tuple(plan.numbers(by_name[name]))[skipped:])
    first = plan.num_members
    return MemberPlan(plan.families, tuple(range(first, first + len(to_fuse))), extra=to_fuse)
