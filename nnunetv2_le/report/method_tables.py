"""The two tables of the original work, as Markdown and LaTeX, from the figures of a comparison.

The best mean is bold; a star marks a method that differs significantly from the best (corrected
p-value below 0.05).
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

SIGNIFICANT = 0.05
Format = Literal["markdown", "latex"]

_TITLES = {"dice": "DSC", "modified_hausdorff_mm": "MHD (mm)", "nll": "NLL"}


def quality_text(table: pd.DataFrame, form: Format) -> str:
    """Mean (standard deviation) of DSC, MHD and NLL, one row a method.

    Args:
        table: from `evaluation.comparison.quality_table`.
        form: markup.
    """
    metrics = list(dict.fromkeys(table["metric"]))
    rows = []
    for method in dict.fromkeys(table["method"]):
        cells = [method]
        for metric in metrics:
            found = table[(table["method"] == method) & (table["metric"] == metric)].iloc[0]
            cells.append(_quality_cell(found, form))
        rows.append(cells)
    return _table(["method", *(_TITLES[metric] for metric in metrics)], rows, form)


def correlation_text(table: pd.DataFrame, form: Format) -> str:
    """Spearman of each score with DSC and MHD, one row a method and score; the strongest bold.

    Args:
        table: from `evaluation.comparison.correlation_table`.
        form: markup.
    """
    columns = ("spearman_dice", "spearman_mhd")
    strongest = {column: table[column].abs().max() for column in columns}
    rows = []
    for _, row in table.iterrows():
        cells = [str(row["method"]), str(row["score"])]
        for column in columns:
            text = _number(row[column])
            cells.append(_bold(text, form) if abs(row[column]) == strongest[column] else text)
        rows.append(cells)
    return _table(["method", "score", "DSC", "MHD"], rows, form)


def _quality_cell(row: pd.Series, form: Format) -> str:
    mean = _number(row["mean"])
    text = f"{_bold(mean, form) if row['is_best'] else mean} ({_number(row['std'])})"
    if row["p_value"] < SIGNIFICANT:
        text += "$^*$" if form == "latex" else "\\*"
    return text


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], form: Format) -> str:
    if form == "markdown":
        lines = [header, ["---"] * len(header), *rows]
        return "".join(f"| {' | '.join(_escaped(cells, form))} |\n" for cells in lines)
    body = [" & ".join(_escaped(cells, form)) + r" \\" for cells in rows]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{'l' * len(header)}}}",
            r"\hline",
            " & ".join(header) + r" \\",
            r"\hline",
            *body,
            r"\hline",
            r"\end{tabular}",
            "",
        ]
    )


def _escaped(cells: Sequence[str], form: Format) -> list[str]:
    sign = "_" if form == "latex" else "|"
    return [cell.replace(sign, f"\\{sign}") for cell in cells]


def _bold(text: str, form: Format) -> str:
    return rf"\textbf{{{text}}}" if form == "latex" else f"**{text}**"


def _number(value: float) -> str:
    """Three decimals, for reading; the CSV has every digit. A dash where it is undefined."""
    return "-" if np.isnan(value) else f"{value:.3f}"
