"""Names of cases, methods and sites stand in figures as they are written."""

import numpy as np
import pytest

from nnunetv2_le.evaluation.calibration_error import CalibrationHistogram
from nnunetv2_le.report.case_figure import case_figure
from nnunetv2_le.report.figure_files import save_figure
from nnunetv2_le.report.layer_agreement_figure import layer_agreement_figure
from nnunetv2_le.report.quality_control_figure import quality_control_figure
from nnunetv2_le.report.reliability_figure import reliability_figure
from nnunetv2_le.report.risk_coverage_figure import risk_coverage_figure
from nnunetv2_le.report.scatter_figure import scatter_figure

NAMES = ("_a", r"$\nosuch{ $b", "c")  # left out of a legend, no formula, plain
DICE = np.array([0.2, 0.6, 0.9])
VOLUME = np.ones((2, 4, 4), dtype=int)


def histogram():
    bins = CalibrationHistogram(2)
    bins.add(np.array([[0.9, 0.3], [0.1, 0.7]]), np.array([0, 0]))
    return bins.reliability()


FIGURES = {
    "risk and coverage": lambda: risk_coverage_figure(
        {name: (1 - DICE - number / 10, DICE) for number, name in enumerate(NAMES)}, risk_name="r"
    ),
    "quality control": lambda: quality_control_figure(
        {name: (DICE + number / 4, DICE) for number, name in enumerate(NAMES)}, dice_threshold=0.7
    ),
    "reliability": lambda: reliability_figure(dict.fromkeys(NAMES, histogram())),
    "scatter": lambda: scatter_figure(
        DICE, DICE, score_name="s", domains=NAMES, cases=[f"case {name}" for name in NAMES]
    ),
}


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_every_name_is_in_the_legend_as_it_is_written(draw, tmp_path):
    figure = draw()
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    for name in NAMES:
        assert any(name.replace("$", r"\$") in text for text in texts), name
    save_figure(figure, tmp_path, "figure")  # where Matplotlib reads formulae


def test_a_case_is_titled_as_it_is_written(tmp_path):
    written = NAMES[1].replace("$", r"\$")
    figure = case_figure(VOLUME, VOLUME, {}, case=NAMES[1], index=0)
    assert figure.get_suptitle() == f"{written}, slice 1 of 2"
    save_figure(figure, tmp_path, "case")  # where Matplotlib reads formulae
    figure = layer_agreement_figure([VOLUME] * 3, [1.0, 1.0], case=NAMES[1], index=0)
    assert figure.axes[0].get_title() == f"{written}, AULA 1.00"
    save_figure(figure, tmp_path, "layers")
