"""A case that is predicted in bands has the very results of one that is not."""

from pathlib import Path
from typing import Any

import pytest
from inference import faulty_runs as runs
from inference.model_folders import TinyModel

from nnunetv2_le.inference import grid_predictor

pytestmark = pytest.mark.slow


def test_bands_change_no_file(tmp_path: Path, monkeypatch: Any, caplog: Any):
    model = TinyModel(trainer="LayerEnsembleTrainer", stages=3, mirror_axes=(2,))
    folder = model.write(tmp_path / "model")
    source = runs.write_cases(tmp_path / "in", runs.CASES[:1])
    assert runs.predict(folder, source, tmp_path / "whole") == 0
    monkeypatch.setattr(grid_predictor, "_BLENDING_BYTES", 60_000)
    assert runs.predict(folder, source, tmp_path / "bands") == 0
    assert "bands to save memory" in caplog.text
    runs.require_same_results(tmp_path / "bands", tmp_path / "whole")
