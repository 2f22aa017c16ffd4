"""What an evaluation says in a few lines: do the scores find the failures?"""

from collections.abc import Sequence

import pandas as pd

from nnunetv2_le.evaluation.confidence_tables import Score


def headline(score_table: pd.DataFrame, scores: Sequence[Score]) -> list[str]:
    """One line a score: its correlation with Dice and its AURC, beside the best and random one.

    Args:
        score_table: of the evaluation.
        scores: which scores, in this order.

    Returns:
        Lines of text; none without a score that is defined.
    """
    if not scores or "aurc" not in score_table.columns:  # no score is defined beside Dice
        return []
    whole = score_table[score_table["subset"] == "all"].set_index("score")
    rows = [
        (score.name, whole.loc[score.name])
        for score in scores
        if score.name in whole.index and pd.notna(whole.loc[score.name, "aurc"])
    ]
    if not rows:
        return []
    first, width = rows[0][1], max(len(name) for name, _ in rows)
    optimum = f"optimal {first['aurc_optimal']:.4f}, random {first['aurc_random']:.4f}"
    lines = [f"{'score':{width}}  Spearman with Dice  AURC ({optimum})"]
    lines += [
        f"{name:{width}}  {_number(row['spearman_dice'], 3):>18}  {_number(row['aurc'], 4)}"
        for name, row in rows
    ]
    return lines


def _number(value: float, digits: int) -> str:
    return "-" if pd.isna(value) else f"{value:.{digits}f}"
