"""The risk-coverage curve: mean risk of the cases that are kept, against how many are kept."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from nnunetv2_le.errors import InputError
from nnunetv2_le.evaluation.failure_detection import aurc, optimal_aurc, risk_coverage_curve
from nnunetv2_le.report.figure_files import (
    REFERENCE_COLOUR,
    as_written,
    colour,
    curve_style,
    legend_below,
    new_axes,
    own_style,
)


@own_style()
def risk_coverage_figure(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]], *, risk_name: str = "1 - Dice"
) -> Figure:
    """One curve a score or method, with the optimal and the random line.

    Args:
        curves: name to (risks, confidences), higher confidence better.
        risk_name: label of the vertical axis.

    Raises:
        InputError: if there is no curve.
    """
    if not curves:
        raise InputError("a risk-coverage figure needs at least one score")
    figure, axes = new_axes(height=4.0)
    for number, (name, (risks, confidences)) in enumerate(curves.items()):
        curve = risk_coverage_curve(risks, confidences)
        axes.plot(
            curve.coverages,
            curve.selective_risks,
            label=f"{as_written(name)} (AURC {aurc(risks, confidences):.3f})",
            **curve_style(number),
        )
    first, _ = next(iter(curves.values()))
    same_risks = all(np.array_equal(first, risks) for risks, _ in curves.values())
    for number, (name, (risks, _)) in enumerate(curves.items()):
        best = risk_coverage_curve(risks, -risks)
        shade = REFERENCE_COLOUR if same_risks else colour(number)
        ending = "" if same_risks else f", {as_written(name)}"
        axes.plot(
            best.coverages,
            best.selective_risks,
            color=shade,
            linestyle=":",
            label=f"optimal{ending} ({optimal_aurc(risks):.3f})",
        )
        axes.axhline(
            risks.mean(), color=shade, linestyle="--", label=f"random{ending} ({risks.mean():.3f})"
        )
        if same_risks:
            break
    axes.set_xlabel("coverage (fraction of cases kept)")
    axes.set_ylabel(f"mean risk of kept cases ({risk_name})")
    axes.set_xlim(0, 1)
    sizes = sorted({len(risks) for risks, _ in curves.values()})
    title = f"{sizes[0]} cases" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} cases"
    axes.set_title(title, fontsize="medium")
    legend_below(figure, axes)
    return figure
