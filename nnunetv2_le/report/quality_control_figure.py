"""The quality-control figure of the original work."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nnunetv2_le.errors import InputError
from nnunetv2_le.evaluation.quality_control import (
    ACCEPTED_REMAINING,
    QualityControlCurve,
    quality_control_curve,
)
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
    figure, axes = new_axes(height=4.0)
    curves: list[QualityControlCurve] = []
    for number, (name, (dice, confidences)) in enumerate(methods.items()):
        curve = quality_control_curve(dice < dice_threshold, confidences)
        curves.append(curve)
        label = f"{as_written(name)} (area {curve.area:.3f})"
        axes.plot(curve.flagged, curve.remaining, label=label, **curve_style(number))
    _references(axes, dict(zip(methods, curves, strict=True)))
    axes.axhline(ACCEPTED_REMAINING, color=REFERENCE_COLOUR, linestyle=":", label="5 %")
    axes.set_xlabel("fraction of cases flagged for a person")
    axes.set_ylabel(
        f"poor segmentations left (Dice < {dice_threshold:g})\nas a fraction of all cases"
    )
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.set_title(_count(methods, dice_threshold), fontsize="medium")
    legend_below(figure, axes)
    return figure


def is_informative(dice: np.ndarray, dice_threshold: float) -> bool:
    """Whether some cases are poor and some are not: else there is nothing to find."""
    poor = int(np.count_nonzero(dice < dice_threshold))
    return 0 < poor < len(dice)


def _references(axes: Axes, curves: Mapping[str, QualityControlCurve]) -> None:
    """The ideal and the random line; for each method, where their numbers of poor cases differ."""
    same = len({curve.poor_fraction for curve in curves.values()}) == 1
    for number, (name, curve) in enumerate(curves.items()):
        shade = "black" if same else colour(number)
        ending = "" if same else f", {as_written(name)}"
        axes.fill_between(
            curve.flagged, curve.ideal, color=shade, alpha=0.15, linewidth=0, label=f"ideal{ending}"
        )
        axes.plot(curve.flagged, curve.random, color=shade, linestyle="--", label=f"random{ending}")
        if same:
            return


def _count(methods: Mapping[str, tuple[np.ndarray, np.ndarray]], dice_threshold: float) -> str:
    """How many cases are poor: for each method, where that differs."""
    counts = {
        name: f"{int(np.count_nonzero(dice < dice_threshold))} of {len(dice)}"
        for name, (dice, _) in methods.items()
    }
    if len(set(counts.values())) == 1:
        return f"poor cases: {next(iter(counts.values()))}"
    lines = (f"poor cases, {as_written(name)}: {count}" for name, count in counts.items())
    return "\n".join(lines)
