"""A score against Dice, one point a case."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nnunetv2_le.evaluation.correlation import pearson, spearman
from nnunetv2_le.report.figure_files import (
    COLOURS,
    as_written,
    colour,
    legend_below,
    new_axes,
    own_style,
)

_MARKERS = "o^sDvP"  # the next one where colours start again


@own_style()
def scatter_figure(
    scores: np.ndarray,
    dice: np.ndarray,
    *,
    score_name: str,
    domains: Sequence[str] | None = None,
    cases: Sequence[str] | None = None,
) -> Figure:
    """One point a case, coloured by domain, with both correlations in the title.

    Args:
        scores: of each case, as written (not turned).
        dice: of each case.
        score_name: label of the horizontal axis.
        domains: the domain of each case, if cases come from several.
        cases: names of the cases; the three of lowest Dice are named in the figure.
    """
    figure, axes = new_axes()
    groups = np.asarray(["cases"] * len(scores) if domains is None else list(domains))
    for number, group in enumerate(dict.fromkeys(groups)):
        chosen = groups == group
        axes.scatter(
            scores[chosen],
            dice[chosen],
            s=14,
            alpha=0.7,
            color=colour(number),
            marker=_MARKERS[number // len(COLOURS) % len(_MARKERS)],
            label=as_written(str(group)),
        )
    if domains is not None:
        legend_below(figure, axes)
    rank, linear = spearman(scores, dice), pearson(scores, dice)
    shown = int(np.count_nonzero(np.isfinite(scores) & np.isfinite(dice)))
    axes.set_title(f"Spearman {rank:.3f}, Pearson {linear:.3f} ({shown} cases)", fontsize="medium")
    axes.set_xlabel(score_name)
    axes.set_ylabel("Dice")
    _name_worst(axes, scores, dice, cases or ())
    return figure


def _name_worst(
    axes: Axes, scores: np.ndarray, dice: np.ndarray, cases: Sequence[str], number: int = 3
) -> None:
    """Write the names of the cases of lowest Dice beside their points."""
    for index in np.argsort(dice)[:number] if cases else ():
        if np.isfinite(scores[index]) and np.isfinite(dice[index]):
            is_right = scores[index] > np.nanmean(scores)
            axes.annotate(
                as_written(cases[index]),
                (scores[index], dice[index]),
                xytext=(-4 if is_right else 4, 0),
                textcoords="offset points",
                ha="right" if is_right else "left",
                va="center",
                fontsize="x-small",
            )
