"""How many heads are left out: planted answers, ties, cases that do not count."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from nnunetv2_le.calibration.head_skip import fit_head_skip
from nnunetv2_le.errors import InputError
from nnunetv2_le.evaluation.failure_detection import aurc

HEADS = ("encoder_0", "encoder_1", "decoder_0", "decoder_1", "decoder_2")


def made_up(*, useless_agreements=0, number=120, seed=0):
    """Dice, and agreements of which the first few know nothing of it."""
    generator = np.random.default_rng(seed)
    dice = generator.beta(8, 2, size=number)
    agreements = dice[:, None, None] + generator.normal(scale=0.05, size=(number, 2, 4))
    agreements[:, :, :useless_agreements] = generator.uniform(size=(number, 2, useless_agreements))
    fused = dice[:, None] + generator.normal(scale=0.01, size=(number, 5))
    return dice, agreements, fused


def fitted(dice, agreements, fused, **settings):
    settings = {"default_fused_skip": 3, "groups": np.arange(len(dice)), **settings}
    return fit_head_skip(HEADS, agreements=agreements, dice=dice, fused_dice=fused, **settings)


@pytest.mark.parametrize("criterion", ["spearman", "aurc"])
@pytest.mark.parametrize("useless", [0, 1, 2])
def test_heads_whose_agreement_knows_nothing_are_left_out(criterion, useless):
    dice, agreements, fused = made_up(useless_agreements=useless)
    # all agreements equally good: their mean is best with all of them, so none more is left out
    assert fitted(dice, agreements, fused, criterion=criterion).score_skip == useless


def test_ties_go_to_fewer_skipped_heads():
    dice, agreements, fused = made_up()
    agreements = np.repeat(dice[:, None, None], 2, axis=1).repeat(4, axis=2)
    result = fitted(dice, agreements, fused)
    assert result.score_skip == 0
    assert result.criterion_values == pytest.approx([1.0] * 4)


def test_with_one_fold_a_case_the_criterion_is_scipys():
    dice, agreements, fused = made_up(number=60)
    groups = np.arange(60) // 12  # five patients, each a fold
    result = fitted(dice, agreements, fused, groups=groups)
    last = [
        spearmanr(agreements[groups == g][..., 3].mean(axis=1), dice[groups == g]).statistic
        for g in range(5)
    ]
    assert result.criterion_values[3] == pytest.approx(np.mean(last))
    areas = [
        aurc(1 - dice[groups == g], agreements[groups == g][..., 3].mean(axis=1)) for g in range(5)
    ]
    by_area = fitted(dice, agreements, fused, groups=groups, criterion="aurc")
    assert by_area.criterion_values[3] == pytest.approx(np.mean(areas))


def test_the_fused_skip_changes_only_for_a_clear_gain_and_dice_never_falls():
    dice, agreements, fused = made_up()
    assert fitted(dice, agreements, fused).fused_skip == 3
    better = fused + np.array([0.0, 0.02, 0.0, 0.0, 0.0])
    result = fitted(dice, agreements, better)
    assert result.fused_skip == 1
    assert result.fused_dice[1] > result.fused_dice[result.default_fused_skip]


def test_a_gain_that_one_case_makes_is_no_gain():
    dice, agreements, fused = made_up()
    fused = np.repeat(dice[:, None], 5, axis=1)
    fused[0, 1] += 0.1
    assert fitted(dice, agreements, fused).fused_skip == 3


def test_empty_predictions_do_not_count():
    dice, agreements, fused = made_up()
    agreements[:7] = np.nan
    result = fitted(dice, agreements, fused)
    assert result.num_cases == 113
    assert np.isfinite(result.criterion_values).all()


def test_folds_in_which_nothing_can_be_ranked_do_not_vote():
    dice, agreements, fused = made_up(number=60)
    groups = np.arange(60) // 12
    dice[groups == 2] = 0.5
    result = fitted(dice, agreements, fused, groups=groups)
    assert np.isfinite(result.criterion_values).all()
    everywhere = fitted(np.full(60, 0.5), agreements, fused, groups=groups)
    assert everywhere.criterion_values == (None,) * 4
    assert everywhere.score_skip == 0


def test_what_does_not_fit_is_refused():
    dice, agreements, fused = made_up(number=14)
    with pytest.raises(InputError, match="at least 15 labelled cases"):
        fitted(dice, agreements, fused)
    dice, agreements, fused = made_up()
    with pytest.raises(InputError, match="expected 4 agreements and 5 fused skips of 5 heads"):
        fitted(dice, agreements[..., 1:], fused)
