"""Which files a case has in OUT."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from nnunetv2_le.inference.settings import PredictionSettings
from nnunetv2_le.inference.tables import record_names
from nnunetv2_le.types import CALIBRATED_MAPS, HEAD_FAMILIES, MemberPlan
from nnunetv2_le.uncertainty.map_names import every_map_name


class CaseFiles:
    """Names the files of cases.

    Args:
        folder: OUT.
        ending: the data set's file ending.
        settings: decides which files there are.
        plan: the members of the run.
    """

    def __init__(
        self, folder: Path, ending: str, settings: PredictionSettings, plan: MemberPlan
    ) -> None:
        self.folder = folder
        self.ending = ending
        self.settings = settings
        self.plan = plan
        self._cases: frozenset[str] = frozenset()

    def files(self, case: str) -> list[Path]:
        """The files of a case, in the order in which they are written."""
        files = [self.folder / f"{case}{self.ending}"]
        if self.settings.save_probabilities:
            files += [self.folder / f"{case}.npz", self.folder / f"{case}.pkl"]
        files += [self._map_file(case, name) for name in self.settings.maps]
        if self.settings.save_heads:
            for folder, _ in self._head_folders():
                files += [folder / f"{case}.npz", folder / f"{case}.pkl"]
        if self.settings.save_features:
            files.append(self.features_file(case))
        return [*files, self.record_file(case)]

    def record_file(self, case: str) -> Path:
        """The file whose presence means that the case is done."""
        return self.folder / "cases" / f"{case}.json"

    def features_file(self, case: str) -> Path:
        """Pooled features of the encoder; of length 0 where the network has none."""
        return self.folder / "features" / f"{case}.npy"

    def _any_files(self, case: str) -> Iterator[Path]:
        """Files that a case may have from a run of any settings, there or not."""
        yield self.folder / f"{case}{self.ending}"
        for folder in (self.folder, *sorted((self.folder / "heads").glob("head_*"))):
            yield from (folder / f"{case}.npz", folder / f"{case}.pkl")
        yield from (self._map_file(case, name) for name in (*every_map_name(), *CALIBRATED_MAPS))
        yield from (self.features_file(case), *self.files(case))

    def _own(self, case: str, files: Iterable[Path]) -> list[Path]:
        """Those of some files that are there and not another case's."""
        there = [path for path in dict.fromkeys(files) if os.path.lexists(path)]
        of_others = self._of_longer_names(case) if there else set()
        return [path for path in there if path not in of_others]

    def _of_longer_names(self, case: str) -> set[Path]:
        """Files of the cases whose names begin with this one's and go on."""
        known = self._cases.union(record_names(self.folder))
        others = (name for name in known if name.startswith(f"{case}_"))
        return {path for other in others for path in self._any_files(other)}

    def _head_folders(self) -> list[tuple[Path, int]]:
        """The folder of each head, and the head's number among the members."""
        return [
            (self.folder / "heads" / f"head_{position:02d}", number)
            for family in self.plan.families
            if family.name in HEAD_FAMILIES
            for position, number in enumerate(self.plan.numbers(family))
        ]

    def _map_file(self, case: str, name: str) -> Path:
        return self.folder / "uncertainty" / f"{case}_{name}.nii.gz"
