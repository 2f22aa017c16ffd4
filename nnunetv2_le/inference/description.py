"""What ``uncertainty.json`` says of a run."""

import platform
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch

from nnunetv2_le.inference.ensemble import Ensemble
from nnunetv2_le.inference.model import Model
from nnunetv2_le.inference.settings import PredictionSettings
from nnunetv2_le.types import MemberPlan
from nnunetv2_le.uncertainty.columns import describe_columns, describe_component_columns
from nnunetv2_le.version import __version__


def describe_run(
    ensemble: Ensemble, plan: MemberPlan, settings: PredictionSettings
) -> dict[str, Any]:
    """Columns, members, settings, models and versions; ``model`` is the first of the models."""
    described = describe_columns(plan, settings.maps)
    of_components = describe_component_columns(plan)
    return {
        "columns": {name: asdict(column) for name, column in described.items()},
        "component_columns": {name: asdict(column) for name, column in of_components.items()},
        "families": {family.name: list(family.members) for family in plan.families},
        "settings": asdict(settings) | {"families": [family.name for family in plan.families]},
        "model": _describe(ensemble.first),
        "models": {
            name: _describe(model)
            for name, model in zip(ensemble.names, ensemble.models, strict=True)
        },
        "versions": {
            "nnunetv2_le": __version__,
            "nnunetv2": version("nnunetv2"),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def _describe(model: Model) -> dict[str, Any]:
    return {
        "dataset": model.plans.dataset_name,
        "trainer": model.trainer_name,
        "plans": model.plans.plans_name,
        "configuration": model.configuration_name,
        "folds": list(model.folds),
        "checkpoint": ", ".join(model.checkpoint_names),
    }
