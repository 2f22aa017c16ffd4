"""Layer Ensembles inside nnU-Net v2: a segmentation, and how far to trust it.

Importing the package imports nothing heavy: the names below are looked up when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nnunetv2_le.version import __version__

if TYPE_CHECKING:
    from nnunetv2_le.inference.prediction import CasePrediction
    from nnunetv2_le.inference.predictor import LayerEnsemblePredictor
    from nnunetv2_le.inference.settings import PredictionSettings
    from nnunetv2_le.network.any_network import LayerEnsemble
    from nnunetv2_le.network.feature_layers import candidate_layers
    from nnunetv2_le.training.losses import summed_loss
    from nnunetv2_le.uncertainty.layer_scores import (
        score_classification,
        score_regression,
        score_segmentation,
    )

__all__ = [
    "CasePrediction",
    "LayerEnsemble",
    "LayerEnsemblePredictor",
    "PredictionSettings",
    "__version__",
    "candidate_layers",
    "score_classification",
    "score_regression",
    "score_segmentation",
    "summed_loss",
]

_MODULES = {
    "CasePrediction": "nnunetv2_le.inference.prediction",
    "LayerEnsemble": "nnunetv2_le.network.any_network",
    "LayerEnsemblePredictor": "nnunetv2_le.inference.predictor",
    "PredictionSettings": "nnunetv2_le.inference.settings",
    "candidate_layers": "nnunetv2_le.network.feature_layers",
    "score_classification": "nnunetv2_le.uncertainty.layer_scores",
    "score_regression": "nnunetv2_le.uncertainty.layer_scores",
    "score_segmentation": "nnunetv2_le.uncertainty.layer_scores",
    "summed_loss": "nnunetv2_le.training.losses",
}


def __getattr__(name: str) -> Any:
    """Look up a public name in its module."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """Public names, whether they were used yet or not."""
    return sorted({*globals(), *__all__})
