"""Predicted Dice: scikit-learn and MAPIE as references, coverage, undefined and constant scores."""

import json

import numpy as np
import pytest
from calibration.made_up_cases import made_up_table
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.model_selection import PredefinedSplit

from nnunetv2_le.calibration.cases import LabelCases
from nnunetv2_le.calibration.dice_models import (
    choose_model,
    dice_of,
    log_odds,
    rows,
)
from nnunetv2_le.calibration.groups import group_folds
from nnunetv2_le.calibration.json_values import from_json, to_json
from nnunetv2_le.calibration.predicted_dice import PredictedDice, fit_predicted_dice
from nnunetv2_le.errors import InputError, SettingError


def fitted(table, **settings):
    return fit_predicted_dice(table, groups=np.arange(len(table.dice)), **settings)


class _AsFitted(RegressorMixin, BaseEstimator):
    """Our own choice of model behind scikit-learn's interface, for MAPIE."""

    def __init__(self, columns=()):
        self.columns = columns

    def fit(self, values, odds):
        scores = dict(zip(self.columns, values.T, strict=True))
        self.model_ = choose_model(
            scores,
            dice_of(odds),
            groups=np.arange(len(odds)),
            candidates=("consensus_dice",),
            columns=self.columns,
            seed=0,
        )
        self.is_fitted_ = True
        return self

    def predict(self, values):
        return self.model_.predict(dict(zip(self.columns, values.T, strict=True)))


def test_the_lower_bound_is_that_of_mapies_cross_conformal_regressor():
    mapie = pytest.importorskip("mapie.regression")
    scores_of = pytest.importorskip("mapie.conformity_scores")
    level, table, new = 0.9, made_up_table(60), made_up_table(30, seed=9)
    mine = fitted(table, level=level, score="consensus_dice").predicted
    columns = tuple(c for c in table.scores if c not in ("aula", "entropy_image_mean"))
    fold_of_case = np.zeros(60, dtype=int)
    for number, (_, held_out) in enumerate(group_folds(np.arange(60), 10)):
        fold_of_case[held_out] = number
    # two one-sided bounds at 1 - alpha each are an interval at 1 - 2 alpha
    regressor = mapie.CrossConformalRegressor(
        _AsFitted(columns),
        confidence_level=1 - 2 * (1 - level),
        conformity_score=scores_of.AbsoluteConformityScore(sym=False),
        method="plus",
        cv=PredefinedSplit(fold_of_case),
    )
    values = np.stack([table.scores[c] for c in columns], axis=1)
    regressor.fit_conformalize(values, log_odds(table.dice))
    _, intervals = regressor.predict_interval(np.stack([new.scores[c] for c in columns], axis=1))
    ours = mine.predict(new.scores)
    expected = np.minimum(dice_of(intervals[:, 0, 0]), ours.dice)
    assert ours.lower == pytest.approx(expected, abs=1e-9)


def test_lower_bounds_hold_for_new_cases_of_new_patients():
    coverages, generator = [], np.random.default_rng(4)
    for seed in range(6):
        groups = np.repeat(np.arange(40), generator.integers(1, 4, size=40))
        table = made_up_table(40, seed=seed, noise=1.0)
        copies = LabelCases(rows(table.scores, groups), table.dice[groups])
        mine = fit_predicted_dice(copies, groups=groups, level=0.8).predicted
        new = made_up_table(400, seed=seed + 500, noise=1.0)
        coverages.append(np.mean(new.dice >= mine.predict(new.scores).lower))
    error = np.std(coverages) / np.sqrt(len(coverages))
    assert np.mean(coverages) >= 0.8 - 3 * error
    assert np.mean(coverages) <= 0.9


def test_the_lower_bound_of_a_foreseen_miss_is_zero_and_is_reached():
    generator = np.random.default_rng(0)
    missed = np.arange(30) < 27
    score = np.where(missed, 0.3, 0.6) + 0.3 * generator.random(30)
    table = LabelCases({"consensus_dice": score}, np.where(missed, 0.0, 0.8))
    new = np.array([0.32, 0.4, 0.5, 0.58])  # all like the missed ones
    assert fitted(table).predicted.predict({"consensus_dice": new}).lower.tolist() == [0.0] * 4


