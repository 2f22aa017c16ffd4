"""The file: the same to the last bit, whole or not at all, and refused for another model."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
from calibration.made_up_cases import made_up_cases

from nnunetv2_le.calibration.calibration_file import (
    CALIBRATION_FILE,
    Calibration,
    Identity,
    fold_names,
    read_calibration,
    require_matches,
    write_calibration,
)
from nnunetv2_le.calibration.contours import BoundaryDistances, fit_contours
from nnunetv2_le.calibration.fit import fit_decisions
from nnunetv2_le.calibration.head_skip import fit_head_skip
from nnunetv2_le.calibration.known_features import FEATURES_FILE, KnownFeatures
from nnunetv2_le.calibration.prediction_sets import case_curve, fit_prediction_sets
from nnunetv2_le.calibration.temperature import TemperatureSearch, fit_temperature
from nnunetv2_le.calibration.vector_scaling import fit_vector_scaling
from nnunetv2_le.errors import InputError, OutputError
from nnunetv2_le.version import __version__

IDENTITY = Identity(
    dataset="Dataset004_Hippocampus",
    trainer="LayerEnsembleTrainer",
    plans="nnUNetPlans",
    configuration="3d_fullres",
    folds=fold_names([0, 1]),
    checkpoint="checkpoint_final.pth",
    families=("heads", "mirrors"),
    heads=("encoder_0", "decoder_0"),
    fused=("decoder_0",),
    labels=("anterior", "posterior"),
    checksums={"plans": "a" * 64, "0": "b" * 64, "1": "c" * 64},
)


@pytest.fixture(scope="module")
def calibration():
    """Every part fitted on 40 made-up cases; one label's outer margin is infinite."""
    generator, groups = np.random.default_rng(0), np.arange(40)
    decisions = fit_decisions(made_up_cases(40), tolerance=0.75, alpha=0.1)
    search = TemperatureSearch(("encoder_0", "fused"))
    curves = []
    for _ in range(40):
        logits = generator.normal(size=(2, 3, 50)).astype(np.float32)
        truth = generator.integers(0, 3, size=50)
        search.add(logits, truth)
        curves.append(case_curve(np.full((3, 50), 1 / 3), truth))
    near = [BoundaryDistances(*map(float, row)) for row in generator.gamma(2.0, size=(40, 2))]
    missed = [BoundaryDistances(float("inf"), 0.0)] * 40
    dice = generator.uniform(size=40)
    return Calibration(
        identity=IDENTITY,
        num_cases=40,
        num_groups=40,
        head_skip=fit_head_skip(
            ("encoder_0", "encoder_1", "decoder_0"),
            agreements=generator.uniform(size=(40, 2, 2)),
            dice=dice,
            fused_dice=np.repeat(dice[:, None], 3, axis=1),
            default_fused_skip=1,
            groups=groups,
        ),
        temperature=fit_temperature(search, groups=groups),
        vector_scaling=fit_vector_scaling(search, "fused", groups=groups),
        predicted_dice=decisions.predicted_dice,
        predicted_dice_labels=decisions.predicted_dice_labels,
        flag=decisions.flag,
        prediction_sets=fit_prediction_sets(curves, groups=groups),
        contours=fit_contours({"anterior": near, "posterior": missed}, groups=groups),
        outlier_alpha=0.05,
        features={
            "0": KnownFeatures(generator.normal(size=(12, 7)).astype(np.float32)),
            "1": KnownFeatures(generator.normal(size=(3, 7)), ("p", "p", "q")),
        },
    )


def test_what_is_read_is_what_was_written_to_the_last_bit(calibration, tmp_path):
    path = write_calibration(calibration, tmp_path)
    assert path == tmp_path / CALIBRATION_FILE
    read = read_calibration(tmp_path)
    assert read == calibration
    assert read.features.keys() == calibration.features.keys()
    for fold, known in calibration.features.items():
        assert read.features[fold].groups == known.groups
        assert read.features[fold].features.dtype == known.features.dtype
        assert (read.features[fold].features == known.features).all()
    assert sorted(file.name for file in tmp_path.iterdir()) == [CALIBRATION_FILE, FEATURES_FILE]


def test_the_file_is_plain_json_without_nan(calibration, tmp_path):
    text = write_calibration(calibration, tmp_path).read_text()

    def refuse(constant):
        raise AssertionError(constant)

    content = json.loads(text, parse_constant=refuse)
    assert content["contours"]["labels"]["posterior"]["outer_mm"] is None
    assert content["identity"]["version"] == __version__


def test_parts_that_were_not_fitted_stay_away(tmp_path):
    bare = Calibration(identity=IDENTITY, num_cases=3, num_groups=3)
    (tmp_path / FEATURES_FILE).write_bytes(b"of an earlier calibration")
    write_calibration(bare, tmp_path)
    assert read_calibration(tmp_path) == bare
    assert not (tmp_path / FEATURES_FILE).exists()


