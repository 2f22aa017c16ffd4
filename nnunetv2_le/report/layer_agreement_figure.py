"""The layer-agreement curve of one case, above each head's mask."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nnunetv2_le.errors import InputError
from nnunetv2_le.report.figure_files import COLOURS, as_written, new_figure, own_style
from nnunetv2_le.report.slices import aspect_of, slice_of
from nnunetv2_le.uncertainty.agreement import aula


@own_style()
def layer_agreement_figure(
    segmentations: Sequence[np.ndarray],
    agreements: Sequence[float],
    *,
    case: str,
    index: int,
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
    head_names: Sequence[str] | None = None,
) -> Figure:
    """Agreement of successive heads, and what each head segments in one slice.

    Args:
        segmentations: label map of each head (depth, height, width), shallow to deep.
        agreements: Dice of each head with the next, one less than heads; the last ones belong to
            the deepest heads.
        case: its name.
        index: slice along the first axis.
        spacing_mm: voxel size, for the aspect of the slice.
        head_names: of each head; without them heads are numbered.

    Raises:
        InputError: if there are no two heads or more agreements than gaps between them.
    """
    count = len(segmentations)
    if count < 2 or len(agreements) > count - 1:
        raise InputError(
            f"{case}: expected at least two heads and at most one agreement between two, "
            f"got {count} heads and {len(agreements)} agreements"
        )
    figure = new_figure(width=max(6.0, 1.4 * count), height=5)
    rows = figure.add_gridspec(2, count, height_ratios=(2, 1))
    names = [str(head + 1) for head in range(count)] if head_names is None else list(head_names)
    axes = figure.add_subplot(rows[0, :])
    _draw_curve(axes, agreements, case=case, count=count)
    axes.set_xticks(range(1, count + 1), names)
    highest = max(1, *(int(segmentation.max()) for segmentation in segmentations))
    for head, segmentation in enumerate(segmentations):
        panel = figure.add_subplot(rows[1, head])
        panel.imshow(
            slice_of(segmentation, index),
            vmin=0,
            vmax=highest,
            cmap="viridis",
            interpolation="nearest",
            aspect=aspect_of(spacing_mm),
        )
        panel.set_axis_off()
        panel.set_title(names[head], fontsize="small")
    return figure


def _draw_curve(axes: Axes, agreements: Sequence[float], *, case: str, count: int) -> None:
    """Agreement between neighbours, with the area below it in the title."""
    first = count - 1 - len(agreements)  # heads that were skipped
    axes.plot(np.arange(first, count - 1) + 1.5, agreements, "o-", color=COLOURS[0])
    axes.set_xlim(0.5, count + 0.5)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("head, shallow to deep")
    axes.set_ylabel("Dice of a head with the next")
    area = float(aula(np.asarray(agreements, dtype=np.float64)))
    title = as_written(case)
    axes.set_title(title if np.isnan(area) else f"{title}, AULA {area:.2f}", fontsize="medium")