def test_the_stored_prediction_gives_the_same_to_the_last_bit():
    for seed, one_score in ((0, False), (1, True)):
        mine = fitted(made_up_table(60, seed=seed, seen_by_one_score=one_score)).predicted
        read = from_json(PredictedDice, json.loads(json.dumps(to_json(mine), allow_nan=False)))
        new = made_up_table(50, seed=9).scores
        assert read == mine
        assert (read.predict(new).dice == mine.predict(new).dice).all()
        assert (read.predict(new).lower == mine.predict(new).lower).all()
        one = {name: float(values[7]) for name, values in new.items()}
        assert read.predict_case(one) == (mine.predict(new).dice[7], mine.predict(new).lower[7])


def test_errors_are_those_of_held_out_cases_and_below_the_means():
    table = made_up_table(80)
    result = fitted(table)
    errors = np.abs(result.held_out - table.dice)
    assert result.predicted.mean_absolute_error == pytest.approx(errors.mean())
    assert result.predicted.mean_absolute_error < 0.6 * result.predicted.baseline_error
    assert (np.abs(result.predicted.predict(table.scores).dice - table.dice).mean()) < errors.mean()


def test_cases_with_undefined_scores_do_not_count_and_are_not_predicted():
    table = made_up_table(60)
    whole = fitted(LabelCases(rows(table.scores, np.arange(5, 60)), table.dice[5:]))
    scores = {name: np.append(np.full(5, np.nan), v[5:]) for name, v in table.scores.items()}
    result = fitted(LabelCases(scores, table.dice))
    assert result.predicted.num_undefined == 5
    assert result.predicted.num_cases == 55
    assert np.isnan(result.held_out[:5]).all()
    assert np.isfinite(result.held_out[5:]).all()
    assert result.predicted.model == whole.predicted.model
    said = result.predicted.predict(scores)
    assert np.isnan(said.dice[:5]).all()
    assert np.isnan(said.lower[:5]).all()


def test_an_empty_segmentation_is_not_foretold_and_takes_no_score_from_the_others():
    table = made_up_table(60, seen_by_one_score=True)
    soft = table.scores["consensus_dice"].copy()
    soft[:4] = np.nan
    poor = np.random.default_rng(0).permutation(table.scores["consensus_dice"])
    scores = {"soft_dice": soft, "consensus_dice": poor}
    result = fitted(LabelCases(scores, table.dice))
    assert result.predicted.num_undefined == 4
    assert "soft_dice" in result.predicted.columns
    assert np.isnan(result.held_out[:4]).all()


def test_an_empty_segmentation_with_some_scores_does_not_count_either():
    table = made_up_table(60)
    scores = {name: values.copy() for name, values in table.scores.items()}
    scores["volume_ml"][:3] = 0
    scores["entropy_foreground_mean"][:3] = np.nan
    result = fitted(LabelCases(scores, table.dice))
    assert result.predicted.num_undefined == 3
    assert "entropy_foreground_mean" in result.predicted.columns


def test_a_new_empty_segmentation_is_not_foretold_though_members_agree_that_it_is():
    table = made_up_table(60)
    model = fitted(table, score="consensus_dice").predicted
    scores = {name: values[:2].copy() for name, values in table.scores.items()}
    scores["consensus_dice"][:] = 0.875  # seven of eight members find nothing either
    scores["volume_ml"][1] = 0.0
    said = model.predict(scores)
    assert np.isnan(said.dice).tolist() == [False, True]
    assert np.isnan(said.lower).tolist() == [False, True]
    of_case = [model.predict_case({n: v[case] for n, v in scores.items()}) for case in (0, 1)]
    assert np.isnan(of_case).tolist() == [[False, False], [True, True]]


def test_where_the_main_score_is_constant_the_next_one_serves():
    table = made_up_table(60, seen_by_one_score=True)
    scores = {**table.scores, "consensus_dice": np.ones(60)}
    model = fitted(LabelCases(scores, table.dice)).predicted.folds[0].model
    assert "consensus_dice" not in model.columns


