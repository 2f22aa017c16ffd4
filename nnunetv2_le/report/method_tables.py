"""The two tables of the original work, as Markdown and LaTeX, from the figures of a comparison.

The best mean is bold; a star marks a method that differs significantly from the best (corrected
p-value below 0.05).
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

from nnunetv2_le.evaluation.comparison import QUALITY

SIGNIFICANT = 0.05
Format = Literal["markdown", "latex"]

_TITLES = {"dice": "DSC", "modified_hausdorff_mm": "MHD (mm)", "nll": "NLL"}
_UP: dict[Format, str] = {"markdown": "\u2191", "latex": r"$\uparrow$"}
_DOWN: dict[Format, str] = {"markdown": "\u2193", "latex": r"$\downarrow$"}
_ESCAPES: dict[Format, dict[int, str]] = {
    "markdown": str.maketrans({"|": r"\|"}),
    "latex": str.maketrans(
        {sign: rf"\{sign}" for sign in "_&%#${}"}
        | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
    ),
}


def quality_text(table: pd.DataFrame, form: Format, *, by_patient: bool = False) -> str:
    """Mean (standard deviation) of DSC, MHD and NLL, one row a method.

    Args:
        table: from `evaluation.comparison.quality_table`.
        form: markup.
        by_patient: its test is of each patient's mean.
    """
    metrics = list(dict.fromkeys(table["metric"]))
    rows = []
    for method in dict.fromkeys(table["method"]):
        cells = [_name(str(method), form)]
        for metric in metrics:
            found = table[(table["method"] == method) & (table["metric"] == metric)].iloc[0]
            cells.append(_quality_cell(found, form))
        rows.append(cells)
    arrows = {metric: (_UP if more else _DOWN)[form] for metric, more in QUALITY.items()}
    header = ["method", *(f"{_TITLES[metric]} {arrows[metric]}" for metric in metrics)]
    note = f"Mean (standard deviation) of {_cases(table)}. Bold: the best."
    if (table["p_value"] < SIGNIFICANT).any():
        star = "$^*$" if form == "latex" else "\\*"
        test = "signed-rank test" + (" of the means of patients" if by_patient else "")
        note += (
            f" {star}: differs from the best (Wilcoxon's {test}, Holm's correction, "
            f"p < {SIGNIFICANT:g})."
        )
    return _table(header, rows, form) + _note(note, form)


def correlation_text(table: pd.DataFrame, form: Format) -> str:
    """Spearman of each score with DSC and MHD, one row a method and score.

    Bold: the strongest of those with the sign that the score's direction promises.

    Args:
        table: from `evaluation.comparison.correlation_table`.
        form: markup.
    """
    towards_quality = np.where(table["direction"] == "higher_is_better", 1, -1)
    signs = {"spearman_dice": towards_quality, "spearman_mhd": -towards_quality}
    strengths = pd.DataFrame({column: table[column] * sign for column, sign in signs.items()})
    is_best = (strengths == strengths.max()) & (strengths > 0)
    rows = []
    for number, row in table.iterrows():
        cells = [_name(str(row["method"]), form), _name(str(row["score"]), form)]
        for column in signs:
            text = _number(row[column])
            cells.append(_bold(text, form) if is_best.loc[number, column] else text)
        rows.append(cells)
    note = f"Spearman's rank correlation, {_cases(table)}. Bold: the strongest of the right sign."
    return _table(["method", "score", "DSC", "MHD"], rows, form) + _note(note, form)


def _quality_cell(row: pd.Series, form: Format) -> str:
    mean = _number(row["mean"])
    text = f"{_bold(mean, form) if row['is_best'] else mean} ({_number(row['std'])})"
    if row["p_value"] < SIGNIFICANT:
        text += "$^*$" if form == "latex" else "\\*"
    return text


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], form: Format) -> str:
    if form == "markdown":
        lines = [header, ["---"] * len(header), *rows]
        return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    body = [" & ".join(cells) + r" \\" for cells in rows]
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


def _cases(table: pd.DataFrame) -> str:
    """How many cases a table is about; not every figure may be defined in all of them."""
    counts = table["num_cases"][table["num_cases"] > 0]
    low, high = (int(counts.min()), int(counts.max())) if len(counts) else (0, 0)
    return f"{high} cases" if low == high else f"{low} to {high} cases"


def _note(text: str, form: Format) -> str:
    """A line below the table; in LaTeX a comment, to be used in the caption."""
    return f"% {text}\n" if form == "latex" else f"\n{text}\n"


def _name(text: str, form: Format) -> str:
    """A name that the markup shows as it is."""
    return text.translate(_ESCAPES[form])


def _bold(text: str, form: Format) -> str:
    return rf"\textbf{{{text}}}" if form == "latex" else f"**{text}**"


def _number(value: float) -> str:
    """Three decimals, for reading; the CSV has every digit. A dash where it is undefined."""
    return "-" if np.isnan(value) else f"{value:.3f}"
