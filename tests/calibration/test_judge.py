"""What a calibration says of a case, on made-up parts; the way of a whole case: test_applying."""

import hashlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest

from nnunetv2_le.calibration import judge as judge_module
from nnunetv2_le.calibration.calibration_file import CALIBRATION_FILE, Calibration, Identity
from nnunetv2_le.calibration.flag import FlagRule, WorkloadPoint
from nnunetv2_le.calibration.judge import CalibrationJudge
from nnunetv2_le.calibration.known_features import KnownFeatures
from nnunetv2_le.calibration.out_of_distribution import OutOfDistribution
from nnunetv2_le.calibration.temperature import Temperature
from nnunetv2_le.calibration.vector_scaling import VectorScaling
from nnunetv2_le.errors import SettingError

# parts are stand-ins that answer what they are asked
pytestmark = pytest.mark.usefixtures("shapes_unchecked")

IDENTITY = Identity(
    *("D", "T", "P", "3d_fullres", ("0", "1"), "checkpoint_final.pth", ("heads",)),
    *(("encoder_0", "decoder_0"), ("decoder_0",), ("front", "back"), {"0": "a", "1": "b"}),
)
TEMPERATURE = Temperature(
    *(("encoder_0", "decoder_0", "fused"), (4.0, 2.0, 0.5), False, "roi"),
    *((1.0,) * 3, (0.5,) * 3, (0.2,) * 3, (0.1,) * 3, 20, 1000),
)
VECTOR = VectorScaling("fused", (1.0, 2.0, 3.0), (0.0, -1.0, 1.0), 0.5, 0.4, is_used=True)
RULE = FlagRule(
    *("predicted_dice", True, 0.7, 0.8, 0.05, 0.3, 0.2, 20, 20, (WorkloadPoint(0.1, 0.6, 0.2),))
)
RNG = np.random.default_rng(0)
KNOWN = {fold: RNG.normal(size=(30, 4)) for fold in ("0", "1")}


class Model:
    """A stand-in for predicted Dice: a column of its own, and the lower bound below it."""

    level, mean_absolute_error, baseline_error, num_cases, num_undefined = 0.9, 0.1, 0.2, 20, 3

    def __init__(self, column: str) -> None:
        self.column = column

    def predict_case(self, scores: Any) -> tuple[float, float]:
        return scores[self.column], scores[self.column] - 0.1


CALIBRATION = Calibration(
    identity=IDENTITY, num_cases=25, num_groups=20, temperature=TEMPERATURE, outlier_alpha=None
)


@pytest.fixture
def made(tmp_path: Path) -> Any:
    """A judge of a calibration with these parts."""
    (tmp_path / CALIBRATION_FILE).write_bytes(b"content")

    def make(fold: str = "0", **parts: Any) -> CalibrationJudge:
        calibration = replace(CALIBRATION, **parts)
        return CalibrationJudge(calibration, fold=fold, folder=tmp_path, num_channels=3)

    return make


def case(*, dice: float = 0.9, is_empty: bool = False, features: Any = None) -> Any:
    labels = {"front": {"whole": 0.3, "own": 0.6}, "back": {"whole": 0.2, "own": 0.5}}
    counts = SimpleNamespace(fused=np.zeros(2) if is_empty else np.array([0, 5]))
    return SimpleNamespace(
        scores=SimpleNamespace(scores={"whole": dice}, per_label=labels),
        accumulated=SimpleNamespace(counts=counts),
        features=features,
    )


def test_predicted_dice_of_case_and_labels_are_of_their_own_models(made: Any) -> None:
    judge = made(predicted_dice=Model("whole"), predicted_dice_labels={"back": Model("own")})
    said = judge.judge(case())
    assert said.numbers["predicted_dice"] == 0.9
    assert said.numbers["predicted_dice_lower"] == pytest.approx(0.8)
    assert said.labels == {"back": {"predicted_dice": 0.5, "predicted_dice_lower": 0.4}}
    without = made().judge(case())
    assert np.isnan([*without.numbers.values()]).all()
    assert without.labels == {}


def test_outlier_columns_are_distances_to_the_known_cases_of_the_fold(made: Any) -> None:
    known = {fold: KnownFeatures(table) for fold, table in KNOWN.items()}
    features = np.array([1.0, -2.0, 0.5, 3.0])
    for fold in ("0", "1"):
        said = made(fold, features=known).judge(case(features=features)).numbers
        expected = OutOfDistribution(KNOWN[fold]).score(features)
        assert said["out_of_distribution"] == expected.mahalanobis
        assert said["out_of_distribution_nearest"] == expected.nearest
        assert said["out_of_distribution_quantile"] == expected.quantile
    unknown = made("2", features=known).judge(case(features=features)).numbers
    assert np.isnan([*unknown.values()]).all()
    assert np.isnan([*made(features=known).judge(case()).numbers.values()]).all()


