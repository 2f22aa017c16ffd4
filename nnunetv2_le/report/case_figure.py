"""One slice of a case: image, contours of reference and prediction, uncertainty maps beside it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nnunetv2_le.report.figure_files import as_written, new_figure, own_style
from nnunetv2_le.report.slices import aspect_of, slice_of

_REFERENCE: dict[str, Any] = {"color": "lime", "linestyle": "solid"}
_PREDICTION: dict[str, Any] = {"color": "red", "linestyle": "dashed"}  # not told by colour alone


@own_style()
def case_figure(
    prediction: np.ndarray,
    reference: np.ndarray,
    maps: Mapping[str, np.ndarray],
    *,
    case: str,
    index: int,
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
    image: np.ndarray | None = None,
    dice: float | None = None,
) -> Figure:
    """Contours on the image (black without one), and on every map.

    Args:
        prediction: label map (depth, height, width).
        reference: label map of the same shape.
        maps: name to voxel map of the same shape: entropy, variance, mutual information.
        case: its name.
        index: slice along the first axis.
        spacing_mm: voxel size.
        image: the image, if it is at hand.
        dice: of the whole case, for the title.
    """
    background = np.zeros(prediction.shape) if image is None else image
    title = "segmentation" if image is None else "image"
    panels: dict[str, np.ndarray] = {title: background, **maps}
    figure = new_figure(width=3.2 * len(panels), height=3.8)
    for axes, (name, volume) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        is_map = name in maps
        shown = axes.imshow(
            slice_of(volume, index),
            cmap="magma" if is_map else "gray",
            aspect=aspect_of(spacing_mm),
            interpolation="nearest",
        )
        if is_map:
            figure.colorbar(shown, ax=axes, shrink=0.7)
        _contours(axes, slice_of(reference, index), _REFERENCE)
        _contours(axes, slice_of(prediction, index), _PREDICTION)
        axes.set_axis_off()
        axes.set_title(name, fontsize="small")
    title = as_written(case) + ("" if dice is None else f", Dice {dice:.3f}")
    figure.suptitle(f"{title}, slice {index + 1} of {len(prediction)}", fontsize="medium")
    handles = [
        Line2D([], [], **_REFERENCE, label="reference"),
        Line2D([], [], **_PREDICTION, label="prediction"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize="small")
    return figure


def _contours(axes: Axes, labels: np.ndarray, style: Mapping[str, str]) -> None:
    """The outline of every label; nothing for one that fills the slice or is not in it."""
    for value in np.unique(labels[labels != 0]):
        mask = labels == value
        if not mask.all() and min(mask.shape) > 1:
            shade, stroke = style["color"], style["linestyle"]
            axes.contour(mask, levels=[0.5], colors=shade, linestyles=stroke, linewidths=1)
