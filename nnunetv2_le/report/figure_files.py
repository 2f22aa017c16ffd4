"""What all figures share: a canvas without global state, colours, and files in PNG and PDF.

Figures are made without pyplot, so nothing is left open and no display is needed.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib import colormaps, rc_context, style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nnunetv2_le.errors import OutputError

PNG_DPI = 150
FORMATS = ("png", "pdf")
COLOURS = tuple(colormaps["tab10"](number)[:3] for number in range(10))
REFERENCE_COLOUR = "0.4"
MARKERS = "o^sDvPX"  # no divisor of the number of colours: seventy looks before one comes again

_TWO_COLUMNS = 36  # characters that half the usual width has room for
_LEGEND_ROW = 0.2  # inches


@contextmanager
def own_style() -> Iterator[None]:
    """Matplotlib's default style, whatever the process was set to; decorates what draws.

    nnU-Net sets large fonts for the whole process when a training draws its progress.
    """
    with style.context("default"):
        yield


def new_figure(*, width: float = 6.0, height: float = 4.5) -> Figure:
    """An empty figure; sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def new_axes(*, width: float = 6.0, height: float = 4.5) -> tuple[Figure, Axes]:
    """A figure with one pair of axes."""
    figure = new_figure(width=width, height=height)
    return figure, figure.add_subplot()


def as_written(name: str) -> str:
    """A user's name as text of a figure: no formula between dollar signs, and never left out.

    Matplotlib leaves names that start with an underscore out of legends.
    """
    name = name.replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name


def legend_below(figure: Figure, axes: Axes) -> None:
    """Name the curves below the axes, where the legend covers none of them; each name once.

    The figure grows by the height of the legend.
    """
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    columns = 2 if max(map(len, unique), default=0) <= _TWO_COLUMNS else 1
    figure.set_figheight(figure.get_figheight() + _LEGEND_ROW * math.ceil(len(unique) / columns))
    figure.legend(
        list(unique.values()),
        list(unique),
        loc="outside lower center",
        ncols=columns,
        fontsize="small",
        frameon=False,
    )


def colour(number: int) -> tuple[float, float, float]:
    """The n-th colour of a figure's curves, in order, again from the start after ten."""
    return COLOURS[number % len(COLOURS)]


def curve_style(number: int) -> dict[str, Any]:
    """How the n-th curve of a figure looks: told apart without colours, and where curves coincide.

    Open marks stand about a tenth of the figure apart, those of the next curve a little further on.
    """
    return {
        "color": colour(number),
        "marker": MARKERS[number % len(MARKERS)],
        "fillstyle": "none",
        "markersize": 5 + number % 3,
        "markevery": (0.02 * (number % 5), 0.1),
    }


@own_style()
def save_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as NAME.png and NAME.pdf; the same figure gives the same bytes.

    Args:
        figure: to write.
        folder: where to.
        name: without ending.

    Raises:
        OutputError: if it cannot be written.
    """
    files = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with rc_context({"pdf.fonttype": 42}):  # editable text instead of outlines
            for ending in FORMATS:
                file = folder / f"{name}.{ending}"
                metadata = {"CreationDate": None} if ending == "pdf" else {}
                figure.savefig(file, dpi=PNG_DPI, metadata=metadata)
                files.append(file)
    except OSError as error:
        raise OutputError(f"{folder} cannot take the figure {name}: {error}") from error
    return files
