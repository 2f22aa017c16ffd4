"""Names of voxel maps."""

from nnunetv2_le.types import FAMILIES, Family
from nnunetv2_le.uncertainty.map_names import every_map_name, map_names, on_demand_maps

HEADS = Family("heads", ("a", "b"), ordered=True)
FOLDS = Family("folds", ("fold_0",))


def test_a_run_has_its_maps_and_those_that_were_asked_for():
    always = ("entropy", "heads_mutual_information", "heads_variance", "heads_agreement")
    assert map_names([HEADS]) == always
    assert map_names([HEADS], ("heads_ttest", "entropy")) == (*always, "heads_ttest")


def test_one_member_cannot_be_tested():
    assert on_demand_maps([HEADS, FOLDS]) == ("heads_entropy", "heads_ttest", "heads_total_entropy")


def test_a_run_with_every_family_has_every_map():
    families = [Family(name, ("a", "b")) for name in FAMILIES]
    assert set(every_map_name()) == set(map_names(families, on_demand_maps(families)))
