"""The effect of skipping the first heads: NLL, Dice and the worth of AULA against their number."""

import pandas as pd
from matplotlib.figure import Figure

from nnunetv2_le.report.figure_files import colour, new_figure, own_style

_BAND = 0.1  # of a standard deviation, as in Kushibar et al. 2022, fig. 3


@own_style()
def skip_heads_figure(table: pd.DataFrame) -> Figure:
    """Three panels over the number of skipped heads.

    Args:
        table: from `evaluation.skip_heads.skip_heads_table`.
    """
    figure = new_figure(height=7)
    panels = figure.subplots(3, 1, sharex=True)
    for panel, name, title in zip(panels, ("nll", "dice"), ("NLL (nats)", "Dice"), strict=False):
        mean, deviation = table[f"{name}_mean"], table[f"{name}_std"]
        panel.plot(table["skipped"], mean, "o-", color=colour(0))
        low, high = mean - _BAND * deviation, mean + _BAND * deviation
        panel.fill_between(table["skipped"], low, high, color=colour(0), alpha=0.25)
        panel.set_ylabel(f"{title}\n(band: {_BAND:g} std)")
    panels[2].plot(table["skipped"], table["aula_dice_spearman"], "o-", color=colour(1))
    panels[2].set_ylabel("Spearman of AULA with Dice")
    panels[2].set_xlabel("number of skipped heads")
    panels[2].set_xticks(table["skipped"])
    return figure
