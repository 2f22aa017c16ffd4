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

__all__ = ["CasePrediction", "LayerEnsemblePredictor", "PredictionSettings", "__version__"]

_MODULES = {
    "CasePrediction": "nnunetv2_le.inference.prediction",
    "LayerEnsemblePredictor": "nnunetv2_le.inference.predictor",
    "PredictionSettings": "nnunetv2_le.inference.settings",
}


def __getattr__(name: str) -> Any:
    """Look up a public name in its module."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """Public names, whether they were used yet or not."""
    return sorted({*globals(), *__all__})
