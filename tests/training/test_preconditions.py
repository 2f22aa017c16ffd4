import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nnunetv2_le.errors import InputError, SettingError
from nnunetv2_le.training.preconditions import (
    preprocessed_dataset,
    require_batch_for,
    require_configuration,
    require_folders,
    require_previous_stage,
)
from tests.conftest import NnunetFolders


@pytest.fixture
def dataset(nnunet_folders: NnunetFolders) -> Path:
    folder = nnunet_folders.preprocessed / "Dataset007_Tiny"
    (folder / "plans_2d").mkdir(parents=True)
    (folder / "plans_2d" / "case.b2nd").touch()
    (folder / "plans_empty").mkdir()
    (folder / "dataset.json").write_text("{}")
    configurations = {
        "2d": {"data_identifier": "plans_2d"},
        "small": {"inherits_from": "2d"},
        "3d_fullres": {"data_identifier": "plans_3d"},
        "empty": {"data_identifier": "plans_empty"},
        "nameless": {},
        "orphan": {"inherits_from": "3d_fulres"},
        "heir": {"inherits_from": "its_heir"},
        "its_heir": {"inherits_from": "heir"},
    }
    (folder / "somePlans.json").write_text(json.dumps({"configurations": configurations}))
    return folder


@pytest.mark.parametrize("variable", ["nnUNet_preprocessed", "nnUNet_results"])
def test_a_missing_variable_is_named(
    variable: str, nnunet_folders: NnunetFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(variable)
    with pytest.raises(SettingError, match=f"export {variable}="):
        require_folders()


@pytest.mark.parametrize("name", ["7", "Dataset007_Tiny"])
def test_a_dataset_is_found_by_number_and_name(name: str, dataset: Path) -> None:
    assert preprocessed_dataset(name) == dataset


def test_neither_number_nor_name_is_refused(dataset: Path) -> None:
    with pytest.raises(SettingError, match="'hippocampus'"):
        preprocessed_dataset("hippocampus")


def test_an_unknown_number_is_refused(dataset: Path) -> None:
    with pytest.raises(InputError, match="No data set has the number '8'"):
        preprocessed_dataset("8")


def test_a_number_of_two_datasets_is_refused(dataset: Path) -> None:
    (dataset.parent / "Dataset007_Other").mkdir()
    with pytest.raises(InputError, match=r"Several data sets have the number '7'.*full name"):
        preprocessed_dataset("7")


def test_a_dataset_that_is_not_preprocessed_is_refused(nnunet_folders: NnunetFolders) -> None:
    (nnunet_folders.raw / "Dataset008_Raw").mkdir()
    with pytest.raises(InputError, match="nnUNetv2_plan_and_preprocess"):
        preprocessed_dataset("8")


@pytest.mark.parametrize("configuration", ["2d", "small"])
def test_a_preprocessed_configuration_passes(dataset: Path, configuration: str) -> None:
    require_configuration(dataset, "somePlans", configuration=configuration)


def test_unknown_plans_are_refused_with_those_there_are(dataset: Path) -> None:
    with pytest.raises(InputError, match=r"No plans 'nnUNetPlans'.*there are: somePlans\."):
        require_configuration(dataset, "nnUNetPlans", configuration="2d")


def test_an_unknown_configuration_is_refused_with_those_there_are(dataset: Path) -> None:
    with pytest.raises(SettingError, match=r"no configuration '3d_lowres'.*2d, small, 3d_fullres"):
        require_configuration(dataset, "somePlans", configuration="3d_lowres")


@pytest.mark.parametrize(
    ("configuration", "message"),
    [
        ("3d_fullres", r"plans_3d has no cases.*nnUNetv2_preprocess -c 3d_fullres"),
        ("empty", r"plans_empty has no cases.*nnUNetv2_preprocess -c empty"),
        ("nameless", r"'nameless' of .*somePlans\.json lacks data_identifier"),
    ],
)
def test_a_configuration_without_preprocessed_cases_is_refused(
    dataset: Path, configuration: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        require_configuration(dataset, "somePlans", configuration=configuration)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff\xfe", b'{"configurations": [1]}'])
def test_plans_that_are_none_are_refused_by_name(dataset: Path, content: bytes) -> None:
    (dataset / "somePlans.json").write_bytes(content)
    with pytest.raises(InputError, match=r"somePlans\.json is no plans file of nnU-Net"):
        require_configuration(dataset, "somePlans", configuration="2d")


def test_the_name_of_a_dataset_is_plain_text(nnunet_folders: NnunetFolders) -> None:
    (nnunet_folders.raw / "Dataset008_Raw").mkdir()
    with pytest.raises(InputError, match="The data set 'Dataset008_Raw' is not preprocessed"):
        preprocessed_dataset("8")


def _second_stage(folder: Path | None) -> Any:
    """What the check asks of a trainer of nnU-Net."""
    return SimpleNamespace(
        is_cascaded=folder is not None,
        folder_with_segs_from_previous_stage=folder,
        configuration_manager=SimpleNamespace(previous_stage_name="3d_lowres"),
        do_split=lambda: (["case_2", "case_0"], ["case_1"]),
    )


def test_a_cascade_needs_the_previous_stage_of_every_case(tmp_path: Path) -> None:
    trainer = _second_stage(tmp_path / "predicted_next_stage")
    with pytest.raises(InputError, match=r"3d_lowres .* for case_0 and 2 more, .*same -tr first"):
        require_previous_stage(trainer)
    trainer = _second_stage(tmp_path)
    for file in ("case_0.b2nd", "case_2.npz"):
        (tmp_path / file).touch()
    with pytest.raises(InputError, match=r"has not been predicted for case_1, expected in"):
        require_previous_stage(trainer)
    with pytest.raises(InputError, match="for case_1, expected"):
        require_previous_stage(trainer, only_validation=True)
    (tmp_path / "case_1.npy").touch()
    require_previous_stage(trainer)
    (tmp_path / "case_0.b2nd").unlink()
    require_previous_stage(trainer, only_validation=True)


@pytest.mark.parametrize(("configuration", "parent"), [("orphan", "3d_fulres"), ("heir", "heir")])
def test_a_configuration_without_a_parent_of_its_own_is_named(
    dataset: Path, configuration: str, parent: str
) -> None:
    with pytest.raises(InputError, match=f"inherits_from {parent!r}"):
        require_configuration(dataset, "somePlans", configuration=configuration)


def test_other_configurations_need_no_previous_stage() -> None:
    require_previous_stage(_second_stage(None))


def test_every_gpu_needs_an_image_of_the_batch_of_the_configuration_itself(tmp_path: Path) -> None:
    plans = tmp_path / "plans.json"
    configurations = {
        "2d": {"batch_size": 12},
        "small": {"inherits_from": "2d", "batch_size": 2},
        "same": {"inherits_from": "2d"},
        "unknown": {},
    }
    plans.write_text(json.dumps({"configurations": configurations}))
    for configuration, most in (("2d", 12), ("small", 2), ("same", 12)):
        require_batch_for(most, plans, configuration=configuration)
        said = rf"{most + 1} GPUs share the batch of '{configuration}', which has {most} images"
        with pytest.raises(SettingError, match=said):
            require_batch_for(most + 1, plans, configuration=configuration)
    require_batch_for(99, plans, configuration="unknown")


def test_only_plans_are_offered_as_plans(dataset: Path) -> None:
    for name in ("dataset_fingerprint", "splits_final"):
        (dataset / f"{name}.json").write_text("{}")
    with pytest.raises(InputError, match=r"there are: somePlans\. Choose by -p"):
        require_configuration(dataset, "otherPlans", configuration="2d")
