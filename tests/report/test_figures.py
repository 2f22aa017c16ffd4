"""Figures: they say what the figures' numbers say, in PNG and PDF, and repeat byte for byte."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure

from nnunetv2_le.errors import InputError, OutputError
from nnunetv2_le.evaluation.calibration_error import CalibrationHistogram
from nnunetv2_le.evaluation.failure_detection import aurc, risk_coverage_curve
from nnunetv2_le.evaluation.quality_control import quality_control_curve
from nnunetv2_le.report.case_figure import case_figure
from nnunetv2_le.report.figure_files import new_axes, save_figure
from nnunetv2_le.report.layer_agreement_figure import layer_agreement_figure
from nnunetv2_le.report.quality_control_figure import is_informative, quality_control_figure
from nnunetv2_le.report.reliability_figure import reliability_figure
from nnunetv2_le.report.risk_coverage_figure import risk_coverage_figure
from nnunetv2_le.report.scatter_figure import scatter_figure
from nnunetv2_le.report.skip_heads_figure import skip_heads_figure
from nnunetv2_le.report.slices import busiest_slice

DICE = np.array([0.9, 0.5, 0.8, 0.3, 0.7])
CONFIDENCES = np.array([5.0, 3.0, 4.0, 1.0, 2.0])


def lines(figure: Figure, axes: int = 0):
    return {line.get_label(): line for line in figure.axes[axes].get_lines()}


def test_figures_do_not_depend_on_the_style_of_the_process(tmp_path):
    contents = []
    for size in (10, 60):
        with rc_context({"font.size": size, "axes.labelsize": size}):
            figure = scatter_figure(CONFIDENCES, DICE, score_name="score")
            contents.append(save_figure(figure, tmp_path / str(size), "s")[0].read_bytes())
    assert contents[0] == contents[1]


def test_figure_files_are_written_in_both_formats_and_repeat(tmp_path, monkeypatch):
    contents = []
    for folder, second in (("one", "1"), ("two", "2000000000")):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", second)  # what Matplotlib takes for the time
        figure, axes = new_axes()
        axes.plot([0, 1], [1, 0])
        files = save_figure(figure, tmp_path / folder, "line")
        assert [file.name for file in files] == ["line.png", "line.pdf"]
        contents.append([file.read_bytes() for file in files])
    assert contents[0] == contents[1]
    assert contents[0][0].startswith(b"\x89PNG")
    assert contents[0][1].startswith(b"%PDF")


def test_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot take the figure line"):
        save_figure(new_axes()[0], tmp_path / "file", "line")


def test_risk_coverage_figure_draws_the_curve_and_its_area():
    figure = risk_coverage_figure({"score": (1 - DICE, CONFIDENCES)})
    drawn = lines(figure)
    label = f"score (AURC {aurc(1 - DICE, CONFIDENCES):.3f})"
    expected = risk_coverage_curve(1 - DICE, CONFIDENCES).selective_risks
    assert drawn[label].get_ydata() == pytest.approx(expected)
    assert any(name.startswith("optimal (") for name in drawn)
    assert any(name.startswith("random (") for name in drawn)


def test_methods_with_other_risks_get_optima_of_their_own():
    figure = risk_coverage_figure(
        {"A": (1 - DICE, CONFIDENCES), "B": ((1 - DICE) / 2, CONFIDENCES)}
    )
    assert {"optimal, A", "optimal, B"} <= {name.split(" (")[0] for name in lines(figure)}


def test_scores_that_fewer_cases_have_are_not_drawn_as_if_all_had_them():
    all_cases, fewer = (1 - DICE, CONFIDENCES), (1 - DICE[:4], CONFIDENCES[:4])
    assert risk_coverage_figure({"A": all_cases}).axes[0].get_title() == "5 cases"
    figure = risk_coverage_figure({"A": all_cases, "B": fewer})
    assert figure.axes[0].get_title() == "4 to 5 cases"


@pytest.mark.parametrize(
    "draw",
    [risk_coverage_figure, lambda pairs: quality_control_figure(pairs, dice_threshold=0.75)],
)
def test_every_curve_of_many_is_told_apart_and_coinciding_ones_without_colours(draw):
    figure = draw({f"method {number:02d}": (DICE, CONFIDENCES) for number in range(12)})
    curves = [line for name, line in lines(figure).items() if name.startswith("method")]
    assert len({(line.get_color(), line.get_marker()) for line in curves}) == 12
    assert len({line.get_marker() for line in curves[:5]}) == 5
    assert curves[0].get_markevery() != curves[1].get_markevery()


def test_quality_control_figure_draws_curve_random_and_five_percent_line():
    figure = quality_control_figure({"score": (DICE, CONFIDENCES)}, dice_threshold=0.75)
    drawn = lines(figure)
    curve = quality_control_curve(DICE < 0.75, CONFIDENCES)
    assert drawn[f"score (area {curve.area:.3f})"].get_ydata() == pytest.approx(curve.remaining)
    assert drawn["random"].get_ydata() == pytest.approx([0.6, 0.48, 0.36, 0.24, 0.12, 0])
    assert drawn["5 %"].get_ydata()[0] == 0.05
    assert figure.axes[0].get_title() == "poor cases: 3 of 5"


def test_methods_with_other_poor_cases_get_references_of_their_own():
    methods = {"A": (DICE, CONFIDENCES), "B": (DICE + 0.1, CONFIDENCES)}
    figure = quality_control_figure(methods, dice_threshold=0.75)
    assert {"random, A", "random, B"} <= set(lines(figure))
    assert figure.axes[0].get_title() == "poor cases, A: 3 of 5\npoor cases, B: 2 of 5"


def test_a_threshold_that_no_case_or_every_case_is_below_has_nothing_to_find():
    assert is_informative(DICE, 0.75)
    assert not is_informative(DICE, 0.1)
    assert not is_informative(DICE, 1.0)


def test_legends_lie_outside_the_curves():
    figure = risk_coverage_figure({"score": (1 - DICE, CONFIDENCES)})
    assert figure.axes[0].get_legend() is None
    (legend,) = figure.legends
    assert legend.get_texts()[0].get_text().startswith("score (AURC")


def test_the_legend_of_many_reliability_curves_covers_none_of_them():
    histogram = CalibrationHistogram(2)
    histogram.add(np.array([[0.3], [0.7]]), np.array([1]))
    bins = {f"region {number}": histogram.reliability() for number in range(20)}
    figure = reliability_figure(bins)
    assert all(axes.get_legend() is None for axes in figure.axes)
    assert len(figure.legends[0].get_texts()) == 21


def test_thirty_domains_are_told_apart():
    domains = [f"site {number}" for number in range(30)]
    figure = scatter_figure(np.arange(30.0), np.arange(30.0), score_name="aula", domains=domains)
    looks = {
        (tuple(points.get_facecolor()[0]), points.get_paths()[0].vertices.tobytes())
        for points in figure.axes[0].collections
    }
    assert len(looks) == 30


def test_reliability_figure_draws_filled_bins():
    histogram = CalibrationHistogram(2)
    histogram.add(np.array([[0.9, 0.3], [0.1, 0.7]]), np.array([0, 0]))
    figure = reliability_figure({"image": histogram.reliability()})
    (drawn,) = [line for name, line in lines(figure).items() if name.startswith("image")]
    assert list(drawn.get_xdata()) == pytest.approx([0.7, 0.9])
    assert list(drawn.get_ydata()) == pytest.approx([0, 1])


@pytest.mark.parametrize(
    "draw",
    [
        lambda: risk_coverage_figure({}),
        lambda: quality_control_figure({}, dice_threshold=0.5),
        lambda: reliability_figure({"empty": CalibrationHistogram(2).reliability()}),
    ],
)
def test_nothing_to_draw_is_an_error(draw):
    with pytest.raises(InputError, match="needs at least one"):
        draw()


def test_scatter_has_one_colour_a_domain_and_the_correlation():
    figure = scatter_figure(
        CONFIDENCES, DICE, score_name="aula", domains=["GE", "GE", "Siemens", "GE", "Siemens"]
    )
    axes = figure.axes[0]
    assert [len(points.get_offsets()) for points in axes.collections] == [3, 2]
    assert axes.get_title().startswith("Spearman 0.9")
    assert axes.get_title().endswith("(5 cases)")


def test_scatter_names_the_cases_of_lowest_dice():
    figure = scatter_figure(CONFIDENCES, DICE, score_name="aula", cases=list("abcde"))
    assert [text.get_text() for text in figure.axes[0].texts] == ["d", "b", "e"]


def test_skip_heads_figure_has_a_panel_for_each_figure():
    table = pd.DataFrame(
        {
            "skipped": [0, 1],
            "nll_mean": [0.3, 0.2],
            "nll_std": [0.1, 0.1],
            "dice_mean": [0.8, 0.9],
            "dice_std": [0.1, 0.1],
            "aula_dice_spearman": [0.5, np.nan],
        }
    )
    figure = skip_heads_figure(table)
    assert [next(iter(axes.get_lines()[0].get_ydata())) for axes in figure.axes] == [0.3, 0.8, 0.5]


def test_layer_agreement_figure_places_agreements_between_the_deepest_heads():
    heads = [np.full((3, 4, 5), n % 3) for n in range(4)]
    figure = layer_agreement_figure(heads, [0.5, 0.9], case="case", index=1)
    (curve,) = figure.axes[0].get_lines()
    assert list(curve.get_xdata()) == [2.5, 3.5]
    assert len(figure.axes) == 1 + 4
    assert figure.axes[0].get_title() == "case, AULA 0.70"


def test_layer_agreement_figure_names_the_heads():
    heads = [np.zeros((1, 4, 5))] * 2
    figure = layer_agreement_figure(heads, [0.5], case="c", index=0, head_names=["deep", "er"])
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["deep", "er"]
    assert [axes.get_title() for axes in figure.axes] == ["c", "deep", "er"]


def test_more_agreements_than_gaps_between_heads_are_refused():
    with pytest.raises(InputError, match="got 2 heads and 2 agreements"):
        layer_agreement_figure([np.zeros((1, 2, 2))] * 2, [0.1, 0.2], case="case", index=0)


def test_case_figure_has_a_panel_for_the_image_and_each_map():
    labels = np.zeros((3, 8, 8), int)
    labels[1, 2:5, 2:5] = 1
    maps = {"entropy": np.random.default_rng(0).random(labels.shape)}
    figure = case_figure(labels, np.roll(labels, 1, axis=2), maps, case="case", index=1)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["segmentation", "entropy"]
    reference, prediction = figure.axes[0].collections  # one contour for each side
    assert reference.get_linestyle() != prediction.get_linestyle()  # red and green are not enough
    assert figure.get_suptitle() == "case, slice 2 of 3"
    named = case_figure(labels, labels, maps, case="case", index=1, dice=0.25)
    assert named.get_suptitle() == "case, Dice 0.250, slice 2 of 3"


def test_busiest_slice_holds_most_foreground():
    one, other = np.zeros((4, 3, 3)), np.zeros((4, 3, 3))
    one[1, :2], other[2] = 1, 1
    assert busiest_slice([one, other]) == 2
