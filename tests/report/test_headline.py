"""The lines that an evaluation ends with."""

import numpy as np
import pandas as pd

from nnunetv2_le.evaluation.confidence_tables import Score
from nnunetv2_le.report.headline import headline

TABLE = pd.DataFrame(
    [
        ("all", "aula", 0.5, 0.2, 0.1, 0.3),
        ("all", "entropy", np.nan, 0.25, 0.1, 0.3),
        ("all", "undefined", np.nan, np.nan, 0.1, 0.3),
        ("label=1", "aula", 0.9, 0.01, 0.1, 0.3),
    ],
    columns=["subset", "score", "spearman_dice", "aurc", "aurc_optimal", "aurc_random"],
)


def _scores(*names):
    return [Score(name, "higher_is_better") for name in names]


def test_each_score_has_a_line_over_all_cases():
    assert headline(TABLE, _scores("aula", "entropy", "undefined", "absent")) == [
        "score    Spearman with Dice  AURC (optimal 0.1000, random 0.3000)",
        "aula                  0.500  0.2000",
        "entropy                   -  0.2500",
    ]


def test_without_scores_nothing_is_said():
    assert headline(TABLE, []) == []
    assert headline(pd.DataFrame(), _scores("aula")) == []
    without = TABLE.drop(columns=["aurc", "aurc_optimal", "aurc_random"])
    assert headline(without, _scores("aula")) == []
    assert headline(TABLE, _scores("undefined")) == []
