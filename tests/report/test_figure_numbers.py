"""What figures draw, number by number: axes, references, bands, slices."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from nnunetv2_le.evaluation.calibration_error import CalibrationHistogram
from nnunetv2_le.evaluation.confidence_tables import Score
from nnunetv2_le.evaluation.failure_detection import aurc
from nnunetv2_le.report.case_figure import case_figure
from nnunetv2_le.report.evaluation_figures import chosen_scores
from nnunetv2_le.report.layer_agreement_figure import layer_agreement_figure
from nnunetv2_le.report.quality_control_figure import quality_control_figure
from nnunetv2_le.report.reliability_figure import reliability_figure
from nnunetv2_le.report.risk_coverage_figure import risk_coverage_figure
from nnunetv2_le.report.scatter_figure import scatter_figure
from nnunetv2_le.report.skip_heads_figure import skip_heads_figure
from nnunetv2_le.report.slices import aspect_of, busiest_slice

DICE = np.array([0.9, 0.5, 0.8, 0.3, 0.7])
SCORES = np.array([9.0, 3.0, 4.0, 1.0, 2.0])
SPACING = (3.0, 2.0, 0.5)


def lines(figure, axes=0):
    return {line.get_label(): line for line in figure.axes[axes].get_lines()}


def image(axes):
    return np.asarray(axes.get_images()[0].get_array())


def test_risks_are_drawn_over_coverage_between_optimum_and_mean():
    drawn = lines(risk_coverage_figure({"score": (1 - DICE, SCORES)}))
    (curve,) = [line for name, line in drawn.items() if name.startswith("score")]
    assert list(curve.get_xdata()) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    means = np.cumsum([0.1, 0.2, 0.3, 0.5, 0.7]) / np.arange(1, 6)  # the best cases first
    (best,) = [line for name, line in drawn.items() if name.startswith("optimal")]
    assert list(best.get_xdata()) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert list(best.get_ydata()) == pytest.approx(means)
    assert best.get_label() == f"optimal ({aurc(1 - DICE, DICE):.3f})"
    assert drawn["random (0.360)"].get_ydata()[0] == pytest.approx(0.36)
    figure = risk_coverage_figure({"score": (1 - DICE, SCORES)})
    assert figure.axes[0].get_title() == "5 cases"


def test_poor_cases_are_those_below_the_threshold_and_the_ideal_finds_them_first():
    figure = quality_control_figure({"score": (DICE, SCORES)}, dice_threshold=0.7)
    assert figure.axes[0].get_title() == "poor cases: 2 of 5"
    drawn = lines(figure)
    (curve,) = [line for name, line in drawn.items() if name.startswith("score")]
    assert list(curve.get_xdata()) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert list(curve.get_ydata()) == pytest.approx([0.4, 0.2, 0.2, 0, 0, 0])
    (ideal,) = figure.axes[0].collections
    corners = ideal.get_paths()[0].vertices
    height = {round(x, 6): max(y for a, y in corners if abs(a - x) < 1e-6) for x, _ in corners}
    assert height[0.2] == pytest.approx(0.2)
    assert height[0.4] == pytest.approx(0)


def test_shares_below_a_reliability_diagram_sum_to_one_over_all_probabilities():
    histogram = CalibrationHistogram(2)
    histogram.add(np.array([[0.9, 0.3, 0.2], [0.1, 0.7, 0.8]]), np.array([0, 0, 1]))
    figure = reliability_figure({"image": histogram.reliability()})
    (stairs,) = figure.axes[1].patches
    assert stairs.get_data().values.sum() == pytest.approx(1)
    assert (stairs.get_data().edges[0], stairs.get_data().edges[-1]) == (0, 1)
    assert list(lines(figure)["perfectly calibrated"].get_ydata()) == [0, 1]
    assert f"image (ECE {histogram.reliability().expected_error:.4f})" in lines(figure)


def test_points_of_a_scatter_are_scores_across_and_dice_up_with_both_correlations():
    scores = np.array([*SCORES, np.nan, 5.0])
    dice = np.array([*DICE, 0.1, np.nan])
    figure = scatter_figure(scores, dice, score_name="aula", cases=list("abcdefg"))
    axes = figure.axes[0]
    np.testing.assert_array_equal(
        np.asarray(axes.collections[0].get_offsets())[:5], np.stack([SCORES, DICE], axis=1)
    )
    rank, linear = stats.spearmanr(SCORES, DICE)[0], stats.pearsonr(SCORES, DICE)[0]
    assert axes.get_title() == f"Spearman {rank:.3f}, Pearson {linear:.3f} (5 cases)"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("aula", "Dice")
    places = {text.get_text(): text.xy for text in axes.texts}
    assert places == {"d": (1.0, 0.3), "b": (3.0, 0.5)}  # f has no score to stand at


def test_domains_of_a_scatter_are_named():
    figure = scatter_figure(SCORES, DICE, score_name="aula", domains=list("xxyyy"))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["x", "y"]


def test_bands_of_skipped_heads_are_a_tenth_of_a_standard_deviation():
    table = pd.DataFrame(
        {
            "skipped": [0, 1, 2],
            "nll_mean": [0.3, 0.2, 0.1],
            "nll_std": [0.1, 0.2, 0.3],
            "dice_mean": [0.8, 0.9, 0.7],
            "dice_std": [0.1, 0.1, 0.5],
            "aula_dice_spearman": [0.5, 0.6, np.nan],
        }
    )
    figure = skip_heads_figure(table)
    for axes, name in zip(
        figure.axes, ("nll_mean", "dice_mean", "aula_dice_spearman"), strict=True
    ):
        (line,) = axes.get_lines()
        assert list(line.get_xdata()) == [0, 1, 2]
        np.testing.assert_array_equal(line.get_ydata(), table[name])
    corners = figure.axes[1].collections[0].get_paths()[0].vertices
    assert [corners[corners[:, 0] == 2, 1].min(), corners[:, 1].max()] == pytest.approx(
        [0.65, 0.91]
    )


def test_layer_agreement_figure_shows_the_chosen_slice_of_each_head_in_one_scale():
    heads = [np.arange(30).reshape(2, 3, 5) % (number + 2) for number in range(3)]
    figure = layer_agreement_figure(heads, [0.5, 0.9], case="c", index=1, spacing_mm=SPACING)
    for head, axes in zip(heads, figure.axes[1:], strict=True):
        np.testing.assert_array_equal(image(axes), head[1])
        assert axes.get_images()[0].get_clim() == (0, 3)
        assert axes.get_aspect() == 4.0
    assert [axes.get_title() for axes in figure.axes[1:]] == ["1", "2", "3"]


def test_case_figure_shows_image_map_and_contours_of_the_chosen_slice():
    picture = np.random.default_rng(0).random((3, 8, 8))
    prediction, reference = np.zeros((3, 8, 8), int), np.zeros((3, 8, 8), int)
    prediction[1, 2:5, 2:5], reference[1, 3:7, 3:7] = 1, 1
    figure = case_figure(
        prediction,
        reference,
        {"entropy": 2 * picture},
        case="c",
        index=1,
        spacing_mm=SPACING,
        image=picture,
    )
    panels = figure.axes[:2]
    assert [axes.get_title() for axes in panels] == ["image", "entropy"]
    np.testing.assert_array_equal(image(panels[0]), picture[1])
    np.testing.assert_array_equal(image(panels[1]), 2 * picture[1])
    for axes in panels:
        assert axes.get_aspect() == 4.0
        # contours run half-way between voxels
        first, second = (
            np.concatenate([path.vertices for path in one.get_paths()]) for one in axes.collections
        )
        assert (first.min(), first.max()) == (2.5, 6.5)
        assert (second.min(), second.max()) == (1.5, 4.5)
        one, other = (collection.get_edgecolor()[0] for collection in axes.collections)
        named = {line.get_label(): line.get_color() for line in figure.legends[0].get_lines()}
        assert named == {"reference": "lime", "prediction": "red"}
        assert (one[1], other[0]) == (1, 1)


def test_pixels_keep_their_shape():
    assert aspect_of((5.0, 3.0, 2.0)) == 1.5


def test_the_busiest_slice_counts_voxels_whatever_their_label():
    labels = np.zeros((3, 4, 4), int)
    labels[0, 0, :2], labels[2, 0, :3] = 9, 1
    assert busiest_slice([labels]) == 2


def test_named_scores_are_shown_in_the_order_in_which_they_are_named():
    names = ("other", "consensus_dice", "soft_dice")
    scores = [Score(name, "higher_is_better") for name in names]
    assert [one.name for one in chosen_scores(scores, ["consensus_dice", "other"])] == [
        "consensus_dice",
        "other",
    ]
    assert [one.name for one in chosen_scores(scores, None)] == ["soft_dice", "consensus_dice"]
    assert chosen_scores(scores[:1], None) == scores[:1]