def test_constant_scores_are_refused_by_name():
    table = made_up_table(60)
    scores = {"consensus_dice": np.ones(60), "entropy_foreground_mean": np.full(60, np.nan)}
    with pytest.raises(InputError, match=r"consensus_dice, .* the same in every labelled case"):
        fitted(LabelCases(scores, table.dice))
    with pytest.raises(InputError, match=r"^aula: missing"):
        fitted(LabelCases({"consensus_dice": table.dice}, table.dice), score="aula")


def test_too_few_patients_and_odd_levels_are_refused():
    with pytest.raises(InputError, match="at least 10 labelled patients"):
        fitted(made_up_table(9))
    with pytest.raises(InputError, match="needs at least 99 labelled cases"):
        fitted(made_up_table(30), level=0.99)
    with pytest.raises(SettingError, match="level between 0 and 1"):
        fitted(made_up_table(30), level=90)


def test_a_new_case_without_a_column_is_refused_by_name():
    table = made_up_table(60, seen_by_one_score=True)
    mine = fitted(table, score="consensus_dice").predicted
    with pytest.raises(InputError, match=r"needs the columns .*consensus_dice"):
        mine.predict({"aula": np.ones(3)})


def test_patients_count_equally_in_the_errors_and_in_the_lower_bound():
    groups = np.repeat(np.arange(20), np.arange(20) % 3 + 1)
    table = made_up_table(len(groups), noise=1.0)
    result = fit_predicted_dice(table, groups=groups, score="consensus_dice")
    errors, sizes = np.abs(result.held_out - table.dice), np.bincount(groups)
    of_patients = np.bincount(groups, weights=errors) / sizes
    assert result.predicted.mean_absolute_error == pytest.approx(of_patients.mean())
    assert of_patients.mean() != pytest.approx(errors.mean(), rel=1e-3)
    weights = sorted(weight for fold in result.predicted.folds for weight in fold.weights)
    assert weights == pytest.approx(sorted(1 / (20 * sizes[groups])))
    assert result.predicted.num_groups == 20


def test_the_lower_bound_never_lies_above_the_prediction():
    table = made_up_table(40, seen_by_one_score=True)
    said = fitted(table, level=0.2, score="consensus_dice").predicted.predict(table.scores)
    assert (said.lower <= said.dice).all()
    assert (said.lower == said.dice).any()  # at so low a level it would


def test_the_baseline_is_the_mean_dice_of_the_cases_that_are_not_held_out():
    table = made_up_table(20)
    errors = [
        np.abs(table.dice[held_out] - table.dice[known].mean())
        for known, held_out in group_folds(np.arange(20), 10)
    ]
    found = fitted(table).predicted.baseline_error
    assert found == pytest.approx(np.concatenate(errors).mean(), rel=1e-9)


def test_a_score_that_is_undefined_in_a_case_that_counts_is_not_used():
    table = made_up_table(20)
    scores = {name: table.scores[name].copy() for name in ("consensus_dice", "volume_std_ml")}
    scores["soft_dice"] = table.dice.copy()
    assert fitted(LabelCases(scores, table.dice)).predicted.model.columns == ("soft_dice",)
    scores["volume_std_ml"][7] = np.nan
    result = fitted(LabelCases(scores, table.dice)).predicted
    assert result.num_undefined == 0
    assert "volume_std_ml" not in result.columns


def test_the_model_is_fitted_on_all_cases_however_little_their_scores_differ():
    table = made_up_table(20)
    scores = {"consensus_dice": 0.9 + 1e-6 * table.scores["consensus_dice"]}
    mine = fitted(LabelCases(scores, table.dice)).predicted
    only = {"candidates": ("consensus_dice",), "columns": ("consensus_dice",), "seed": 0}
    assert mine.model == choose_model(scores, table.dice, groups=np.arange(20), **only)
    assert mine.model not in [fold.model for fold in mine.folds]


def test_a_case_without_a_dice_does_not_count():
    table = made_up_table(20)
    dice = table.dice.copy()
    dice[3] = np.nan
    result = fitted(LabelCases(table.scores, dice), score="consensus_dice")
    assert (result.predicted.num_cases, result.predicted.num_undefined) == (19, 1)
    assert np.isnan(result.held_out).tolist() == [n == 3 for n in range(20)]
