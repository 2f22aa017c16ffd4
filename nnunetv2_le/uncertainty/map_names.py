"""Which voxel maps there are, and which of them are made only when somebody asks for them."""

from collections.abc import Collection, Sequence

from nnunetv2_le.types import FAMILIES, Family

ALWAYS = ("mutual_information", "variance", "agreement")
"""Maps of a family that every run has."""

ON_DEMAND = ("entropy", "ttest", "total_entropy")
"""Maps of a family that cost time and are made where they are named."""


def map_names(families: Sequence[Family], wanted: Collection[str] = ()) -> tuple[str, ...]:
    """Names of the maps of a run, in order.

    Args:
        families: the families of the run.
        wanted: names of maps that were asked for; of these the ones that a run does not have
            anyway are added.
    """
    maps = ("entropy", *(f"{family.name}_{kind}" for family in families for kind in ALWAYS))
    return maps + tuple(name for name in on_demand_maps(families) if name in wanted)


def on_demand_maps(families: Sequence[Family]) -> tuple[str, ...]:
    """Maps that a run with these families can make on demand; they need two members."""
    return tuple(
        f"{family.name}_{kind}"
        for family in families
        if len(family.members) > 1
        for kind in ON_DEMAND
    )


def every_map_name() -> tuple[str, ...]:
    """Names of the maps that a run with any families can have."""
    kinds = (*ALWAYS, *ON_DEMAND)
    return ("entropy", *(f"{family}_{kind}" for family in FAMILIES for kind in kinds))
