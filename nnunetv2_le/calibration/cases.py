"""The labelled cases that everything is fitted on, as one typed table.

Conventions:
    One entry a case in every array. Dice lies in [0, 1]; NaN where reference and prediction are
    both empty. A score is NaN where it is undefined (an empty prediction has no agreement). Cases
    of one group (a patient) are not independent of each other: whatever is split, is split by
    groups.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int

from nnunetv2_le.errors import InputError


@dataclass(frozen=True)
class LabelCases:
    """Scores and Dice of one label (or of the case as a whole) in every case.

    Attributes:
        scores: column name to one value a case.
        dice: Dice of each case; of the case as a whole the mean over its labels.
    """

    scores: Mapping[str, Float[np.ndarray, "..."]]
    dice: Float[np.ndarray, "cases"]


@dataclass(frozen=True)
class CalibrationCases:
    """Labelled cases that no model was trained on which predicted them.

    Attributes:
        cases: their names.
        case: scores (columns of ``uncertainty.csv``) and mean Dice of each case.
        labels: the same for each label, by its name.
        groups: the patient of each case; empty: every case is a patient of its own.
    """

    cases: tuple[str, ...]
    case: LabelCases
    labels: Mapping[str, LabelCases] = field(default_factory=dict)
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a table whose columns differ in length.

        Raises:
            InputError: if a column, or the groups, do not have one entry a case.
        """
        number = len(self.cases)
        if self.groups and len(self.groups) != number:
            raise InputError(
                f"expected a group for each of {number} cases, got {len(self.groups)}; name the "
                "patient of every case, or of none"
            )
        for name, table in {"the case": self.case, **self.labels}.items():
            for column, values in {"dice": table.dice, **table.scores}.items():
                if np.shape(values) != (number,):
                    raise InputError(
                        f"expected {number} values of {column} for {name}, one a case, got shape "
                        f"{np.shape(values)}"
                    )

    @property
    def group_numbers(self) -> Int[np.ndarray, "cases"]:
        """The number of each case's group."""
        return group_numbers(self.groups, len(self.cases))

    def subset(
        self, chosen: Int[np.ndarray, "chosen"] | Bool[np.ndarray, "cases"]
    ) -> "CalibrationCases":
        """Some of the cases, by their numbers or by a mask."""
        numbers = np.arange(len(self.cases))[chosen]
        return CalibrationCases(
            cases=tuple(self.cases[number] for number in numbers),
            case=_subset(self.case, numbers),
            labels={name: _subset(table, numbers) for name, table in self.labels.items()},
            groups=tuple(self.groups[number] for number in numbers) if self.groups else (),
        )


def group_numbers(
    groups: Sequence[str] | Sequence[int], num_cases: int
) -> Int[np.ndarray, "cases"]:
    """Number groups from 0; without groups every case is one."""
    if not len(groups):
        return np.arange(num_cases)
    return np.asarray(np.unique(np.asarray(groups), return_inverse=True)[1], dtype=np.int64)


def _subset(table: LabelCases, numbers: np.ndarray) -> LabelCases:
    return LabelCases(
        {name: np.asarray(values)[numbers] for name, values in table.scores.items()},
        np.asarray(table.dice)[numbers],
    )
