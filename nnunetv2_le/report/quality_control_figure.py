"""The quality-control figure of the original work."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from nnunetv2_le.errors import InputError
from nnunetv2_le.evaluation.quality_control import (
    ACCEPTED_REMAINING,
    QualityControlCurve,
    quality_control_curve,
)
from nnunetv2_le.report.figure_files import REFERENCE_COLOUR, colour, new_axes, own_style


@own_style()
def quality_control_figure(
    methods: Mapping[str, tuple[np.ndarray, np.ndarray]], *, dice_threshold: float
) -> Figure:
    """One curve a score or method, the ideal area, the random line and the 5 % line.

    Args:
        methods: name to (Dice, confidences), higher confidence better.
        dice_threshold: a case below it is poor.

    Raises:
        InputError: if there is no curve.

    Source:
        Kushibar et al. 2022, arXiv:2203.08878, fig. 4.
    """
    if not methods:
        raise InputError("a quality-control figure needs at least one score")
    figure, axes = new_axes()
    curves: list[QualityControlCurve] = []
    for number, (name, (dice, confidences)) in enumerate(methods.items()):
        curve = quality_control_curve(dice < dice_threshold, confidences)
        curves.append(curve)
        label = f"{name} (area {curve.area:.3f})"
        axes.plot(curve.flagged, curve.remaining, color=colour(number), label=label)
    for curve in {curve.poor_fraction: curve for curve in curves}.values():
        axes.fill_between(curve.flagged, curve.ideal, color="0.85", label="ideal")
        axes.plot(curve.flagged, curve.random, color="black", linestyle="--", label="random")
    axes.axhline(ACCEPTED_REMAINING, color=REFERENCE_COLOUR, linestyle=":", label="5 %")
    axes.set_xlabel("fraction of cases flagged for a person")
    axes.set_ylabel(
        f"poor segmentations left (Dice < {dice_threshold:g})\nas a fraction of all cases"
    )
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axes.legend(list(unique.values()), list(unique), fontsize="small")
    return figure
