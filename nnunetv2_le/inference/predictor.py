"""Predicting with uncertainty: from arrays in memory, or from files to files."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from nnunetv2.inference.sliding_window_prediction import compute_gaussian

from nnunetv2_le.inference.cases import Case, PreparedCase, find_cases, prepare_array, prepare_case
from nnunetv2_le.inference.checkpoints import Fold
from nnunetv2_le.inference.description import describe_run
from nnunetv2_le.inference.ensemble import (
    Ensemble,
    TrainedNetwork,
    as_ensemble,
    load_ensemble,
    model_networks,
)
from nnunetv2_le.inference.grid_predictor import GridPredictor
from nnunetv2_le.inference.judging import Judge, with_calibration
from nnunetv2_le.inference.member_plan import DEFAULT_NUM_SAMPLES, MemberRequest, plan_members
from nnunetv2_le.inference.model import Model
from nnunetv2_le.inference.other_grids import plan_of_fused_heads, to_grid
from nnunetv2_le.inference.prediction import CasePrediction, score_prediction
from nnunetv2_le.inference.queue import CaseQueue, RunSummary
from nnunetv2_le.inference.settings import (
    PredictionSettings,
    require_heads,
    require_maps,
    require_own_folder,
    require_part,
    require_utf8,
)
from nnunetv2_le.inference.tables import write_tables
from nnunetv2_le.inference.writing import CaseWriter
from nnunetv2_le.types import MemberPlan

logger = logging.getLogger(__name__)


class LayerEnsemblePredictor:
    """Predicts cases with every member that the settings ask for.

    Args:
        model: a trained model, or several (``as_ensemble``).
        settings: what to predict and to write.
        device: where the networks run.
        show_progress: show progress bars.
        judge: of a calibrated model; adds columns to the tables and calibrates probabilities.

    Attributes:
        ensemble: the models.
        model: the first of them, on whose grid members are compared.
        plan: the members.

    Raises:
        SettingError: the settings ask for what this model does not have.
    """

    def __init__(
        self,
        model: Model | Ensemble,
        settings: PredictionSettings | None = None,
        *,
        device: torch.device | str = "cpu",
        show_progress: bool = True,
        judge: Judge | None = None,
    ) -> None:
        self.judge = judge
        self.ensemble = as_ensemble([model]) if isinstance(model, Model) else model
        self.model = self.ensemble.first
        self.settings = settings or PredictionSettings()
        self.device = torch.device(device)
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # as nnU-Net: all tiles have one size
            if self.device.index is None:  # one name a device, whatever is current later
                self.device = torch.device("cuda", torch.cuda.current_device())
        self.show_progress = show_progress
        request = MemberRequest(
            families=self.settings.families,
            mirror_axes=self.model.mirror_axes if self.settings.use_mirroring else None,
            num_samples=self.settings.num_samples or DEFAULT_NUM_SAMPLES,
            fusion=self.settings.fusion,
        )
        self.plan: MemberPlan = plan_members(self.ensemble, request)
        require_maps(self.settings.maps, self.plan.families, is_calibrated=judge is not None)
        require_heads(self.settings, self.plan.families)
        networks = self.ensemble.networks
        self._grid = self._on_grid(self.model, networks, self.plan, self.settings)
        # a model that sees images otherwise is predicted by itself: what it says is one member
        fusion = self.settings.fusion if self.settings.fusion in ("nnunet", "last") else "mean"
        alone = replace(self.settings, fusion=fusion, maps=())
        self._others = {
            name: self._on_grid(other, model_networks(other), plan_of_fused_heads(other), alone)
            for name, other in self.ensemble.others.items()
        }

    @classmethod
    def from_model_folder(
        cls,
        folder: Path | str | Sequence[Path | str],
        settings: PredictionSettings | None = None,
        *,
        folds: Sequence[Fold] | None = None,
        checkpoint_name: str | Sequence[str] = "checkpoint_final.pth",
        device: torch.device | str = "cpu",
        show_progress: bool = True,
    ) -> "LayerEnsemblePredictor":
        """A predictor for one or several model folders of nnU-Net.

        See ``load_ensemble`` for the arguments and for what can go wrong.
        """
        folders = [folder] if isinstance(folder, str | Path) else folder
        ensemble = load_ensemble(
            [Path(one) for one in folders], folds=folds, checkpoint_name=checkpoint_name
        )
        return cls(ensemble, settings, device=device, show_progress=show_progress)

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
        given = {"spacing_mm": spacing_mm, "name": name}

        def prepare(model: Model) -> PreparedCase:
            needs = model.configuration.previous_stage_name
            before = None if needs is None else previous_stage
            return prepare_array(image, model, **given, previous_stage=before)  # type: ignore[arg-type]

        return self.predict_prepared(self._prepare_for_all(prepare))

    def predict_files(
        self,
        images: Path | str | Sequence[Path | str],
        *,
        previous_stage: Path | str | None = None,
    ) -> CasePrediction:
        """Predict one case from its image files, one file a channel, without writing anything."""
        files = [images] if isinstance(images, str | Path) else images
        case = find_cases(
            [[Path(file) for file in files]],
            self._wants_most(),
            previous_stage=None if previous_stage is None else Path(previous_stage),
        )[0]
        return self.predict_prepared(self._prepare(case))

    def predict_prepared(
        self, prepared: PreparedCase, *, forget_image: bool = False
    ) -> CasePrediction:
        """Predict a preprocessed case.

        Args:
            prepared: the case.
            forget_image: give the image's memory back before the prediction is scored.

        Raises:
            CaseError: the output of a network is not finite.
        """
        elsewhere = {
            name: to_grid(
                grid.predict(prepared.others[name]).accumulated.fused_logits,
                case=prepared.others[name],
                model=grid.model,
                target=prepared,
                target_model=self.model,
            )
            for name, grid in self._others.items()
        }
        found = self._grid.predict(prepared, elsewhere)
        if forget_image:
            prepared.forget_image()
        return score_prediction(
            prepared,
            found,
            model=self.model,
            plan=self.plan,
            skip_heads=self.settings.skip_heads,
        )

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
            SettingError: there is no such part, or results would lie among what they are made from.
            OutputError: ``output`` cannot be written to.
        """
        require_part(part_id, num_parts)
        before = None if previous_stage is None else Path(previous_stage)
        where = Path(source) if isinstance(source, str) else source
        require_utf8({"-o": output})
        require_own_folder(Path(output), {"-i": where, "-prev_stage_predictions": before})
        for model in self.ensemble.models:  # its plans.json would be replaced
            require_own_folder(Path(output), {"the model's": model.folder})
        cases = find_cases(where, self._wants_most(), previous_stage=before)[part_id::num_parts]
        writer = CaseWriter(Path(output), self.ensemble, self.settings, self.plan, judge=self.judge)
        writer.open_output([case.name for case in cases], is_alone=num_parts == 1)
        done = dict.fromkeys(c.name for c in cases if not overwrite and writer.is_done(c.name))
        if done:
            logger.info("%d of %d cases were finished before.", len(done), len(cases))
        queue = CaseQueue(
            prepare=self._prepare,
            predict=self._predict_for_files,
            writer=writer,
            num_preprocessing=num_preprocessing,
            num_writing=num_writing,
            on_gpu=self.device.type != "cpu",
            show_progress=self.show_progress,
        )
        try:
            queue.process([case for case in cases if case.name not in done])
        finally:
            writer.tidy()
            self._finish(writer.folder)
        return RunSummary(tuple(queue.done), queue.failed, tuple(done))

    def describe(self) -> dict[str, Any]:
        """What ``uncertainty.json`` says: columns, members, settings, model and versions."""
        return with_calibration(describe_run(self.ensemble, self.plan, self.settings), self.judge)

    def _predict_for_files(self, prepared: PreparedCase) -> CasePrediction:
        """A prediction without the maps that no file gets: it may wait to be written."""
        prediction = self.predict_prepared(prepared, forget_image=True)
        return prediction.without_maps_but(self.settings.maps)

    def _on_grid(
        self,
        model: Model,
        networks: Sequence[TrainedNetwork],
        plan: MemberPlan,
        settings: PredictionSettings,
    ) -> GridPredictor:
        return GridPredictor(
            model,
            networks,
            plan,
            settings=settings,
            device=self.device,
            show_progress=self.show_progress,
        )

    def _wants_most(self) -> Model:
        """The model that needs the previous stage of a cascade, if any does."""
        models = (m for m in self.ensemble.models if m.configuration.previous_stage_name)
        return next(models, self.model)

    def _prepare(self, case: Case) -> PreparedCase:
        return self._prepare_for_all(lambda model: prepare_case(case, model))

    def _prepare_for_all(self, prepare: Callable[[Model], PreparedCase]) -> PreparedCase:
        """A case as the first model sees it, and as each does that sees it otherwise."""
        others = {name: prepare(model) for name, model in self.ensemble.others.items()}
        return replace(prepare(self.model), others=others)

    def _finish(self, folder: Path) -> None:
        """Tables of all that is there, after an interruption too."""
        compute_gaussian.cache_clear()
        write_tables(folder, self.describe())
