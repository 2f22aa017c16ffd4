"""Writing a case: segmentation, probabilities, voxel maps and its scores.

Files appear whole or not at all: everything is written in a hidden folder of ``OUT/cases`` (where
no command of nnU-Net looks) and moved when it is complete. ``cases/CASE.json`` comes last, so that
its presence means that the case is done.
"""

import logging
import os
import pickle
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnunetv2_le.errors import OutputError
from nnunetv2_le.inference.earlier_runs import (
    has_settings,
    require_own_files,
    warn_of_other_settings,
)
from nnunetv2_le.inference.ensemble import Ensemble
from nnunetv2_le.inference.judging import Judge
from nnunetv2_le.inference.map_files import write_map
from nnunetv2_le.inference.model_checksums import fingerprint
from nnunetv2_le.inference.native_grid import NativeVolume
from nnunetv2_le.inference.prediction import CasePrediction
from nnunetv2_le.inference.records import case_record, judgement_record, with_volumes
from nnunetv2_le.inference.settings import PredictionSettings
from nnunetv2_le.inference.tables import forget_failure, record_names
from nnunetv2_le.inference.whole_files import remove_leftovers, replace_whole, write_json
from nnunetv2_le.types import CALIBRATED_MAPS, HEAD_FAMILIES, MemberPlan
from nnunetv2_le.uncertainty.map_names import every_map_name, on_demand_maps

logger = logging.getLogger(__name__)


