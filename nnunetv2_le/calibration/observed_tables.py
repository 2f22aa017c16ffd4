"""All observed cases side by side: the tables that fits take."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from nnunetv2_le.calibration.cases import CalibrationCases, LabelCases
from nnunetv2_le.calibration.contours import BoundaryDistances
from nnunetv2_le.calibration.head_skip import HeadSkip
from nnunetv2_le.calibration.observed_case import FUSED, ObservedCase
from nnunetv2_le.calibration.prediction_sets import CaseCurve, case_curve
from nnunetv2_le.calibration.temperature import Temperature
from nnunetv2_le.calibration.vector_scaling import VectorScaling
from nnunetv2_le.types import Labels
from nnunetv2_le.uncertainty.agreement import aula, aula_normalized
from nnunetv2_le.uncertainty.probabilities import probabilities


def case_table(
    observed: Sequence[ObservedCase],
    labels: Labels,
    *,
    groups: Sequence[str] = (),
    head_skip: HeadSkip | None = None,
) -> CalibrationCases:
    """Scores and Dice of all cases, AULA as it is with the heads that are left."""
    skip = 0 if head_skip is None else head_skip.score_skip
    case_rows, label_rows = [], []
    for case in observed:
        by_label = _aula(case.agreements[:, skip:])
        means = {name: float(values.mean()) for name, values in by_label.items()}
        case_rows.append(case.scores | means)
        label_rows.append(
            {
                name: case.label_scores[name] | {c: float(v[n]) for c, v in by_label.items()}
                for n, name in enumerate(labels.names)
            }
        )
    return CalibrationCases(
        cases=tuple(case.case for case in observed),
        case=LabelCases(_columns(case_rows), np.array([case.dice for case in observed])),
        labels={
            name: LabelCases(
                _columns([row[name] for row in label_rows]),
                np.array([case.label_dice[n] for case in observed]),
            )
            for n, name in enumerate(labels.names)
        },
        groups=tuple(groups),
    )


def set_curves(
    observed: Sequence[ObservedCase],
    labels: Labels,
    *,
    temperature: Temperature,
    vector: VectorScaling | None,
) -> list[CaseCurve]:
    """What each case says of every threshold of the prediction sets."""
    curves = []
    for case in observed:
        logits = case.logits[-1].astype(np.float32)
        if vector is not None and vector.is_used:
            scaled = vector.apply(logits)
        else:
            scaled = logits / np.float32(temperature.of(FUSED))
        share = probabilities(torch.from_numpy(scaled)[None], has_regions=labels.has_regions)[0]
        curves.append(case_curve(share.numpy(), case.truth, has_regions=labels.has_regions))
    return curves


def boundary_table(
    observed: Sequence[ObservedCase], labels: Labels
) -> dict[str, Sequence[BoundaryDistances]]:
    """Distances between the boundaries of every label in every case."""
    return {
        name: [
            BoundaryDistances(float(c.outer_mm[n]), float(c.inner_mm[n]), c.contour_share)
            for c in observed
        ]
        for n, name in enumerate(labels.names)
    }


def _aula(curves: Float[np.ndarray, "labels agreements"]) -> dict[str, np.ndarray]:
    if not curves.shape[1]:
        return {}
    return {"aula": aula(curves), "aula_normalized": aula_normalized(curves)}


def _columns(rows: Sequence[dict[str, float]]) -> dict[str, np.ndarray]:
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}
