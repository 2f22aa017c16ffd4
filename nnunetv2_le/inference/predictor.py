"""Predicting with uncertainty: from arrays in memory, or from files to files.

Preprocessing and writing run in threads beside the prediction, not in processes: nnU-Net's own preprocessing, SciPy's
interpolation and SimpleITK let go of Python's lock while they work, nothing is copied between processes, and there is no
worker that the system could kill unnoticed (``documentation/decisions/004-threads-instead-of-processes.md``).
"""

import logging
import platform
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from tqdm import tqdm

from nnunetv2_le.errors import CaseError, LayerEnsembleError, OutputError, SettingError
from nnunetv2_le.inference.cases import Case, PreparedCase, find_cases, prepare_array, prepare_case
from nnunetv2_le.inference.members import plan_members
from nnunetv2_le.inference.model import Fold, Model, load_model
from nnunetv2_le.inference.prediction import CasePrediction, predict_case
from nnunetv2_le.inference.settings import PredictionSettings, require_maps
from nnunetv2_le.inference.sliding_window import Window
from nnunetv2_le.inference.tables import forget_failure, note_failure, write_tables
from nnunetv2_le.inference.writing import CaseWriter, write_json
from nnunetv2_le.types import MemberPlan
from nnunetv2_le.uncertainty.columns import describe_columns
from nnunetv2_le.version import __version__

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunSummary:
    """What became of the cases of a run.

    Attributes:
        done: names of the cases that were predicted and written.
        failed: name of a case to the reason why it has no result.
        skipped: names of the cases that an earlier run had finished.
    """

    done: tuple[str, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()


class LayerEnsemblePredictor:
    """Predicts cases with every member that the settings ask for.

    Args:
        model: a trained model.
        settings: what to predict and to write.
        device: where the network runs.
        show_progress: show progress bars.

    Raises:
        SettingError: the settings ask for what this model does not have.
    """

    def __init__(
        self,
        model: Model,
        settings: PredictionSettings | None = None,
        *,
        device: torch.device | str = "cpu",
        show_progress: bool = True,
    ) -> None:
        self.model = model
        self.settings = settings or PredictionSettings()
        self.device = torch.device(device)
        self.show_progress = show_progress
        axes = model.mirror_axes if self.settings.use_mirroring else None
        self.plan: MemberPlan = plan_members(
            model.source, families=self.settings.families, mirror_axes=axes
        )
        require_maps(self.settings.maps, self.plan.families)
        self._check_heads()

    @classmethod
    def from_model_folder(
        cls,
        folder: Path | str,
        settings: PredictionSettings | None = None,
        *,
        folds: Sequence[Fold] | None = None,
        checkpoint_name: str = "checkpoint_final.pth",
        device: torch.device | str = "cpu",
        show_progress: bool = True,
    ) -> "LayerEnsemblePredictor":
        """A predictor for a model folder of nnU-Net; see ``load_model`` for what can go wrong."""
        model = load_model(Path(folder), folds=folds, checkpoint_name=checkpoint_name)
        return cls(model, settings, device=device, show_progress=show_progress)

    def predict_array(
        self,
        image: Float[np.ndarray, "channels z y x"],
        *,
        spacing_mm: Sequence[float],
        name: str = "array",
        previous_stage: np.ndarray | None = None,
    ) -> CasePrediction:
        """Predict an image in memory.

        Args:
            image: one volume a channel; a 2D image has depth 1.
            spacing_mm: voxel size in millimetres in the order of the array's axes.
            name: name of the case.
            previous_stage: label volume of a cascade's previous stage.

        Raises:
            CaseError: the image does not fit the model, or cannot be predicted.
        """
        prepared = prepare_array(
            image, self.model, spacing_mm=spacing_mm, name=name, previous_stage=previous_stage
        )
        return self.predict_prepared(prepared)

    def predict_files(
        self, images: Sequence[Path | str], *, previous_stage: Path | str | None = None
    ) -> CasePrediction:
        """Predict one case from its image files, one file a channel, without writing anything."""
        case = find_cases(
            [[Path(image) for image in images]],
            self.model,
            previous_stage=None if previous_stage is None else Path(previous_stage),
        )[0]
        return self.predict_prepared(prepare_case(case, self.model))

    def predict_prepared(self, prepared: PreparedCase) -> CasePrediction:
        """Predict a preprocessed case; blends on the CPU where the device's memory is too small."""
        tiles = self._window(prepared).num_tiles(prepared.image.shape[1:])
        total = tiles * len(self.model.parameters)
        on_device = self.settings.perform_everything_on_device and self.device.type == "cuda"
        with tqdm(total=total, desc=prepared.name, disable=not self.show_progress, leave=False) as bar:
            try:
                return self._predict(prepared, bar, on_device=on_device)
            except torch.OutOfMemoryError:
                if not on_device:
                    raise
                logger.warning("Not enough memory on the device: blending tiles of %s on the CPU.", prepared.name)
                torch.cuda.empty_cache()
                bar.reset()
                return self._predict(prepared, bar, on_device=False)

    def predict_folder(
        self,
        source: Path | str | Sequence[Sequence[Path]],
        output: Path | str,
        *,
        previous_stage: Path | str | None = None,
        overwrite: bool = True,
        num_parts: int = 1,
        part_id: int = 0,
        num_preprocessing: int = 3,
        num_writing: int = 3,
    ) -> RunSummary:
        """Predict all cases of a folder (or of lists of files) and write everything.

        A case that fails is noted in ``failed.csv`` and does not stop the others.

        Args:
            source: a folder in nnU-Net's naming, or one list of files a case.
            output: OUT; made if missing.
            previous_stage: folder with the segmentations of a cascade's previous stage.
            overwrite: False to leave finished cases as they are.
            num_parts: how many runs share the cases.
            part_id: which of them this is, from 0.
            num_preprocessing: cases that are preprocessed at the same time.
            num_writing: cases that are written at the same time.

        Raises:
            InputError: there is nothing to predict.
            OutputError: ``output`` cannot be written to.
        """
        if not 0 <= part_id < num_parts:
            raise SettingError(
                f"-part_id counts from 0 to -num_parts - 1 = {num_parts - 1}; got {part_id}."
            )
        before = None if previous_stage is None else Path(previous_stage)
        where = Path(source) if isinstance(source, str) else source
        cases = find_cases(where, self.model, previous_stage=before)[part_id::num_parts]
        folder = self._open_output(Path(output))
        writer = CaseWriter(folder, self.model, self.settings)
        skipped = () if overwrite else tuple(case.name for case in cases if writer.is_done(case.name))
        if skipped:
            logger.info("%d of %d cases were finished before.", len(skipped), len(cases))
        todo = [case for case in cases if case.name not in skipped]
        run = _Run(self, writer, num_preprocessing=num_preprocessing, num_writing=num_writing)
        try:
            run.process(todo)
        finally:
            write_tables(folder, self.describe())
            compute_gaussian.cache_clear()
        return RunSummary(tuple(run.done), run.failed, skipped)

    def describe(self) -> dict[str, Any]:
        """What ``uncertainty.json`` says: columns, members, settings, model and versions."""
        columns = {name: asdict(column) for name, column in describe_columns(self.plan).items()}
        return {
            "columns": columns,
            "families": {family.name: list(family.members) for family in self.plan.families},
            "settings": asdict(self.settings),
            "model": {
                "dataset": self.model.plans.dataset_name,
                "trainer": self.model.trainer_name,
                "plans": self.model.plans.plans_name,
                "configuration": self.model.configuration_name,
                "folds": list(self.model.folds),
                "checkpoint": self.model.checkpoint_name,
            },
            "versions": {
                "nnunetv2_le": __version__,
                "nnunetv2": version("nnunetv2"),
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }

    def _predict(self, prepared: PreparedCase, bar: "tqdm[Any]", *, on_device: bool) -> CasePrediction:
        return predict_case(
            prepared,
            self.model,
            plan=self.plan,
            settings=self.settings,
            window=self._window(prepared, on_device=on_device),
            progress=bar.update,
        )

    def _window(self, prepared: PreparedCase, *, on_device: bool = False) -> Window:
        return Window(
            patch_size=tuple(int(size) for size in self.model.configuration.patch_size),
            step_size=self.settings.step_size,
            use_gaussian=self.settings.use_gaussian,
            device=self.device,
            results_device=self.device if on_device else torch.device("cpu"),
        )

    def _check_heads(self) -> None:
        heads = next((f for f in self.plan.families if f.name == "heads"), None)
        if heads and self.settings.skip_heads > len(heads.members) - 2:
            raise SettingError(
                f"Layer agreement needs at least two heads: -skip_heads can be 0 to {len(heads.members) - 2} for this "
                f"model with {len(heads.members)} heads; got {self.settings.skip_heads}."
            )
        if self.settings.save_heads and heads is None:
            raise SettingError(
                "--save_heads writes the heads of this run, but heads are not among its members. Add heads to -members, "
                "or use a checkpoint with several heads."
            )

    def _open_output(self, folder: Path) -> Path:
        """Make OUT and the files that nnU-Net puts beside segmentations."""
        try:
            for part in (folder, folder / "cases", folder / "uncertainty"):
                part.mkdir(parents=True, exist_ok=True)
            write_json(folder / "dataset.json", self.model.dataset_json)
            write_json(folder / "plans.json", self.model.plans.plans)
        except OSError as error:
            raise OutputError(
                f"Results cannot be written to {folder} ({error.strerror or error}). Name a folder that you may write to "
                f"with -o."
            ) from error
        return folder


class _Run:
    """The cases of one run on their way through preprocessing, prediction and writing."""

    def __init__(
        self,
        predictor: LayerEnsemblePredictor,
        writer: CaseWriter,
        *,
        num_preprocessing: int,
        num_writing: int,
    ) -> None:
        self.predictor = predictor
        self.writer = writer
        self.ahead = max(1, num_preprocessing)
        self.behind = max(1, num_writing)
        self.done: list[str] = []
        self.failed: dict[str, str] = {}
        self.writing: deque[tuple[str, Future[None]]] = deque()

    def process(self, cases: Sequence[Case]) -> None:
        """Process all cases; what fails is noted, what was interrupted is not."""
        readers = ThreadPoolExecutor(self.ahead, thread_name_prefix="preprocessing")
        writers = ThreadPoolExecutor(self.behind, thread_name_prefix="writing")
        bar = tqdm(total=len(cases), desc="cases", disable=not self.predictor.show_progress)
        try:
            for case, prepared in self._prepared(readers, cases):
                self._predict(case, prepared, writers)
                self._collect(leave=self.behind)
                bar.update()
            self._collect(leave=0)
        finally:
            bar.close()
            readers.shutdown(wait=True, cancel_futures=True)
            writers.shutdown(wait=True, cancel_futures=True)

    def _prepared(
        self, readers: ThreadPoolExecutor, cases: Sequence[Case]
    ) -> Iterator[tuple[Case, "Future[PreparedCase]"]]:
        """Cases in order, each with its preprocessing; a bounded number is under way or waiting."""
        waiting: deque[tuple[Case, Future[PreparedCase]]] = deque()
        for case in cases:
            waiting.append((case, readers.submit(prepare_case, case, self.predictor.model)))
            if len(waiting) > self.ahead:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()

    def _predict(
        self, case: Case, prepared: "Future[PreparedCase]", writers: ThreadPoolExecutor
    ) -> None:
        try:
            prediction = self.predictor.predict_prepared(prepared.result())
        except (LayerEnsembleError, RuntimeError, MemoryError, ValueError) as error:
            self._fail(case.name, error)
            return
        self.writing.append((case.name, writers.submit(self.writer.write, prediction)))

    def _collect(self, *, leave: int) -> None:
        """Wait for writing until at most ``leave`` cases are under way."""
        while len(self.writing) > leave:
            name, future = self.writing.popleft()
            try:
                future.result()
            except Exception as error:
                self._fail(name, error)
                continue
            forget_failure(self.writer.folder, name)
            self.done.append(name)

    def _fail(self, case: str, error: Exception) -> None:
        known = error if isinstance(error, LayerEnsembleError) else CaseError(_describe(case, error))
        reason = " ".join(str(known).split())
        self.failed[case] = reason
        logger.error("%s: %s", case, reason)
        logger.debug("Traceback of %s:", case, exc_info=error)
        try:
            note_failure(self.writer.folder, case, reason)
        except OSError:
            logger.warning("The failure of %s cannot be noted in %s.", case, self.writer.folder)


def _describe(case: str, error: Exception) -> str:
    return (
        f"{case} could not be predicted ({type(error).__name__}: {error}). Run again with --continue_prediction --verbose "
        f"for the traceback."
    )
