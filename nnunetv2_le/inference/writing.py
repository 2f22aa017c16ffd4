"""Writing a case: segmentation, probabilities, voxel maps and its scores.

Files appear whole or not at all: everything is written in a hidden folder of ``OUT/cases`` (where
no command of nnU-Net looks) and moved when it is complete. ``cases/CASE.json`` comes last, so that
its presence means that the case is done.
"""

import logging
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunetv2_le.errors import OutputError
from nnunetv2_le.inference.case_files import CaseFiles
from nnunetv2_le.inference.earlier_runs import (
    has_settings,
    require_names_for_itk,
    require_no_other_dataset,
    require_own_files,
    warn_of_other_settings,
    warn_of_unrecorded,
)
from nnunetv2_le.inference.ensemble import Ensemble
from nnunetv2_le.inference.judging import Judge
from nnunetv2_le.inference.map_files import write_map
from nnunetv2_le.inference.model_checksums import fingerprint
from nnunetv2_le.inference.native_grid import NativeVolume
from nnunetv2_le.inference.prediction import CasePrediction
from nnunetv2_le.inference.records import (
    case_record,
    judgement_record,
    settings_record,
    with_volumes,
)
from nnunetv2_le.inference.set_aside import (
    folder_of,
    forget_set_aside,
    is_recorded,
    remove_if_empty,
    set_aside,
)
from nnunetv2_le.inference.settings import PredictionSettings
from nnunetv2_le.inference.tables import forget_failure, is_record
from nnunetv2_le.inference.whole_files import is_whole, remove_leftovers, replace_whole, write_json
from nnunetv2_le.types import CALIBRATED_MAPS, MemberPlan

logger = logging.getLogger(__name__)


class CaseWriter(CaseFiles):
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
        self.model = ensemble.first
        super().__init__(folder, self.model.dataset_json["file_ending"], settings, plan)
        self.judge = judge
        self.weights = fingerprint(ensemble.models)
        self._begun: set[str] = set()
        self._is_alone = False

    def is_done(self, case: str) -> bool:
        """Whether an earlier run wrote all that this one would write, with the same members."""
        record = self.record_file(case)
        if not all(is_whole(path) for path in self.files(case)) or not is_record(record):
            return False
        return has_settings(record, self._settings_record()) is True

    def forget(self, case: str) -> None:
        """From now on the case is neither done nor failed; its files stay until it is written.

        Raises:
            OutputError: its record cannot be moved.
        """
        try:
            if self.record_file(case).is_file():
                forget_set_aside(self.folder, case)
                set_aside(self.folder, case, [self.record_file(case)])
            forget_failure(self.folder, case)
        except OSError as error:
            raise _not_writable(self.folder, error) from error

    def discard(self, case: str) -> None:
        """Keep what was written of a case that has no result now from being taken for one.

        What this run wrote is removed, what an earlier one wrote is set aside. Files that no record
        shows to be those of an earlier run are left.

        Raises:
            OSError: a file cannot be moved or removed.
        """
        if case in self._begun:
            for path in self._own(case, self.files(case)):
                path.unlink(missing_ok=True)
        elif is_recorded(self.folder, case):
            set_aside(self.folder, case, self._own(case, self._any_files(case)))
        if (left := self.files(case)[0]).is_file():
            logger.warning("%s: %s is left as it was, but is no result of this run.", case, left)
        if (kept := folder_of(self.folder, case)).is_dir():
            logger.warning("%s: what an earlier run wrote of it was moved to %s.", case, kept)

    def _make_room(self, case: str) -> None:
        """Set aside what would be replaced, and what an earlier run wrote with other settings."""
        files = self.files(case)
        if is_recorded(self.folder, case):
            files += self._any_files(case)
        set_aside(self.folder, case, self._own(case, files))
        self._begun.add(case)

    def tidy(self) -> None:
        """Leave no empty folder behind, unless another run may be about to need it."""
        if self._is_alone:
            remove_if_empty(self.folder)

    def open_output(self, cases: Sequence[str], *, is_alone: bool) -> None:
        """Make OUT ready for cases.

        Args:
            cases: names of all cases of the run.
            is_alone: no other run writes into it; what an earlier one left half-written is removed.

        Raises:
            InputError: two cases would write one file, or one cannot be written under its name.
            SettingError: the folder is that of another data set.
            OutputError: it cannot be written to.
        """
        require_own_files(cases, self.settings.maps)
        if issubclass(self.model.plans.image_reader_writer_class, SimpleITKIO):
            require_names_for_itk(cases, self.ending)
        require_no_other_dataset(self.folder, self.model.dataset_json)
        self._cases, self._is_alone = frozenset(cases), is_alone
        warn_of_other_settings(self.folder, self._cases, settings=self._settings_record())
        warn_of_unrecorded(self.folder, {case: self.files(case)[0] for case in cases})
        try:
            if is_alone:
                remove_leftovers(self.folder)
            self.open_folders()
        except OSError as error:
            raise _not_writable(self.folder, error) from error

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
            self._make_room(prediction.case)
            self._write(prediction)
            forget_set_aside(self.folder, prediction.case)
        except OSError as error:
            raise OutputError(
                f"The results of {prediction.case} cannot be written to {self.folder} "
                f"({error.strerror or error}). Free space or choose another folder, then go on "
                "with --continue_prediction."
            ) from error

    def _write(self, prediction: CasePrediction) -> None:
        case, settings = prediction.case, self.settings
        writer = self.model.plans.image_reader_writer_class()
        segmentation = prediction.segmentation()
        replace_whole(
            self.folder / f"{case}{self.ending}",
            lambda path: writer.write_seg(segmentation, str(path), prediction.properties),
            output=self.folder,
        )
        record = case_record(prediction) | self._settings_record()
        # a region may reach beyond the one around it, which written labels cannot say
        if prediction.is_resampled or prediction.labels.has_regions:
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
        return settings_record(
            self.settings,
            self.plan,
            has_mirrors=bool(self.model.mirror_axes),
            weights=self.weights,
            calibration=None if self.judge is None else self.judge.key,
        )


def _not_writable(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"Results cannot be written to {folder} ({error.strerror or error}). Name a folder that "
        "you may write to with -o."
    )
