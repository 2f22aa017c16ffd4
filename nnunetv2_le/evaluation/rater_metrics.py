"""The figures of a case with several raters, from its files.

Members are the saved heads (``--save_heads``); the entropy map is the one that predict wrote or,
without it, the entropy of the saved probabilities. Voxels that any rater ignores count nowhere.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.special import entr

from nnunetv2_le.errors import InputError
from nnunetv2_le.evaluation.cases import CaseFiles
from nnunetv2_le.evaluation.dataset import EvaluationDataset
from nnunetv2_le.evaluation.overlap import confusion, joint_histogram
from nnunetv2_le.evaluation.raters import generalized_energy_distance, rater_disagreement
from nnunetv2_le.evaluation.saved_probabilities import iterate_slabs, segmentation_of
from nnunetv2_le.evaluation.volumes import read_map
from nnunetv2_le.types import Labels


def rater_figures(
    files: CaseFiles,
    raters: Sequence[np.ndarray],
    prediction: np.ndarray,
    dataset: EvaluationDataset,
) -> tuple[dict[str, float], list[str]]:
    """Figures of a case against all its raters, and what could not be computed.

    Args:
        files: of the case.
        raters: label maps.
        prediction: label map of the fused segmentation.
        dataset: its labels.

    Returns:
        ``num_raters``, ``mean_rater_dice`` (of the prediction with each rater),
        ``rater_pairwise_dice``; with heads ``energy_distance_squared`` and its terms; with an
        entropy map its correlation with the raters' disagreement over all voxels.
    """
    counted = _counted(raters, dataset.ignore_label)
    flat = [rater.reshape(-1)[counted] for rater in raters]
    if not flat[0].size:
        return {"num_raters": len(raters)}, ["its raters ignore every voxel between them"]
    predicted, *found = _where_found([prediction.reshape(-1)[counted], *flat])
    figures: dict[str, float] = {
        "num_raters": len(raters),
        "mean_rater_dice": _mean_dice([(rater, predicted) for rater in found], dataset.labels),
        "rater_pairwise_dice": _mean_dice(
            [(found[i], found[j]) for i in range(len(found)) for j in range(i)], dataset.labels
        ),
    }
    problems = []
    try:
        members = [
            segmentation_of(head, dataset.labels, shape=prediction.shape).reshape(-1)[counted]
            for head in files.heads
        ]
        figures |= _energy(members, flat, dataset.labels)
    except InputError as error:
        problems.append(f"its heads are left out: {error}")
    try:
        entropy = _entropy(files, prediction.shape, dataset)
    except InputError as error:
        problems.append(f"its entropy map is left out: {error}")
        entropy = None
    if entropy is not None:
        # scipy.stats takes longer to import than many cases to evaluate
        from nnunetv2_le.evaluation.correlation import pearson, spearman  # noqa: PLC0415

        disagreement = rater_disagreement(flat)
        figures["entropy_disagreement_pearson"] = pearson(entropy[counted], disagreement)
        figures["entropy_disagreement_spearman"] = spearman(entropy[counted], disagreement)
    return figures, problems


def _counted(raters: Sequence[np.ndarray], ignore_label: int | None) -> np.ndarray | slice:
    """The voxels, flat, that no rater ignores."""
    if ignore_label is None:
        return slice(None)
    return np.asarray(np.all([rater.reshape(-1) != ignore_label for rater in raters], axis=0))


def _where_found(label_maps: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The same maps without the voxels that are background in all of them: no overlap needs these.

    One voxel is always left.
    """
    anywhere = np.zeros(len(label_maps[0]), dtype=bool)
    anywhere[0] = True
    for one in label_maps:
        anywhere |= one != 0
    return [one[anywhere] for one in label_maps]


def _energy(
    members: Sequence[np.ndarray], raters: Sequence[np.ndarray], labels: Labels
) -> dict[str, float]:
    if not members:
        return {}
    found = _where_found([*members, *raters])
    energy = generalized_energy_distance(
        found[: len(members)], found[len(members) :], labels=labels.values
    )
    return {
        "energy_distance_squared": energy.squared,
        "energy_member_rater": energy.member_rater,
        "energy_member_diversity": energy.member_diversity,
        "energy_rater_diversity": energy.rater_diversity,
    }


def _entropy(
    files: CaseFiles, shape: tuple[int, ...], dataset: EvaluationDataset
) -> Float[np.ndarray, "voxels"] | None:
    """The entropy of every voxel, flat; None where neither map nor probabilities were saved.

    As the map that predict writes: of regions the mean over them of in and out.
    """
    if files.entropy is not None:
        return read_map(files.entropy, dataset.reader, shape=shape).ravel().astype(float)
    if files.probabilities is None:
        return None
    has_regions = dataset.labels.has_regions
    pieces = [
        ((entr(p) + entr(1 - p)).mean(axis=0) if has_regions else entr(p).sum(axis=0)).ravel()
        for _, p in iterate_slabs(files.probabilities, shape=shape)
    ]
    return np.concatenate(pieces).astype(float)


def _mean_dice(pairs: Sequence[tuple[np.ndarray, np.ndarray]], labels: Labels) -> float:
    """Over the labels of each pair where Dice is defined, then over the pairs that have one."""
    of_pairs = []
    for one, other in pairs:
        histogram = joint_histogram(one, other)
        of_pairs.append(_mean([confusion(histogram, label).dice for label in labels.values]))
    return _mean(of_pairs)


def _mean(values: Sequence[float]) -> float:
    """Of what is defined; NaN where nothing is."""
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")
