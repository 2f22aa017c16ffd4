"""The models of Dice: scikit-learn as reference, the choice between them, folds of patients."""

import numpy as np
import pytest
from calibration.made_up_cases import made_up_table
from scipy.stats import linregress
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import Ridge

from nnunetv2_le.calibration.cases import LabelCases
from nnunetv2_le.calibration.dice_models import (
    choose_model,
    dice_of,
    fit_isotonic,
    fit_linear,
    log_odds,
)


def chosen(table, candidates=("consensus_dice",)):
    return choose_model(
        table.scores,
        table.dice,
        groups=np.arange(len(table.dice)),
        candidates=candidates,
        columns=tuple(table.scores),
        seed=0,
    )


def test_the_isotonic_model_is_scikit_learns_at_every_labelled_case():
    table = made_up_table(60)
    model = fit_isotonic(table.scores, table.dice, score="consensus_dice")
    reference = IsotonicRegression().fit(table.scores["consensus_dice"], table.dice)
    expected = reference.predict(table.scores["consensus_dice"])
    assert dice_of(model.predict(table.scores)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("score", ["consensus_dice", "entropy_foreground_mean"])
def test_the_isotonic_model_is_monotone_and_goes_on_beyond_the_labelled_cases(score):
    table = made_up_table(60)
    model = fit_isotonic(table.scores, table.dice, score=score)
    low, high = min(model.knots), max(model.knots)
    values = np.linspace(low - 0.5, high + 0.5, 500)
    steps = np.diff(model.predict({score: values}))
    sign = 1 if score == "consensus_dice" else -1
    assert (sign * steps >= 0).all()
    assert sign * steps[0] > 0
    assert sign * steps[-1] > 0


def test_the_line_beyond_the_labelled_cases_has_the_slope_of_a_linear_regression():
    table = made_up_table(60)
    model = fit_isotonic(table.scores, table.dice, score="consensus_dice")
    reference = linregress(table.scores["consensus_dice"], log_odds(table.dice))
    assert model.slope == pytest.approx(reference.slope)


def test_one_value_of_the_score_gives_one_dice():
    scores, dice = {"consensus_dice": np.full(9, 0.8)}, np.linspace(0.1, 0.9, 9)
    model = fit_isotonic(scores, dice, score="consensus_dice")
    asked = {"consensus_dice": np.array([0.2, 0.8, 0.9])}
    assert dice_of(model.predict(asked)) == pytest.approx([0.5] * 3)


def test_the_linear_model_is_ridge_regression_of_the_log_odds():
    table = made_up_table(60)
    columns = tuple(table.scores)
    model = fit_linear(table.scores, table.dice, columns=columns)
    values = np.stack([table.scores[column] for column in columns], axis=1)
    values = (values - values.mean(axis=0)) / values.std(axis=0)
    reference = Ridge(alpha=model.penalty).fit(values, log_odds(table.dice))
    assert model.predict(table.scores) == pytest.approx(reference.predict(values), abs=1e-9)


def test_a_column_that_is_constant_in_some_cases_has_no_weight_there():
    table = made_up_table(40)
    scores = {**table.scores, "volume_ml": np.full(40, 7.0)}
    model = fit_linear(scores, table.dice, columns=tuple(scores))
    assert model.weights[model.columns.index("volume_ml")] == 0
    assert np.isfinite(model.predict(scores)).all()


def test_the_simple_model_is_kept_unless_all_scores_win_clearly():
    kinds = [chosen(made_up_table(80, seed=seed, seen_by_one_score=True)).kind for seed in range(5)]
    assert kinds.count("isotonic") >= 4
    kinds = [chosen(made_up_table(80, seed=seed)).kind for seed in range(5)]
    assert kinds == ["linear"] * 5


def test_the_simple_model_takes_the_score_that_predicts_best():
    table = made_up_table(80, seed=1, seen_by_one_score=True)
    scores = {"consensus_dice": table.scores["consensus_dice"]}
    scores["soft_dice"] = np.random.default_rng(0).permutation(scores["consensus_dice"])
    model = chosen(LabelCases(scores, table.dice), ("soft_dice", "consensus_dice"))
    assert model.columns == ("consensus_dice",)
    same = {**scores, "soft_dice": scores["consensus_dice"]}
    model = chosen(LabelCases(same, table.dice), ("soft_dice", "consensus_dice"))
    assert model.columns == ("soft_dice",)


def test_of_equally_good_scores_the_preferred_one_is_kept_though_others_look_better_by_chance():
    names = ("mirrors_soft_dice", "soft_dice", "consensus_dice", "aula_normalized", "aula")
    too_many_columns = tuple(map(str, range(61)))  # no linear model
    taken = []
    for seed in range(20):
        generator = np.random.default_rng(seed)
        dice = generator.uniform(0.4, 0.9, size=60)
        scores = {name: dice + generator.normal(0, 0.1, size=60) for name in names}
        settings = {"candidates": names, "columns": too_many_columns, "seed": seed}
        taken.append(choose_model(scores, dice, groups=np.arange(60), **settings).score)
    assert taken.count(names[0]) >= 17


@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_the_unit_of_a_score_does_not_matter_to_the_linear_model(unit):
    table = made_up_table(40)
    scaled = {name: values * unit for name, values in table.scores.items()}
    models = [
        fit_linear(scores, table.dice, columns=tuple(scores)) for scores in (table.scores, scaled)
    ]
    assert models[1].predict(scaled) == pytest.approx(models[0].predict(table.scores))


def test_numbers_of_patients_may_have_gaps_and_decide_by_patient():
    table = made_up_table(30)
    groups = np.arange(30) // 2
    settings = {"candidates": ("consensus_dice",), "columns": tuple(table.scores), "seed": 0}
    models = [
        choose_model(table.scores, table.dice, groups=numbers, **settings)
        for numbers in (groups, 3 * groups + 5)
    ]
    assert models[0].kind == models[1].kind == "linear"


def test_with_fewer_patients_than_columns_all_scores_are_out_of_the_question():
    table = made_up_table(60, noise=0.05)
    settings = {"candidates": ("consensus_dice",), "columns": tuple(table.scores), "seed": 0}
    kinds = [
        choose_model(table.scores, table.dice, groups=np.arange(60) % patients, **settings).kind
        for patients in (len(table.scores) - 1, len(table.scores))
    ]
    assert kinds == ["isotonic", "linear"]
