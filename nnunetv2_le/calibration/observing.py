"""Predicting labelled cases for a calibration; what was observed of each is kept on disk.

WORK/fold_N/cases/CASE.json holds the scores of a case, WORK/fold_N/observed/CASE.npz what else is
known of it; the JSON comes last. An interrupted calibration goes on where it was: a case counts as
done if both are there and were made with the same network, members and files.
"""

import json
import logging
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunetv2_le.calibration.labelled_cases import LabelledCase
from nnunetv2_le.calibration.observed_case import (
    ObservedCase,
    observe,
    observed_case,
    scores_record,
)
from nnunetv2_le.calibration.references import read_reference
from nnunetv2_le.errors import CaseError, InputError, OutputError, first_few
from nnunetv2_le.inference.cases import prepare_case
from nnunetv2_le.inference.prediction import CasePrediction
from nnunetv2_le.inference.predictor import LayerEnsemblePredictor
from nnunetv2_le.inference.queue import CaseQueue
from nnunetv2_le.inference.whole_files import remove_leftovers, replace_whole, write_json
from nnunetv2_le.inference.writing import CaseWriter

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkSettings:
    """How labelled cases are worked off.

    Attributes:
        num_preprocessing: cases that are preprocessed at the same time.
        num_writing: cases that are compared with their references at the same time.
        contour_share: share of voxels that inner and outer contour may leave out.
        stamp: what the observations depend on besides members and files, for example checksums.
    """

    num_preprocessing: int = 3
    num_writing: int = 3
    contour_share: float = 0.0
    stamp: dict[str, Any] | None = None


def observe_cases(
    predictor: LayerEnsemblePredictor,
    cases: Sequence[LabelledCase],
    *,
    folder: Path,
    fold: str,
    settings: WorkSettings,
) -> list[ObservedCase]:
    """Predict labelled cases and compare them with their references.

    Args:
        predictor: keeps the logits of heads, where there are heads.
        cases: none of which its network was trained on.
        folder: where to keep what was observed.
        fold: the fold of the predictor's network, as text.
        settings: how.

    Returns:
        Every case, in order.

    Raises:
        CaseError: a case failed; the others are kept.
        OutputError: the folder cannot be written to.
    """
    writer = ObservationWriter(predictor, cases, folder=folder, fold=fold, settings=settings)
    writer.open_folders()
    todo = [labelled.case for labelled in cases if not writer.is_done(labelled.case.name)]
    if len(todo) < len(cases):
        logger.info("%d of %d cases were finished before.", len(cases) - len(todo), len(cases))
    queue = CaseQueue(
        prepare=lambda case: prepare_case(case, predictor.model),
        predict=predictor.predict_prepared,
        writer=writer,
        num_preprocessing=settings.num_preprocessing,
        num_writing=settings.num_writing,
        on_gpu=predictor.device.type != "cpu",
        show_progress=predictor.show_progress,
    )
    queue.process(todo)
    if queue.failed:
        reason = next(iter(queue.failed.values()))
        raise CaseError(
            f"{len(queue.failed)} of {len(cases)} cases failed ({first_few(queue.failed)}), the "
            f"first because: {reason} Mend or remove it and run the same command again; finished "
            "cases are kept."
        )
    return [writer.read(labelled.case.name) for labelled in cases]


class StoredArrays(Mapping[str, np.ndarray]):
    """The arrays of a file, each read when it is asked for; the file is not kept open.

    Args:
        file: CASE.npz.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def __getitem__(self, name: str) -> np.ndarray:
        """Read an array.

        Raises:
            InputError: the file was damaged since it was written.
        """
        try:
            with np.load(self.file, allow_pickle=False) as content:
                return np.asarray(content[name])
        except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(
                f"{self.file} is damaged ({error}). Remove it and run the same command again; "
                "other finished cases are kept."
            ) from error

    def __iter__(self) -> Iterator[str]:
        """Names of the arrays."""
        with np.load(self.file, allow_pickle=False) as content:
            return iter(content.files)

    def __len__(self) -> int:
        """How many arrays there are."""
        return sum(1 for _ in self)


class ObservationWriter(CaseWriter):
    """Writes what is observed of a case instead of segmentations.

    Args:
        predictor: model, settings and members.
        cases: with their references.
        folder: where to.
        fold: the fold of the network, as text.
        settings: what observations depend on besides.
    """

    def __init__(
        self,
        predictor: LayerEnsemblePredictor,
        cases: Sequence[LabelledCase],
        *,
        folder: Path,
        fold: str,
        settings: WorkSettings,
    ) -> None:
        super().__init__(folder, predictor.ensemble, predictor.settings, predictor.plan)
        self.labelled = {labelled.case.name: labelled for labelled in cases}
        self.fold = fold
        self.contour_share = settings.contour_share
        self.stamp = {"contour_share": settings.contour_share, **(settings.stamp or {})}

    def files(self, case: str) -> list[Path]:
        """The files of a case, in the order in which they are written."""
        return [self.folder / "observed" / f"{case}.npz", self.record_file(case)]

    def is_done(self, case: str) -> bool:
        """Whether an earlier run observed the case with the same network and the same files."""
        if not super().is_done(case):
            return False
        record = json.loads(self.record_file(case).read_text(encoding="utf-8"))
        return bool(record.get("observed") == self._stamp(case))

    def open_folders(self) -> None:
        """Make the work folder.

        Raises:
            OutputError: it cannot be written to.
        """
        try:
            for part in ("cases", "observed"):
                (self.folder / part).mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.folder)
        except OSError as error:
            raise OutputError(
                f"{self.folder} cannot be written to ({error.strerror or error}). Name a work "
                "folder that you may write to with -o."
            ) from error

    def read(self, case: str) -> ObservedCase:
        """What was observed of a finished case."""
        arrays, record = self.files(case)
        return observed_case(json.loads(record.read_text(encoding="utf-8")), StoredArrays(arrays))

    def _write(self, prediction: CasePrediction) -> None:
        labelled = self.labelled[prediction.case]
        arrays: dict[str, Any] = observe(
            prediction,
            read_reference(labelled.reference, prediction, self.model),
            fold=self.fold,
            ignore_label=self.model.label_manager.ignore_label,
            contour_share=self.contour_share,
        )
        observed, record_file = self.files(prediction.case)
        replace_whole(observed, lambda path: np.savez(path, **arrays), output=self.folder)
        record = scores_record(prediction) | self._settings_record()
        record["observed"] = self._stamp(prediction.case)
        write_json(record_file, record, output=self.folder)

    def _stamp(self, case: str) -> dict[str, Any]:
        """Files by name, size and time, what was checked of them, and what the caller named."""
        labelled = self.labelled[case]
        files = [*labelled.case.images, labelled.reference]
        if labelled.case.previous_stage is not None:
            files.append(labelled.case.previous_stage)
        known = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
        # earlier versions observed references without these checks, and absent labels as distance 0
        checked = ["shape", "grid", "values", "absent labels"]
        return {"files": known, "checked": checked, "fold": self.fold, **self.stamp}
