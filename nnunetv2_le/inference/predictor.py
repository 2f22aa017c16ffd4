"""Predicting with uncertainty: from arrays in memory, or from files to files."""

import logging
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from tqdm import tqdm

from nnunetv2_le.errors import OutputError, SettingError
from nnunetv2_le.inference.cases import PreparedCase, find_cases, prepare_array, prepare_case
from nnunetv2_le.inference.members import TilePredictor, plan_members
from nnunetv2_le.inference.model import Fold, Model, load_model
from nnunetv2_le.inference.prediction import CasePrediction, predict_case
from nnunetv2_le.inference.queue import CaseQueue, RunSummary
from nnunetv2_le.inference.settings import PredictionSettings, require_maps
from nnunetv2_le.inference.sliding_window import Window
from nnunetv2_le.inference.tables import write_tables
from nnunetv2_le.inference.whole_files import remove_leftovers
from nnunetv2_le.inference.writing import CaseWriter
from nnunetv2_le.types import MemberPlan
from nnunetv2_le.uncertainty.columns import describe_columns
from nnunetv2_le.version import __version__

logger = logging.getLogger(__name__)

# Logits of all members that are blended at one time. Above it an image is predicted in bands.
_BLENDING_BYTES = 2 * 2**30


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
            model.sources[0], families=self.settings.families, mirror_axes=axes
        )
        require_maps(self.settings.maps, self.plan.families)
        self._check_heads()
        # nnU-Net blends each fold by itself; elsewhere one blending of their mean is enough
        self._num_folds = len(model.folds) if self.settings.fusion == "nnunet" else 1
        self._predict_tile = TilePredictor(
            [source.to(self.device) for source in model.sources],
            self.plan,
            mirror_axes=axes,
            has_regions=model.labels.has_regions,
            separate_folds=self._num_folds > 1,
            batch_passes=self.device.type == "cuda",
            compiled=os.environ.get("nnUNet_compile", "").lower() in ("true", "1", "t"),
        )

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
        """Predict a preprocessed case.

        Where the device's memory is too small for it, mirror passes are predicted one by one and
        tiles are blended on the CPU.
        """
        on_device = self.settings.perform_everything_on_device and self.device.type == "cuda"
        try:
            return self._predict(prepared, on_device=on_device)
        except torch.OutOfMemoryError:
            if self.device.type != "cuda":
                raise
        logger.warning(
            "Not enough memory on the device: blending tiles of %s on the CPU.", prepared.name
        )
        self._predict_tile.batch_passes = False
        torch.cuda.empty_cache()
        return self._predict(prepared, on_device=False)

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
        writer = CaseWriter(Path(output), self.model, self.settings, self.plan)
        self._open_output(writer, is_alone=num_parts == 1)
        done = [case.name for case in cases if not overwrite and writer.is_done(case.name)]
        if done:
            logger.info("%d of %d cases were finished before.", len(done), len(cases))
        todo = [case for case in cases if case.name not in set(done)]
        queue = CaseQueue(
            prepare=lambda case: prepare_case(case, self.model),
            predict=self.predict_prepared,
            writer=writer,
            num_preprocessing=num_preprocessing,
            num_writing=num_writing,
            show_progress=self.show_progress,
        )
        try:
            queue.process(todo)
        finally:
            self._finish(writer.folder)
        return RunSummary(tuple(queue.done), queue.failed, tuple(done))

    def describe(self) -> dict[str, Any]:
        """What ``uncertainty.json`` says: columns, members, settings, model and versions."""
        described = describe_columns(self.plan, self.settings.maps)
        columns = {name: asdict(column) for name, column in described.items()}
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

    def _predict(self, prepared: PreparedCase, *, on_device: bool) -> CasePrediction:
        window = self._window(on_device=on_device)
        shape = prepared.image.shape[1:]
        num_bands = window.num_bands(
            shape,
            num_members=self._num_folds * self.plan.num_members,
            num_channels=self.model.labels.num_channels,
            max_bytes=_BLENDING_BYTES,
        )
        if num_bands > 1:
            logger.info("%s is predicted in %d bands to save memory.", prepared.name, num_bands)
        tiles = window.num_tiles(shape, num_bands)
        hidden = not self.show_progress
        with tqdm(total=tiles, desc=prepared.name, disable=hidden, leave=False) as bar:
            return predict_case(
                prepared,
                self.model,
                plan=self.plan,
                settings=self.settings,
                window=window,
                predict_tile=self._predict_tile,
                num_folds=self._num_folds,
                num_bands=num_bands,
                progress=bar.update,
            )

    def _window(self, *, on_device: bool) -> Window:
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
                "Layer agreement needs at least two heads: -skip_heads can be 0 to "
                f"{len(heads.members) - 2} for this model with {len(heads.members)} heads; got "
                f"{self.settings.skip_heads}."
            )
        if self.settings.save_heads and heads is None:
            raise SettingError(
                "--save_heads writes the heads of this run, but heads are not among its members. "
                "Add heads to -members, or use a checkpoint with several heads."
            )

    def _open_output(self, writer: CaseWriter, *, is_alone: bool) -> None:
        try:
            if is_alone:
                remove_leftovers(writer.folder)
            writer.open_folders()
        except OSError as error:
            raise OutputError(
                f"Results cannot be written to {writer.folder} ({error.strerror or error}). Name a "
                "folder that you may write to with -o."
            ) from error

    def _finish(self, folder: Path) -> None:
        """Tables of all that is there, after an interruption too."""
        compute_gaussian.cache_clear()
        try:
            write_tables(folder, self.describe())
        except OSError as error:
            raise OutputError(
                f"The tables cannot be written to {folder} ({error.strerror or error}). Free space "
                "or choose another folder, then go on with --continue_prediction."
            ) from error