def test_a_write_that_fails_leaves_the_earlier_calibration(calibration, tmp_path, monkeypatch):
    bare = Calibration(identity=IDENTITY, num_cases=3, num_groups=3)
    write_calibration(bare, tmp_path)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OutputError, match=r"calibration\.json cannot be written: No space left"):
        write_calibration(calibration, tmp_path)
    monkeypatch.undo()
    assert read_calibration(tmp_path) == bare
    assert [file.name for file in tmp_path.iterdir()] == [CALIBRATION_FILE]


def test_a_write_that_ends_between_the_two_files_leaves_no_calibration(
    calibration, tmp_path, monkeypatch
):
    real, calls = os.replace, []

    def once(*paths):
        if calls:
            raise KeyboardInterrupt
        calls.append(real(*paths))

    monkeypatch.setattr("os.replace", once)
    with pytest.raises(KeyboardInterrupt):
        write_calibration(calibration, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [FEATURES_FILE]


def test_a_missing_or_damaged_file_is_refused(calibration, tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_calibration(tmp_path)
    path = write_calibration(calibration, tmp_path)
    text = path.read_text()
    path.write_text(text[:-30])
    with pytest.raises(InputError, match="is not valid JSON"):
        read_calibration(tmp_path)
    path.write_text(text.replace('"format": 1', '"format": 2'))
    with pytest.raises(InputError, match="has format 2, this version reads format 1"):
        read_calibration(tmp_path)
    for old, new, said in (
        ('"num_cases": 40', '"num_cases": "40"', r"expected int at \.num_cases, got '40'"),
        ('"num_groups": 40', '"number": 40', "expected the fields"),
        ('"kind": "', '"kind": "magic_', "expected a value of a known kind"),
        ('"is_shared": false', '"is_shared": 0', "expected bool at .temperature.is_shared"),
        ('"region": "roi"', '"region": "moon"', "expected one of"),
    ):
        assert old in text
        path.write_text(text.replace(old, new))
        with pytest.raises(InputError, match=f"is damaged: .*{said}"):
            read_calibration(tmp_path)


def test_features_of_another_calibration_are_refused(calibration, tmp_path):
    write_calibration(calibration, tmp_path)
    file = tmp_path / FEATURES_FILE
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match=r"is not the file that calibration\.json was written"):
        read_calibration(tmp_path)
    file.unlink()
    with pytest.raises(InputError, match="belongs to the calibration and cannot be read"):
        read_calibration(tmp_path)


def test_the_model_that_was_calibrated_and_each_of_its_folds_is_accepted(calibration):
    require_matches(calibration, IDENTITY)
    one_fold = dataclasses.replace(
        IDENTITY, folds=("1",), checksums={"plans": "a" * 64, "1": "c" * 64}
    )
    require_matches(calibration, one_fold)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dataset": "Dataset005_Prostate"}, "made with data set Dataset004_Hippocampus, but the"),
        ({"trainer": "nnUNetTrainer"}, "made with trainer LayerEnsembleTrainer, but the model has"),
        ({"plans": "smallPlans"}, "made with plans nnUNetPlans"),
        ({"configuration": "2d"}, "made with configuration 3d_fullres, but the model has 2d"),
        ({"folds": ("0", "4")}, "made with folds 0, 1, but the model has 0, 4"),
        ({"checkpoint": "checkpoint_best.pth"}, "made with checkpoint checkpoint_final"),
        ({"families": ("heads",)}, "made with families heads, mirrors, but the model has heads"),
        ({"heads": ("decoder_0",)}, "made with heads encoder_0, decoder_0, but"),
        ({"fused": ("encoder_0",)}, "made with fused members decoder_0, but"),
        ({"labels": ("whole",)}, "made with labels anterior, posterior, but the model has whole"),
        ({"checksums": {"plans": "d" * 64}}, "checksums are plans: aaaaaaaaaaaa, but"),
        ({"checksums": {"7": "d" * 64}}, r"checksums are 7: none \(it does not say\), but"),
        (
            {"settings": {"members": "heads 9, dropout 10"}},
            r"members: none \(it does not say\), but the model has members: heads 9, dropout 10",
        ),
        ({"version": "9.9"}, f"made with nnunetv2_le version {__version__}, but the model has 9.9"),
    ],
)
def test_another_model_is_refused_by_what_differs(calibration, change, said):
    with pytest.raises(InputError, match=said) as refused:
        require_matches(
            calibration, dataclasses.replace(IDENTITY, **change), path=Path("m/calibration.json")
        )
    assert "--no_calibration" in str(refused.value)
    is_of_command = bool({"folds", "families", "settings"} & set(change))
    assert ("predict as it was calibrated" in str(refused.value)) == is_of_command


def test_every_part_of_the_identity_is_tested():
    tested = test_another_model_is_refused_by_what_differs.pytestmark[0].args[1]
    assert {name for change, _ in tested for name in change} == {
        field.name for field in dataclasses.fields(Identity)
    }
