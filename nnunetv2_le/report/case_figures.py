"""Figures of single cases.

Contours beside the uncertainty maps, and the layer-agreement curve with every head's mask.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from nnunetv2_le.errors import InputError
from nnunetv2_le.evaluation.cases import CaseFiles, require_name
from nnunetv2_le.evaluation.dataset import EvaluationDataset
from nnunetv2_le.evaluation.raters import consensus
from nnunetv2_le.evaluation.saved_probabilities import segmentation_of
from nnunetv2_le.evaluation.volumes import read_map, read_segmentation
from nnunetv2_le.report.case_figure import case_figure
from nnunetv2_le.report.figure_files import save_figure
from nnunetv2_le.report.layer_agreement_figure import layer_agreement_figure
from nnunetv2_le.report.slices import busiest_slice

_MAPS = ("entropy", "heads_variance", "heads_mutual_information")


def case_figures(
    files: CaseFiles,
    dataset: EvaluationDataset,
    folder: Path,
    *,
    image_folder: Path | None = None,
    dice: float | None = None,
) -> list[Path]:
    """Write the figures of a case that its files allow.

    Args:
        files: of the case.
        dataset: how they are read.
        folder: where to.
        image_folder: with CASE_0000 images, for the background.
        dice: of the case, for the title.

    Returns:
        The files written.

    Raises:
        InputError: if a file cannot be read or its shape does not fit.
    """
    segmentation = read_segmentation(files.prediction, dataset.reader)
    prediction, spacing = segmentation.labels, segmentation.grid.spacing_mm
    reference = _reference(files, dataset, prediction.shape)
    index = busiest_slice([reference, prediction])
    figure = case_figure(
        prediction,
        reference,
        _maps(files, dataset, prediction.shape),
        case=files.case,
        index=index,
        spacing_mm=spacing,
        image=_image(files, dataset, image_folder),
        dice=dice,
    )
    written = save_figure(figure, folder, f"case_{files.case}")
    agreements, names = _layer_agreement(files)
    if len(files.heads) > 1 and agreements:
        heads = [
            segmentation_of(head, dataset.labels, shape=prediction.shape) for head in files.heads
        ]
        figure = layer_agreement_figure(
            heads,
            agreements,
            case=files.case,
            index=index,
            spacing_mm=spacing,
            head_names=names if len(names) == len(heads) else None,
        )
        written += save_figure(figure, folder, f"layer_agreement_{files.case}")
    return written


def _reference(files: CaseFiles, dataset: EvaluationDataset, shape: tuple[int, ...]) -> np.ndarray:
    """The label, or the consensus of several raters."""
    raters = [read_segmentation(file, dataset.reader).labels for file in files.references]
    reference = raters[0] if len(raters) == 1 else consensus(raters)
    if reference.shape != shape:
        raise InputError(f"{files.case}: reference {reference.shape} and prediction {shape} differ")
    return reference


def _maps(
    files: CaseFiles, dataset: EvaluationDataset, shape: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """The uncertainty maps that predict wrote for the case."""
    maps = {}
    for name in _MAPS:
        file = files.prediction.parent / "uncertainty" / f"{files.case}_{name}.nii.gz"
        if file.is_file():
            maps[name] = read_map(file, dataset.reader, shape=shape)
    return maps


def _image(files: CaseFiles, dataset: EvaluationDataset, folder: Path | None) -> np.ndarray | None:
    if folder is None:
        return None
    file = folder / f"{files.case}_0000{dataset.file_ending}"
    require_name(file)
    try:
        image, _ = dataset.reader.read_images([str(file)])
    except Exception as error:  # every reader raises its own
        raise InputError(f"the image {file} cannot be read") from error
    return np.asarray(image[0])


def _layer_agreement(files: CaseFiles) -> tuple[list[float], list[str]]:
    """Curve and heads of the case's record; an empty curve without one or where it is undefined."""
    record = files.prediction.parent / "cases" / f"{files.case}.json"
    if not record.is_file():
        return [], []
    content: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    curve = content.get("layer_agreement") or []
    names = list((content.get("members") or {}).get("heads", []))
    return ([] if any(value is None for value in curve) else [float(a) for a in curve]), names
