"""How many of the first heads to leave out of AULA and of the fused segmentation.

Conventions:
    Heads run from shallow to deep; skipping s heads leaves the heads s, s + 1, ... A choice is made
    by the mean over folds of held-out cases (folds of whole patients), and changed from the simpler
    one only where the gain is larger than its standard error over folds or cases.

Metrics:
    AULA: Spearman's correlation with Dice (higher is better), or AURC with risk 1 - Dice (lower is
    better). Fused segmentation: mean Dice.

References:
    Kushibar et al. 2022, arXiv:2203.08878 (skipping shallow heads). Breiman et al. 1984 (the rule
    of one standard error).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

Criterion = Literal["spearman", "aurc"]


@dataclass(frozen=True)
class HeadSkip:
    """The choice, and the figures that led to it.

    Attributes:
        heads: names of the heads, shallow to deep.
        score_skip: first heads that AULA leaves out.
        fused_skip: first heads that the fused segmentation leaves out.
        default_fused_skip: the same without a calibration.
        criterion: by which ``score_skip`` was chosen.
        criterion_values: of each skip 0, 1, ..., mean over held-out folds; None where undefined.
        fused_dice: mean Dice of each fused skip 0, 1, ...
        num_cases: labelled cases.
    """

    heads: tuple[str, ...]
    score_skip: int
    fused_skip: int
    default_fused_skip: int
    criterion: Criterion
    criterion_values: tuple[float | None, ...]
    fused_dice: tuple[float, ...]
    num_cases: int


def fit_head_skip(
    heads: tuple[str, ...],
    *,
    agreements: Float[np.ndarray, "cases labels agreements"],
    dice: Float[np.ndarray, "cases"],
    fused_dice: Float[np.ndarray, "cases skips"],
    default_fused_skip: int,
    groups: Int[np.ndarray, "cases"],
    criterion: Criterion = "spearman",
) -> HeadSkip:
    """Choose both skips.

    Args:
        heads: names, shallow to deep.
        agreements: Dice of each head with the next for each label, as `layer_agreement` gives with
            nothing skipped; NaN rows (empty predictions) are left out.
        dice: mean Dice of the segmentation that AULA has to foretell.
        fused_dice: mean Dice of the heads ``s`` and deeper fused, s = 0, 1, ..., heads - 1.
        default_fused_skip: what is skipped without a calibration.
        groups: the number of each case's patient.
        criterion: how AULA is judged.

    Raises:
        InputError: shapes that do not fit together, or too few cases.
    """
    raise NotImplementedError
