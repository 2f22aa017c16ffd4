"""The package as a whole: floors, commands, what an installation contains."""

import ast
import importlib
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SOURCE = REPOSITORY / "nnunetv2_le"
MODULES = sorted(SOURCE.rglob("*.py"))
COMMANDS = (
    "train",
    "ext_trainers",
    "predict",
    "predict_from_modelfolder",
    "evaluate",
    "compare",
    "calibrate",
    "demo",
)

# The floors of the design: a folder imports from floors below its own, and from itself. Inference
# stands above training: loading a model means finding its trainer.
FLOORS = {
    "errors": 0,
    "precision": 0,
    "types": 0,
    "version": 0,
    "demo": 1,
    "network": 1,
    "uncertainty": 1,
    "training": 2,
    "ext_trainers": 3,
    "inference": 3,
    "evaluation": 4,
    "calibration": 5,
    "report": 5,
    "cli": 6,
}

# The registry asks this folder where it lies, and nothing else.
ALLOWED = {("nnunetv2_le.training.registry", "ext_trainers")}


def _name(module: Path) -> str:
    parts = module.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(module: Path) -> set[str]:
    """Folders (or top-level modules) of the package that a module imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    parts = (name.split(".") for name in names if name.startswith("nnunetv2_le."))
    return {part[1] for part in parts if part[1] in FLOORS}


@pytest.mark.parametrize("module", MODULES, ids=_name)
def test_a_module_imports_and_says_what_it_is(module):
    imported = importlib.import_module(_name(module))
    assert imported.__doc__
    assert imported.__doc__.strip()


@pytest.mark.parametrize("module", MODULES, ids=_name)
def test_imports_point_down(module):
    folder = _name(module).split(".")[1] if "." in _name(module) else None
    if folder is None:
        assert "cli" not in _imported(module)
        return
    upward = {
        other
        for other in _imported(module)
        if other != folder
        and FLOORS[other] >= FLOORS[folder]
        and (_name(module), other) not in ALLOWED
    }
    assert not upward


def test_every_folder_has_a_floor():
    assert {_name(module).split(".")[1] for module in MODULES if "." in _name(module)} <= set(
        FLOORS
    )


def test_help_of_every_command_needs_no_torch():
    """``--help`` answers at once: what is heavy is imported when a command runs."""
    program = f"""
import importlib, sys
for name in {COMMANDS!r}:
    module = importlib.import_module("nnunetv2_le.cli." + name)
    assert module.build_parser().prog == "nnUNetv2_le_" + name, name
    assert callable(module.main), name
print(sorted({{"torch", "nnunetv2", "matplotlib.pyplot", "pandas"}} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_an_installation_has_every_command_module_and_marker():
    try:
        installed = distribution("nnunetv2_le")
    except PackageNotFoundError:
        pytest.skip("the package is not installed here, only importable")
    scripts = {e.name: e.value for e in installed.entry_points if e.group == "console_scripts"}
    assert scripts == {f"nnUNetv2_le_{name}": f"nnunetv2_le.cli.{name}:main" for name in COMMANDS}
    root = Path(importlib.import_module("nnunetv2_le").__path__[0])
    for file in (*MODULES, SOURCE / "py.typed"):
        assert (root / file.relative_to(SOURCE)).is_file()


def test_there_is_one_version():
    from nnunetv2_le.version import __version__

    citation = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.+)$", citation, re.MULTILINE).group(1) == __version__


def test_loggers_of_commands_are_those_of_the_package_also_with_python_m():
    for module in (SOURCE / "cli").glob("*.py"):
        named = re.findall(r"getLogger\((.*)\)", module.read_text(encoding="utf-8"))
        assert set(named) <= {f'"{_name(module)}"', '"nnunetv2_le"'}, module
