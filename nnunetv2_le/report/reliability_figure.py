"""The reliability diagram: how often a prediction comes true, against how sure it was."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from nnunetv2_le.errors import InputError
from nnunetv2_le.evaluation.calibration_error import ReliabilityBins
from nnunetv2_le.report.figure_files import (
    REFERENCE_COLOUR,
    as_written,
    colour,
    legend_below,
    new_figure,
    own_style,
)

_FULL: dict[str, Any] = {"marker": "o", "linestyle": "-"}
_OPEN: dict[str, Any] = {"marker": "o", "linestyle": "--", "fillstyle": "none", "markersize": 9}


@own_style()
def reliability_figure(
    bins: Mapping[str, ReliabilityBins], *, dashed: Collection[str] = ()
) -> Figure:
    """Accuracy against confidence, above the share of predictions in each bin.

    Args:
        bins: name (a region, a method) to its bins.
        dashed: names of curves to draw dashed, with open marks: those that others may lie upon.

    Raises:
        InputError: if there is nothing to show.
    """
    filled = {name: one for name, one in bins.items() if one.counts.any()}
    if not filled:
        raise InputError("a reliability diagram needs at least one histogram with predictions")
    figure = new_figure(height=5.5)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color=REFERENCE_COLOUR, linestyle=":", label="perfectly calibrated")
    for number, (name, one) in enumerate(filled.items()):
        used = one.counts > 0
        label = f"{as_written(name)} (ECE {one.expected_error:.4f})"
        upper.plot(
            one.confidences[used],
            one.accuracies[used],
            color=colour(number),
            label=label,
            zorder=3 if name in dashed else 2,
            **(_OPEN if name in dashed else _FULL),
        )
        edges = np.linspace(0, 1, len(one.counts) + 1)
        lower.stairs(one.counts / one.counts.sum(), edges, color=colour(number))
    upper.set_ylabel("fraction that came true")
    upper.set_ylim(0, 1)
    lower.set_yscale("log")
    lower.set_ylabel("share")
    lower.set_xlabel("probability")
    lower.set_xlim(0, 1)
    legend_below(figure, upper)
    return figure
