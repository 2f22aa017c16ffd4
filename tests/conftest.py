"""What all tests share: where the real data lie, and nnU-Net's folders.

Real data: ``data_root`` is nnU-Net's raw folder with ``Dataset004_Hippocampus`` and
``Dataset101_LIDC``, from the environment variable below or from ``../shared/data/nnUNet_raw``
beside the repository. Tests that need it are skipped where it is absent, and the last lines of the
run say so.
"""

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import jaxtyping
import pytest
from hypothesis import settings

DATA_VARIABLE = "NNUNETV2_LE_TEST_DATA"
DEFAULT_DATA = Path(__file__).parents[2] / "shared" / "data" / "nnUNet_raw"
NNUNET_VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")

# The machine is shared: how long an example takes says nothing. Reproducible, as everything in CI.
settings.register_profile("tests", deadline=None, derandomize=True)
settings.load_profile("tests")


@dataclass(frozen=True)
class NnunetFolders:
    """nnU-Net's three folders for one test (or one module)."""

    raw: Path
    preprocessed: Path
    results: Path


@pytest.fixture(scope="session", autouse=True)
def progress_is_not_drawn() -> Iterator[Any]:
    """nnU-Net draws a large picture after each epoch, which takes longer than our epochs.

    Gives its own way to draw, for the test that wants the picture.
    """
    from nnunetv2.training.logging.nnunet_logger import MetaLogger

    drawing = MetaLogger.plot_progress_png
    with mock.patch.object(MetaLogger, "plot_progress_png"):
        yield drawing


@pytest.fixture(scope="session", autouse=True)
def threads_stay_as_they_are() -> Iterator[None]:
    """Commands take every processor, as nnU-Net's do; the workers of the tests share them."""
    with mock.patch("torch.set_num_threads"):
        yield


@pytest.fixture(scope="session")
def data_root(request: pytest.FixtureRequest) -> Path:
    """The folder with the real data sets; skips the test where there is none."""
    folder = Path(os.environ.get(DATA_VARIABLE, DEFAULT_DATA))
    if not (folder / "Dataset004_Hippocampus").is_dir():
        pytest.skip(f"real data are absent: {folder} has no Dataset004_Hippocampus")
    return folder


@pytest.fixture
def nnunet_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NnunetFolders:
    """Empty nnU-Net folders for one test; the environment is restored afterwards."""
    return _set_folders(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def module_nnunet_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NnunetFolders]:
    """Empty nnU-Net folders for all tests of a module: trained once, used by many."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield _set_folders(tmp_path_factory.mktemp("nnunet"), monkeypatch)


@pytest.fixture
def shapes_unchecked() -> Iterator[None]:
    """What a user meets, who has no shape checks: for tests of our errors about wrong shapes."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def _set_folders(root: Path, monkeypatch: pytest.MonkeyPatch) -> NnunetFolders:
    """Create the folders and point nnU-Net at them; it reads the variables when it needs them."""
    for variable in NNUNET_VARIABLES:
        (root / variable).mkdir()
        monkeypatch.setenv(variable, str(root / variable))
    monkeypatch.setenv("nnUNet_compile", "f")
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setenv("nnUNet_def_n_proc", "1")
    return NnunetFolders(*(root / variable for variable in NNUNET_VARIABLES))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: at the end no worker waits for another."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_runtest_setup() -> None:
    """beartype checks one item of a sequence, drawn by chance: the same one in every run."""
    random.seed(0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly that tests on real data did not run."""
    skipped = terminalreporter.stats.get("skipped", [])
    number = sum("real data are absent" in str(report.longrepr) for report in skipped)
    if number:
        terminalreporter.write_line(
            f"{number} TESTS WERE SKIPPED BECAUSE THE REAL DATA ARE ABSENT: SET {DATA_VARIABLE} TO "
            "A FOLDER WITH Dataset004_Hippocampus AND Dataset101_LIDC IN NNU-NET RAW LAYOUT.",
            red=True,
            bold=True,
        )
