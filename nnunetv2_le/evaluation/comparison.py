"""Methods side by side, on the cases that all of them have.

Conventions:
    Figures are paired by case: a case that one method lacks counts for none. Quality is compared
    with the best method's by Wilcoxon's signed-rank test, p-values corrected for the number of
    methods (Holm); where a column names patients, of each patient's mean, because cases of one
    patient are not independent. Scores are compared on the same bootstrap draws.

Metrics:
    mean and standard deviation (n - 1) of Dice, MHD and NLL; Spearman of each score with Dice and
    MHD; differences of AURC, excess AURC and AUGRC.

References:
    Kushibar et al. 2022, arXiv:2203.08878, tables 1 and 2. Holm 1979, "A simple sequentially
    rejective multiple test procedure". SciPy (`wilcoxon`).
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from nnunetv2_le.errors import InputError
from nnunetv2_le.evaluation.bootstrap import paired_difference
from nnunetv2_le.evaluation.confidence_tables import Score, numbers, ranked_confidences
from nnunetv2_le.evaluation.correlation import MIN_CASES, spearman
from nnunetv2_le.evaluation.evaluate import Evaluation
from nnunetv2_le.evaluation.failure_detection import augrc, aurc, excess_aurc
from nnunetv2_le.evaluation.method import MethodSettings, given_column, method_draws

QUALITY = {"dice": True, "modified_hausdorff_mm": False, "nll": False}  # whether more is better
_QUALITY_COLUMNS = ["method", "metric", "num_cases", "mean", "std", "is_best", "p_value"]
_CORRELATION_COLUMNS = [
    "method",
    "score",
    "direction",
    "num_cases",
    "spearman_dice",
    "spearman_mhd",
]
_DIFFERENCE_COLUMNS = [
    *("method_a", "method_b", "score", "metric", "num_cases"),
    *("difference", "low", "high", "p_value"),
]
_FIGURES = {"aurc": aurc, "excess_aurc": excess_aurc, "augrc": augrc}


def common_cases(methods: Mapping[str, pd.DataFrame]) -> list[str]:
    """The cases of all methods, in the order of the first.

    Raises:
        InputError: if the methods have no case in common.
    """
    frames = list(methods.values())
    shared = [
        str(case) for case in frames[0].index if all(case in frame.index for frame in frames[1:])
    ]
    if not shared:
        counts = ", ".join(f"{name}: {len(frame)}" for name, frame in methods.items())
        raise InputError(f"the methods have no case in common ({counts} cases)")
    return shared


def quality_table(
    methods: Mapping[str, pd.DataFrame], *, patient_column: str | None = None
) -> pd.DataFrame:
    """Mean and standard deviation of Dice, MHD and NLL of each method, tested against the best.

    Args:
        methods: name to one row a case.
        patient_column: of the case table; None: every case is a patient.

    Returns:
        Columns ``method``, ``metric``, ``num_cases`` (defined for every method), ``mean``, ``std``,
        ``is_best``, ``p_value`` (Wilcoxon against the best, Holm-corrected).
    """
    cases = common_cases(methods)
    patients = _patients(next(iter(methods.values())).loc[cases], patient_column)
    rows = []
    for metric, more_is_better in QUALITY.items():
        values = np.stack([numbers(frame.loc[cases], metric) for frame in methods.values()])
        defined = np.isfinite(values).all(axis=0)
        values = values[:, defined]
        if not values.shape[1]:
            continue
        means = values.mean(axis=1)
        best = int(means.argmax() if more_is_better else means.argmin())
        others = [i for i in range(len(values)) if i != best]
        tested = pd.DataFrame(values.T).groupby(patients[defined]).mean().to_numpy().T
        corrected = holm([wilcoxon(tested[i], tested[best]) for i in others])
        p_values = dict(zip(others, corrected, strict=True))
        for i, name in enumerate(methods):
            rows.append(
                {
                    "method": name,
                    "metric": metric,
                    "num_cases": values.shape[1],
                    "mean": float(means[i]),
                    "std": float(values[i].std(ddof=1)) if values.shape[1] > 1 else float("nan"),
                    "is_best": i == best,
                    "p_value": p_values.get(i, float("nan")),
                }
            )
    return pd.DataFrame(rows, columns=_QUALITY_COLUMNS)


def correlation_table(methods: Mapping[str, Evaluation]) -> pd.DataFrame:
    """Spearman of each method's scores with Dice and MHD, on the cases that all methods have.

    ``num_cases`` have the score and Dice.
    """
    cases = common_cases({name: method.cases for name, method in methods.items()})
    rows = []
    for name, method in methods.items():
        frame = method.cases.loc[cases]
        for score in method.scores:
            values, dice = numbers(frame, score.name), numbers(frame, "dice")
            rows.append(
                {
                    "method": name,
                    "score": score.name,
                    "direction": score.direction,
                    "num_cases": int((np.isfinite(values) & np.isfinite(dice)).sum()),
                    "spearman_dice": spearman(values, dice),
                    "spearman_mhd": spearman(values, numbers(frame, "modified_hausdorff_mm")),
                }
            )
    return pd.DataFrame(rows, columns=_CORRELATION_COLUMNS)


def difference_table(methods: Mapping[str, Evaluation], settings: MethodSettings) -> pd.DataFrame:
    """Differences of failure detection between every two methods, for each score both have.

    Args:
        methods: name to evaluation.
        settings: draws, seed, patients.

    Returns:
        Columns ``method_a``, ``method_b``, ``score``, ``metric``, ``num_cases``, ``difference`` (a
        - b), ``low``, ``high``, ``p_value`` (two-sided, Holm-corrected over pairs of methods for
        each score and metric).
    """
    cases = common_cases({name: method.cases for name, method in methods.items()})
    rows = []
    for name_a, name_b in combinations(methods, 2):
        for score in methods[name_a].scores:
            if score in methods[name_b].scores:
                frames = [methods[name].cases.loc[cases] for name in (name_a, name_b)]
                rows += [
                    {"method_a": name_a, "method_b": name_b, "score": score.name, **row}
                    for row in _differences(frames, score, settings)
                ]
    table = pd.DataFrame(rows, columns=_DIFFERENCE_COLUMNS)
    if len(table):
        groups = table.groupby(["score", "metric"])["p_value"]
        table["p_value"] = groups.transform(lambda values: holm(list(values)))
    return table


def wilcoxon(one: Float[np.ndarray, "cases"], other: Float[np.ndarray, "cases"]) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test; 1 if equal, NaN below three cases."""
    if len(one) < MIN_CASES:
        return float("nan")
    if np.array_equal(one, other):
        return 1.0
    return float(stats.wilcoxon(one, other).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction: the i-th smallest of m p-values times m - i + 1, at most 1.

    Undefined p-values stay undefined and are not counted.
    """
    values = np.asarray(p_values, dtype=float)
    corrected = np.full(len(values), np.nan)
    defined = np.flatnonzero(np.isfinite(values))
    order = defined[np.argsort(values[defined], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1)
    return [float(value) for value in corrected]


def _patients(frame: pd.DataFrame, column: str | None) -> np.ndarray:
    """The patient of each case."""
    if column is None:
        return np.arange(len(frame))
    return np.asarray(frame[given_column(frame, column)].astype(str))


def _differences(
    frames: Sequence[pd.DataFrame], score: Score, settings: MethodSettings
) -> list[dict[str, object]]:
    columns = [numbers(frame, "dice") for frame in frames]
    columns += [ranked_confidences(frame, score) for frame in frames]
    defined = np.isfinite(columns).all(axis=0)
    if defined.sum() < MIN_CASES or not settings.num_draws:
        return []
    frames = [frame[defined] for frame in frames]
    draws = [method_draws(frame, score, settings) for frame in frames]
    rows: list[dict[str, object]] = []
    for name, figure in _FIGURES.items():
        values = [
            figure(1 - numbers(frame, "dice"), ranked_confidences(frame, score)) for frame in frames
        ]
        result = paired_difference(
            values[0], values[1], draws_a=draws[0][name], draws_b=draws[1][name]
        )
        rows.append(
            {
                "metric": name,
                "num_cases": int(defined.sum()),
                "difference": result.difference,
                "low": result.interval.low,
                "high": result.interval.high,
                "p_value": result.p_value,
            }
        )
    return rows