def test_known_cases_of_one_patient_are_one(made: Any) -> None:
    groups = tuple(str(number // 2) for number in range(30))
    judge = made(features={"0": KnownFeatures(KNOWN["0"], groups)})
    expected = OutOfDistribution(KNOWN["0"], groups=np.arange(30) // 2)
    features = np.array([1.0, -2.0, 0.5, 3.0])
    said = judge.judge(case(features=features)).numbers
    assert said["out_of_distribution_quantile"] == expected.score(features).quantile


def test_a_case_is_flagged_by_every_rule_that_there_is(made: Any) -> None:
    known = {"0": KnownFeatures(KNOWN["0"])}
    far = np.full(4, 50.0)
    judge = made(predicted_dice=Model("whole"), flag=RULE, features=known, outlier_alpha=0.1)
    assert judge.judge(case()).texts == {"flag": "ok", "flag_reason": ""}
    poor = judge.judge(case(dice=0.6)).texts
    assert poor == {"flag": "review", "flag_reason": "predicted_dice 0.6 lies below 0.7"}
    assert judge.judge(case(features=far)).texts["flag"] == "out_of_distribution"
    assert judge.judge(case(is_empty=True)).texts["flag"] == "empty"


def test_a_flag_can_look_at_a_score_of_the_case(made: Any) -> None:
    judge = made(predicted_dice=Model("whole"), flag=replace(RULE, score="whole", threshold=0.8))
    flags = [judge.judge(case(dice=dice)).texts["flag"] for dice in (0.75, 0.85)]
    assert flags == ["review", "ok"]


def test_outliers_are_flagged_by_the_share_of_the_calibration_alone(made: Any) -> None:
    known = {"0": KnownFeatures(KNOWN["0"])}
    features = KNOWN["0"][OutOfDistribution(KNOWN["0"]).known_mahalanobis.argmax()]
    flags = {
        alpha: made(features=known, outlier_alpha=alpha)
        .judge(case(features=features))
        .texts["flag"]
        for alpha in (0.01, 0.5)
    }
    assert flags == {0.01: "ok", 0.5: "out_of_distribution"}
    assert made(features=known).judge(case(features=np.full(4, 50.0))).texts["flag"] == "ok"


@pytest.mark.parametrize(
    ("head", "temperature"), [("encoder_0", 4.0), ("decoder_0", 2.0), (None, 0.5)]
)
def test_logits_are_divided_by_the_temperature_of_their_member(
    made: Any, head: str | None, temperature: float
) -> None:
    scaling = made().scaling(head)
    np.testing.assert_array_equal(scaling.weights, np.full(3, 1 / temperature))
    np.testing.assert_array_equal(scaling.biases, np.zeros(3))
    assert made(temperature=None).scaling(head) is None


def test_vector_scaling_is_of_the_fused_prediction_and_only_where_it_won(made: Any) -> None:
    judge = made(vector_scaling=VECTOR)
    scaling = judge.scaling(None)
    np.testing.assert_array_equal(scaling.weights, VECTOR.weights)
    np.testing.assert_array_equal(scaling.biases, VECTOR.biases)
    assert judge.scaling("encoder_0").weights[0] == 1 / 4
    lost = made(vector_scaling=replace(VECTOR, is_used=False))
    np.testing.assert_array_equal(lost.scaling(None).weights, np.full(3, 2.0))


@pytest.mark.parametrize(
    ("name", "function", "how"),
    [
        ("prediction_set", "prediction_set_bits", None),
        ("inner_contour", "contour_bits", {"is_outer": False}),
        ("outer_contour", "contour_bits", {"is_outer": True}),
    ],
)
def test_a_map_is_made_of_the_part_that_it_needs(
    made: Any, name: str, function: str, how: dict[str, bool] | None
) -> None:
    judge = made(prediction_sets="sets", contours="margins", vector_scaling=VECTOR)
    with mock.patch.object(judge_module, function, return_value=np.zeros((1, 1, 1))) as make:
        judge.voxel_map(name, "prediction")
    assert make.call_args.args == ("prediction", "margins" if how else "sets")
    if how is None:
        np.testing.assert_array_equal(make.call_args.kwargs["scaling"].weights, VECTOR.weights)
    else:
        assert make.call_args.kwargs == how
    needed = "contours" if how else "prediction_sets"
    others = {"prediction_sets": "sets", "contours": "margins"} | {needed: None}
    with pytest.raises(SettingError, match=rf"without what -maps {name} needs\. Leave it out"):
        made(**others).voxel_map(name, "prediction")


def test_what_was_applied_is_described_with_every_figure_but_the_long_curve(
    made: Any, tmp_path: Path
) -> None:
    judge = made(predicted_dice=Model("whole"), flag=RULE, outlier_alpha=0.1)
    assert judge.key == hashlib.sha256(b"content").hexdigest()
    said = judge.describe()
    assert said["file"] == str(tmp_path / CALIBRATION_FILE)
    assert (said["sha256"], said["outlier_alpha"]) == (judge.key, 0.1)
    assert (said["num_cases"], said["num_groups"]) == (25, 20)
    assert said["made_with"]["folds"] == ("0", "1")
    assert said["flag"]["threshold"] == 0.7
    assert said["flag"]["curve"] == ()
    assert said["temperature"]["values"] == (4.0, 2.0, 0.5)
    assert [said[name] for name in ("head_skip", "contours", "prediction_sets")] == [None] * 3
    assert said["predicted_dice"] == {
        "level": 0.9,
        "mean_absolute_error": 0.1,
        "baseline_error": 0.2,
        "num_cases": 20,
        "num_undefined": 3,
    }
    plain = made().describe()
    assert (plain["predicted_dice"], plain["flag"]) == (None, None)