class CaseWriter:
    """Writes cases of one run into one folder.

    Args:
        folder: OUT.
        ensemble: the models; the first decides file ending and how nnU-Net writes segmentations.
        settings: decides which files there are.
        plan: the members of the run.
        judge: of a calibrated model.
    """

    def __init__(
        self,
        folder: Path,
        ensemble: Ensemble,
        settings: PredictionSettings,
        plan: MemberPlan,
        *,
        judge: Judge | None = None,
    ) -> None:
        self.folder = folder
        self.model = ensemble.first
        self.settings = settings
        self.plan = plan
        self.judge = judge
        self.weights = fingerprint(ensemble.models)
        self.ending: str = self.model.dataset_json["file_ending"]
        self._cases: frozenset[str] = frozenset()

    def is_done(self, case: str) -> bool:
        """Whether an earlier run wrote all that this one would write, with the same members."""
        if not all(path.is_file() for path in self.files(case)):
            return False
        return has_settings(self.record_file(case), self._settings_record()) is True

    def forget(self, case: str) -> None:
        """From now on the case is neither done nor failed; its files stay until it is written."""
        self.record_file(case).unlink(missing_ok=True)
        forget_failure(self.folder, case)

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

    def discard(self, case: str) -> None:
        """Remove what earlier runs wrote of a case that has no result now.

        Raises:
            OSError: a file cannot be removed.
        """
        if self._remove_files(case, but=()):
            logger.warning("%s: what an earlier run wrote of it was removed.", case)

    def _remove_files(self, case: str, *, but: Collection[Path]) -> list[Path]:
        """Remove a case's files of any settings but some, and none of another case."""
        found = [
            path
            for path in dict.fromkeys([*self._any_files(case), *self.files(case)])
            if path not in but and os.path.lexists(path) and not self._is_of_other(path, case)
        ]
        for path in found:
            path.unlink(missing_ok=True)
        return found

    def _is_of_other(self, path: Path, case: str) -> bool:
        """Whether a file is that of a case whose name begins with this one's and goes on."""
        known = self._cases.union(record_names(self.folder)) - {case}
        others = (name for name in known if name.startswith(f"{case}_"))
        return any(path in self._any_files(other) for other in others)

    def _any_files(self, case: str) -> Iterator[Path]:
        """Files that a case may have from a run of any settings, there or not."""
        yield self.folder / f"{case}{self.ending}"
        for folder in (self.folder, *sorted((self.folder / "heads").glob("head_*"))):
            yield from (folder / f"{case}.npz", folder / f"{case}.pkl")
        yield from (self._map_file(case, name) for name in (*every_map_name(), *CALIBRATED_MAPS))
        yield self.features_file(case)

    def record_file(self, case: str) -> Path:
        """The file whose presence means that the case is done."""
        return self.folder / "cases" / f"{case}.json"

    def features_file(self, case: str) -> Path:
        """Pooled features of the encoder; of length 0 where the network has none."""
        return self.folder / "features" / f"{case}.npy"

    def open_output(self, cases: Sequence[str], *, is_alone: bool) -> None:
        """Make OUT ready for cases.

        Args:
            cases: names of all cases of the run.
            is_alone: no other run writes into it; what an earlier one left half-written is removed.

        Raises:
            InputError: two cases would write one file.
            OutputError: it cannot be written to.
        """
        require_own_files(cases, self.settings.maps)
        self._cases = frozenset(cases)
        warn_of_other_settings(self.folder, self._cases, settings=self._settings_record())
        try:
            if is_alone:
                remove_leftovers(self.folder)
            self.open_folders()
        except OSError as error:
            raise OutputError(
                f"Results cannot be written to {self.folder} ({error.strerror or error}). Name a "
                "folder that you may write to with -o."
            ) from error

    def open_folders(self) -> None:
        """Make OUT with its folders, and the files that nnU-Net puts beside segmentations."""
        for part in (self.folder, self.folder / "cases", self.folder / "uncertainty"):
            part.mkdir(parents=True, exist_ok=True)
        if self.settings.save_features:
            (self.folder / "features").mkdir(exist_ok=True)
        folders = [self.folder]
        if self.settings.save_heads:
            folders += [folder for folder, _ in self._head_folders()]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "dataset.json", self.model.dataset_json, output=self.folder)
            write_json(folder / "plans.json", self.model.plans.plans, output=self.folder)

    def write(self, prediction: CasePrediction) -> None:
        """Write all files of a case.

        Raises:
            OutputError: a file cannot be written (no space, no permission).
        """
        try:
            self._write(prediction)
        except OSError as error:
            raise OutputError(
                f"The results of {prediction.case} cannot be written to {self.folder} "
                f"({error.strerror or error}). Free space or choose another folder, then go on "
                "with --continue_prediction."
            ) from error

    def _write(self, prediction: CasePrediction) -> None:
        case, settings = prediction.case, self.settings
        self._remove_files(case, but=self.files(case))  # what this run would not replace
        writer = self.model.plans.image_reader_writer_class()
        segmentation = prediction.segmentation()
        replace_whole(
            self.folder / f"{case}{self.ending}",
            lambda path: writer.write_seg(segmentation, str(path), prediction.properties),
            output=self.folder,
        )
        record = case_record(prediction) | self._settings_record()
        if prediction.is_resampled:
            record = with_volumes(record, *prediction.volumes_ml(segmentation))
        del segmentation
        if settings.save_probabilities:
            self._write_probabilities(self.folder, prediction, None)
        for name in settings.maps:
            self._write_map(prediction, name)
        if settings.save_heads:
            self._write_heads(prediction)
        if settings.save_features:
            self._write_features(prediction)
        if self.judge is not None:
            record["judgement"] = judgement_record(self.judge.judge(prediction))
        write_json(self.record_file(case), record, output=self.folder)

    def _write_map(self, prediction: CasePrediction, name: str) -> None:
        if self.judge is not None and name in CALIBRATED_MAPS:
            volume = NativeVolume.of(self.judge.voxel_map(name, prediction))
        else:
            volume = prediction.voxel_map_pieces(name)
        target = self._map_file(prediction.case, name)
        write_map(target, volume, prediction.properties, output=self.folder)

    def _write_features(self, prediction: CasePrediction) -> None:
        features = prediction.features
        values = np.empty(0, dtype=np.float32) if features is None else features
        target = self.features_file(prediction.case)
        replace_whole(target, lambda path: np.save(path, values), output=self.folder)

    def _write_heads(self, prediction: CasePrediction) -> None:
        """A folder a head in nnU-Net's own layout: nnUNetv2_ensemble can combine any of them."""
        members = prediction.accumulated.member_logits
        if members is None:
            return
        names = [member for family in self.plan.families for member in family.members]
        for folder, number in self._head_folders():
            self._write_probabilities(folder, prediction, members[number], head=names[number])

    def _head_folders(self) -> list[tuple[Path, int]]:
        """The folder of each head, and the head's number among the members."""
        return [
            (self.folder / "heads" / f"head_{position:02d}", number)
            for family in self.plan.families
            if family.name in HEAD_FAMILIES
            for position, number in enumerate(self.plan.numbers(family))
        ]

    def _write_probabilities(
        self,
        folder: Path,
        prediction: CasePrediction,
        logits: np.ndarray | None,
        *,
        head: str | None = None,
    ) -> None:
        """Probabilities and properties as nnU-Net saves them; calibrated where that is known."""
        scaling = None if self.judge is None else self.judge.scaling(head)
        probabilities = prediction.probabilities(logits, scaling=scaling)
        replace_whole(
            folder / f"{prediction.case}.npz",
            lambda path: np.savez_compressed(path, probabilities=probabilities),
            output=self.folder,
        )
        replace_whole(
            folder / f"{prediction.case}.pkl",
            lambda path: path.write_bytes(pickle.dumps(prediction.properties)),
            output=self.folder,
        )

    def _settings_record(self) -> dict[str, Any]:
        """What scores and columns of a case depend on, apart from the image."""
        settings = self.settings
        with_columns = set(settings.maps) & set(on_demand_maps(self.plan.families))
        return {
            "fusion": settings.fusion,
            "skip_heads": settings.skip_heads,
            "step_size": settings.step_size,
            "use_mirroring": settings.use_mirroring and bool(self.model.mirror_axes),
            "use_gaussian": settings.use_gaussian,
            "on_demand_maps": sorted(with_columns),
            "weights": self.weights,
            "members": {family.name: list(family.members) for family in self.plan.families},
            "calibration": None if self.judge is None else self.judge.key,
        }

    def _map_file(self, case: str, name: str) -> Path:
        return self.folder / "uncertainty" / f"{case}_{name}.nii.gz"
