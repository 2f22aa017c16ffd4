"""What if the first heads were skipped? Likelihood, Dice and AULA against their number.

Conventions:
    Heads are ordered shallow to deep. Skipping k leaves heads k, k + 1, ...; the fused probability
    is their mean. A case's heads come from anything that has a length and gives head i's
    probabilities (channels, depth, height, width): files (`SavedHeads`), a list of arrays, or a
    predictor. They are asked for once each, deepest first, so two volumes are held.

Metrics:
    NLL of the fused probability (`calibration_error`; voxels whose reference is no known label do
    not count), Dice of its segmentation (`overlap`), AULA of the heads that are left
    (`uncertainty.agreement`; of regions each head's masks, p > 1/2, and not the label map that they
    paint over each other), and over cases the means, standard deviations and Spearman of AULA with
    Dice.

References:
    Kushibar et al. 2022, arXiv:2203.08878, fig. 3 (effect of skipping segmentation heads).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from nnunetv2_le.errors import CaseError, InputError
from nnunetv2_le.evaluation.calibration_error import CalibrationHistogram
from nnunetv2_le.evaluation.cases import CaseFiles, Problem
from nnunetv2_le.evaluation.correlation import spearman
from nnunetv2_le.evaluation.dataset import EvaluationDataset
from nnunetv2_le.evaluation.overlap import confusion, joint_histogram, label_mask
from nnunetv2_le.evaluation.raters import consensus
from nnunetv2_le.evaluation.saved_probabilities import decided, iterate_slabs
from nnunetv2_le.evaluation.volumes import read_segmentation
from nnunetv2_le.types import Labels
from nnunetv2_le.uncertainty.agreement import aula, aula_normalized


@runtime_checkable
class HeadProbabilities(Protocol):
    """The heads of one case, shallow to deep."""

    def __len__(self) -> int:
        """How many heads there are."""

    def __getitem__(self, head: int, /) -> np.ndarray:
        """Probabilities of a head, on the grid of the reference."""


@dataclass(frozen=True)
class SavedHeads:
    """Heads that predict saved (``--save_heads``), read when asked for.

    Attributes:
        files: one file a head, shallow to deep.
        shape: of the case's segmentation.
    """

    files: tuple[Path, ...]
    shape: tuple[int, ...]

    def __len__(self) -> int:
        """Number of files."""
        return len(self.files)

    def __getitem__(self, head: int, /) -> np.ndarray:
        """Read one head."""
        slabs = [part for _, part in iterate_slabs(self.files[head], shape=self.shape)]
        return np.concatenate(slabs, axis=1)


@dataclass(frozen=True)
class HeadCase:
    """A case with its heads and its reference.

    Attributes:
        case: its name.
        heads: probabilities of its heads.
        reference: label map on the heads' grid.
    """

    case: str
    heads: HeadProbabilities | Sequence[np.ndarray]
    reference: Int[np.ndarray, "depth height width"]


def saved_head_cases(files: Iterable[CaseFiles], dataset: EvaluationDataset) -> Iterator[HeadCase]:
    """The cases of a prediction with ``--save_heads``, read one after another.

    Args:
        files: of the cases.
        dataset: how they are read.

    Raises:
        InputError: if a reference or a head cannot be read.
    """
    for one in files:
        raters = [read_segmentation(file, dataset.reader).labels for file in one.references]
        reference = raters[0] if len(raters) == 1 else consensus(raters)
        yield HeadCase(one.case, SavedHeads(one.heads, reference.shape), reference)


def skip_heads_per_case(
    cases: Iterable[HeadCase], labels: Labels, *, ignore_label: int | None = None
) -> pd.DataFrame:
    """Figures of every case and every number of skipped heads.

    Args:
        cases: one after another; nothing of a case is kept.
        labels: what the channels mean.
        ignore_label: voxels with this reference value count nowhere.

    Returns:
        Columns ``case``, ``skipped``, ``nll``, ``dice``, ``aula``, ``aula_normalized``; AULA is NaN
        where every head that is left is empty, and so is their mean.

    Raises:
        InputError: if a case has no head or its heads do not fit the reference.
    """
    rows = []
    for case in cases:
        rows += _case_rows(case, labels, ignore_label)
    return pd.DataFrame(rows)


def skip_heads_of_each(
    files: Sequence[CaseFiles],
    read: Callable[[Sequence[CaseFiles]], Iterable[HeadCase]],
    labels: Labels,
    *,
    ignore_label: int | None = None,
) -> tuple[pd.DataFrame, list[Problem]]:
    """The same from files; a case whose heads cannot be had is left out.

    Args:
        files: of the cases.
        read: gives the heads and the reference of a case.
        labels: what the channels mean.
        ignore_label: voxels with this reference value count nowhere.

    Returns:
        The figures, and the cases that were left out and why.

    Raises:
        InputError: if no case is left.
    """
    parts, problems = [], []
    for one in files:
        try:
            parts.append(skip_heads_per_case(read([one]), labels, ignore_label=ignore_label))
        except (InputError, CaseError) as error:
            problems.append(Problem(one.case, str(error)))
    if not parts:
        first = f"; the first: {problems[0].problem}" if problems else ""
        raise InputError(f"none of {len(files)} cases has heads that can be skipped{first}")
    return pd.concat(parts, ignore_index=True), problems


def skip_heads_table(per_case: pd.DataFrame) -> pd.DataFrame:
    """Summary over cases for every number of skipped heads.

    Args:
        per_case: from `skip_heads_per_case`.

    Returns:
        Columns ``skipped``, ``num_cases``, ``nll_mean``, ``nll_std``, ``dice_mean``, ``dice_std``,
        ``aula_dice_spearman``.
    """
    rows = []
    for skipped, group in per_case.groupby("skipped"):
        rows.append(
            {
                "skipped": skipped,
                "num_cases": len(group),
                "nll_mean": group["nll"].mean(),
                "nll_std": group["nll"].std(),
                "dice_mean": group["dice"].mean(),
                "dice_std": group["dice"].std(),
                "aula_dice_spearman": spearman(
                    group["aula_normalized"].to_numpy(float), group["dice"].to_numpy(float)
                ),
            }
        )
    return pd.DataFrame(rows)


def _case_rows(
    case: HeadCase, labels: Labels, ignore_label: int | None
) -> list[dict[str, float | str]]:
    count = len(case.heads)
    if not count:
        raise InputError(f"{case.case} has no heads; predict with --save_heads")
    total: np.ndarray | None = None
    agreements: list[np.ndarray] = []  # of the heads that are left, deepest first
    deeper: np.ndarray | None = None
    is_empty = True  # no head that is left found anything
    rows: list[dict[str, float | str]] = []
    for head in reversed(range(count)):
        probabilities = case.heads[head]
        if probabilities.shape != (labels.num_channels, *case.reference.shape):
            raise InputError(
                f"{case.case}: head {head} has shape {probabilities.shape}, expected "
                f"{(labels.num_channels, *case.reference.shape)}"
            )
        total = probabilities.astype(np.float64) if total is None else total + probabilities
        found = _found(probabilities, labels)
        if deeper is not None:
            agreements.append(_agreement(found, deeper, labels))
        deeper = found
        fused = total / (count - head)
        is_empty = is_empty and not found.any()
        curve = np.array(agreements[::-1]).reshape(len(agreements), len(labels.values)).T
        if is_empty and not _found(fused, labels).any():  # they agree on nothing
            curve = np.full_like(curve, np.nan)
        rows.append(
            {
                "case": case.case,
                "skipped": head,
                "nll": _nll(fused, case.reference, labels, ignore_label),
                "dice": _dice(decided(fused, labels), case.reference, labels, ignore_label),
                "aula": float(aula(curve).mean()),
                "aula_normalized": float(aula_normalized(curve).mean()),
            }
        )
    return rows[::-1]


def _found(probabilities: np.ndarray, labels: Labels) -> np.ndarray:
    """What probabilities find: a label map, or one mask a region."""
    return probabilities > 0.5 if labels.has_regions else decided(probabilities, labels)


def _agreement(one: np.ndarray, other: np.ndarray, labels: Labels) -> Float[np.ndarray, "labels"]:
    """Dice of what two heads found for each label or region; 1 where both are empty."""
    if labels.has_regions:
        masks = zip(one.astype(np.int32), other.astype(np.int32), strict=True)
        dice = np.array([confusion(joint_histogram(*pair), 1).dice for pair in masks])
    else:
        histogram = joint_histogram(one, other)
        dice = np.array([confusion(histogram, label).dice for label in labels.values])
    return np.where(np.isnan(dice), 1.0, dice)


def _nll(
    fused: np.ndarray, reference: np.ndarray, labels: Labels, ignore_label: int | None
) -> float:
    histogram = CalibrationHistogram(labels.num_channels, has_regions=labels.has_regions)
    kept = np.isin(reference, [0, *np.concatenate([np.atleast_1d(v) for v in labels.values])])
    if ignore_label is not None:
        kept &= reference != ignore_label
    truth = (
        np.stack([label_mask(reference, value) for value in labels.values])
        if labels.has_regions
        else reference
    )
    histogram.add(fused[:, kept], truth[..., kept])
    return histogram.figures().nll


def _dice(
    segmentation: np.ndarray, reference: np.ndarray, labels: Labels, ignore_label: int | None
) -> float:
    histogram = joint_histogram(reference, segmentation)
    dice = [confusion(histogram, v, ignore_label=ignore_label).dice for v in labels.values]
    defined = [value for value in dice if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")
