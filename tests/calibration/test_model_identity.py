"""What a calibration belongs to: everything that its scores depend on."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from nnunetv2_le.calibration.calibration_file import Calibration, require_matches
from nnunetv2_le.calibration.model_identity import identity_of
from nnunetv2_le.errors import InputError
from nnunetv2_le.inference.model import Model
from nnunetv2_le.inference.settings import PredictionSettings
from nnunetv2_le.types import Family, Labels, MemberPlan


@pytest.fixture
def model(tmp_path: Path) -> Any:
    """As much of a model with two folds as an identity asks for."""
    for fold in (0, 1):
        (tmp_path / f"fold_{fold}").mkdir()
        (tmp_path / f"fold_{fold}" / "checkpoint_final.pth").write_text(f"{fold}")
    (tmp_path / "plans.json").write_text("{}")
    return mock.Mock(
        spec=Model,
        plans=SimpleNamespace(dataset_name="Dataset999_Tiny", plans_name="nnUNetPlans"),
        trainer_name="LayerEnsembleTrainer",
        configuration_name="3d_fullres",
        folds=(0, 1),
        checkpoint_names=("checkpoint_final.pth",),
        sources=[SimpleNamespace(head_names=("encoder_0", "decoder_0"))],
        labels=Labels(("front",), (1,)),
        mirror_axes=(2,),
        folder=tmp_path,
    )


def identity(model: Any, *, num_samples: int = 10, **settings: Any) -> Any:
    families = (
        Family("heads", model.sources[0].head_names, ordered=True),
        Family("dropout", tuple(f"dropout_{number}" for number in range(num_samples))),
    )
    return identity_of(
        model, MemberPlan(families, (1,)), PredictionSettings(**settings), folds_alone=False
    )


def test_the_number_of_members_of_each_family_belongs_to_it(model: Any) -> None:
    made = Calibration(identity(model), 20, 20)
    require_matches(made, identity(model))
    said = "members: heads 2, dropout 10, but the model has members: heads 2, dropout 2;"
    with pytest.raises(InputError, match=said):
        require_matches(made, identity(model, num_samples=2))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"use_mirroring": False}, "mirroring: True, but the model has mirroring: False"),
        ({"use_gaussian": False}, "Gaussian weights: True, but the model has Gaussian weights: F"),
    ],
)
def test_mirroring_and_weights_belong_to_it_whatever_the_members(
    model: Any, settings: dict[str, bool], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        require_matches(Calibration(identity(model), 20, 20), identity(model, **settings))


def test_the_order_of_folds_does_not_matter(model: Any) -> None:
    made = Calibration(identity(model), 20, 20)
    model.folds = (1, 0)
    require_matches(made, identity(model))
