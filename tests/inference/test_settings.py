"""What a user can choose: bounds that are taken and those that are not, and who may use a map."""

from pathlib import Path
from typing import Any

import pytest

from nnunetv2_le.errors import SettingError
from nnunetv2_le.inference.settings import (
    PredictionSettings,
    available_maps,
    require_heads,
    require_maps,
    require_own_folder,
    require_part,
)
from nnunetv2_le.types import CALIBRATED_MAPS, Family

HEADS = Family("heads", ("a", "b", "c", "d"), ordered=True)
COPIES = Family("multi_head", ("copy_0", "copy_1"))
MIRRORS = Family("mirrors", ("none", "2"))


def test_defaults_are_nnunets() -> None:
    settings = PredictionSettings()
    assert (settings.step_size, settings.use_mirroring, settings.use_gaussian) == (0.5, True, True)
    assert (settings.skip_heads, settings.fusion, settings.families) == (0, "mean", None)


def test_settings_at_their_bounds_are_taken() -> None:
    assert PredictionSettings(step_size=1.0).step_size == 1
    assert PredictionSettings(families=("dropout",), num_samples=2).num_samples == 2


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"step_size": 0.0}, r"-step_size is a share of the tile.*got 0\.0"),
        ({"step_size": 1.01}, r"-step_size is a share of the tile.*got 1\.01"),
        ({"skip_heads": -1}, "-skip_heads is a number of heads, 0 or more; got -1"),
        ({"families": ("dropout",), "num_samples": 1}, "-num_samples .* 2 or more; got 1"),
        ({"num_samples": 3}, "dropout is not among -members"),
        ({"fusion": "median"}, "-fusion takes .*; got 'median'"),
    ],
)
def test_settings_beyond_their_bounds_are_refused(
    choices: dict[str, Any], said: str, shapes_unchecked: None
) -> None:
    with pytest.raises(SettingError, match=said):
        PredictionSettings(**choices)


@pytest.mark.parametrize("skipped", [0, 2])
def test_two_heads_have_to_be_left_for_layer_agreement(skipped: int) -> None:
    require_heads(PredictionSettings(skip_heads=skipped), [HEADS, MIRRORS])
    with pytest.raises(SettingError, match="can be 0 to 2 for this model with 4 heads; got 3"):
        require_heads(PredictionSettings(skip_heads=3), [HEADS, MIRRORS])


@pytest.mark.parametrize("family", [COPIES, MIRRORS])
def test_heads_without_order_cannot_be_skipped(family: Family) -> None:
    with pytest.raises(SettingError, match="-skip_heads 1 leaves heads out of the layer agreement"):
        require_heads(PredictionSettings(skip_heads=1), [family])


def test_heads_of_either_family_can_be_written_and_mirrors_cannot() -> None:
    for family in (HEADS, COPIES):
        require_heads(PredictionSettings(save_heads=True), [MIRRORS, family])
    with pytest.raises(SettingError, match="--save_heads writes the heads of this run"):
        require_heads(PredictionSettings(save_heads=True), [MIRRORS])


def test_calibrated_maps_are_those_of_a_calibrated_model_alone() -> None:
    known = available_maps([MIRRORS])
    require_maps(known, [MIRRORS])
    require_maps((*known, *CALIBRATED_MAPS), [MIRRORS], is_calibrated=True)
    name = CALIBRATED_MAPS[0]
    with pytest.raises(SettingError, match=f"-maps {name} needs a calibrated model"):
        require_maps((known[0], name), [MIRRORS])
    for is_calibrated in (False, True):
        with pytest.raises(SettingError, match=r"does not have: heads_variance\. There are: "):
            require_maps((known[0], "heads_variance"), [MIRRORS], is_calibrated=is_calibrated)


def test_parts_count_from_zero() -> None:
    for part in (0, 2):
        require_part(part, 3)
    for part in (-1, 3):
        with pytest.raises(SettingError, match=rf"-num_parts - 1 = 2; got {part}"):
            require_part(part, 3)
    with pytest.raises(SettingError, match="1 or more; got 0"):
        require_part(0, 0)


def test_a_folder_that_is_read_is_not_written_by_another_path_either(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    require_own_folder(tmp_path / "out", {"-i": tmp_path, "-f": "0", "-prev": None})
    with pytest.raises(SettingError, match=f"-o has to be another folder than -i.*{link}"):
        require_own_folder(tmp_path, {"-m": tmp_path / "m", "-i": link})
