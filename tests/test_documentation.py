"""What the documentation says is true of the code: links, flags, columns, examples."""

import argparse
import importlib
import io
import re
import subprocess
import sys
from contextlib import redirect_stdout, suppress
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest

import nnunetv2_le
from nnunetv2_le.types import FAMILIES, Family, MemberPlan
from nnunetv2_le.uncertainty.columns import JUDGED_COLUMNS, describe_columns

REPOSITORY = Path(__file__).parents[1]
README = REPOSITORY / "README.md"
GUIDE = REPOSITORY / "documentation" / "user_guide.md"
PAGES = [README, *sorted((REPOSITORY / "documentation").rglob("*.md"))]
SOURCES = sorted((REPOSITORY / "nnunetv2_le").rglob("*.py"))

# Flags in pages that only mention commands in passing would need a reader to know which is meant.
PAGES_WITH_FLAGS = [README, GUIDE, REPOSITORY / "documentation" / "evaluation.md"]
OURS = "nnUNetv2_le_"
COMMANDS = {
    OURS + module.stem
    for module in (REPOSITORY / "nnunetv2_le" / "cli").glob("*.py")
    if "def build_parser" in module.read_text(encoding="utf-8")
}
FLAG = re.compile(r"(?<![\w-])--?[A-Za-z][\w-]*")
COMMAND = re.compile(r"\bnnUNetv2_\w+")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
DIRECTIONS = {"better": "higher_is_better", "worse": "higher_is_worse", "-": "none"}


class Command(NamedTuple):
    """A command as a page writes it."""

    name: str
    arguments: str


def _id(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def _prose(text: str) -> str:
    return FENCE.sub("", text)


# --- links


def _links(page: Path) -> list[str]:
    found = re.findall(r"\]\(([^)\s]+)\)", _prose(page.read_text(encoding="utf-8")))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def _anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _prose(page.read_text(encoding="utf-8")), re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_every_relative_link_leads_to_a_file_and_a_heading(page):
    for link in _links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in _anchors(target), link


def test_the_index_links_every_page():
    index = REPOSITORY / "documentation" / "index.md"
    linked = {(index.parent / link).resolve() for link in _links(index)}
    missing = [_id(page) for page in PAGES if not linked & {page, page.parent, index.resolve()}]
    assert not [name for name in missing if name != _id(index)]


@pytest.mark.parametrize("source", SOURCES, ids=_id)
def test_pages_that_the_code_refers_to_exist(source):
    text = source.read_text(encoding="utf-8")
    for page in re.findall(r"documentation/[\w/-]+\.md", text):
        assert (REPOSITORY / page).is_file(), page


# --- commands and their flags


def _shell_lines(text: str) -> list[str]:
    """Lines of indented blocks, and of fenced ones that are not another language's."""
    fenced = [block for language, block in FENCE.findall(text) if language in ("", "bash", "sh")]
    indented = re.findall(r"^ {4}(.*)$", _prose(text), re.MULTILINE)
    return "\n".join([*fenced, *indented]).replace("\\\n", " ").splitlines()


def _commands(page: Path) -> list[Command]:
    """Every command with arguments, from shell examples and from code within the text."""
    text = page.read_text(encoding="utf-8")
    spans = re.findall(r"`([^`]+)`", _prose(text))
    found = []
    for line in [*_shell_lines(text), *(" ".join(span.split()) for span in spans)]:
        for part in re.split(r"[;|&]| #", line):
            if match := COMMAND.match(part.strip().removeprefix("$ ")):
                found.append(Command(match.group(), part.strip()[match.end() :]))
    return found


def _parser(command: str) -> argparse.ArgumentParser:
    module = importlib.import_module(f"nnunetv2_le.cli.{command.removeprefix(OURS)}")
    parser = module.build_parser()
    assert parser.prog == command
    return parser


@cache
def _flags(command: str) -> frozenset[str]:
    """Flags of a command of ours, or of nnU-Net's from the help that it prints."""
    if command.startswith(OURS):
        importlib.import_module("nnunetv2_le.cli.common").add_verbose_argument(
            parser := _parser(command)
        )
        return frozenset(flag for action in parser._actions for flag in action.option_strings)
    (entry,) = distribution("nnunetv2").entry_points.select(name=command)
    stream = io.StringIO()
    with (
        mock.patch.object(sys, "argv", [command, "--help"]),
        redirect_stdout(stream),
        suppress(SystemExit),
    ):
        entry.load()()
    return frozenset(FLAG.findall(stream.getvalue()))


@pytest.mark.parametrize("page", PAGES_WITH_FLAGS, ids=_id)
def test_flags_of_every_command_that_is_shown_exist(page):
    commands = _commands(page)
    assert any(FLAG.search(command.arguments) for command in commands)
    for command in commands:
        unknown = set(FLAG.findall(command.arguments)) - _flags(command.name)
        assert not unknown, command


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_flags_of_our_commands_exist_on_every_page(page):
    for command in _commands(page):
        if command.name in COMMANDS:
            unknown = set(FLAG.findall(command.arguments)) - _flags(command.name)
            assert not unknown, command


def _sections(page: Path) -> list[tuple[str, str]]:
    """Headings of the second level with what stands below them."""
    parts = re.split(r"^## (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("page", PAGES_WITH_FLAGS, ids=_id)
def test_flags_named_alone_belong_to_the_commands_of_their_heading(page):
    """Under a heading without a command a flag may be any command's of ours."""
    for heading, text in _sections(page):
        ours = {name for name in COMMAND.findall(heading) if name.startswith(OURS)} or COMMANDS
        known = frozenset().union(*map(_flags, ours))
        for span in re.findall(r"`(--?[A-Za-z][^`]*)`", _prose(text)):
            assert set(FLAG.findall(span)) <= known, (heading, span)


@pytest.mark.parametrize("command", ["train", "predict", "predict_from_modelfolder", "calibrate"])
def test_the_user_guide_names_every_flag(command):
    named = set(FLAG.findall(GUIDE.read_text(encoding="utf-8")))
    assert _flags(OURS + command) - {"-h", "--help"} <= named


def test_the_user_guide_names_every_trainer_and_no_other():
    trainers = importlib.import_module("nnunetv2_le.ext_trainers.nnunetv2_le_trainers").__all__
    text = GUIDE.read_text(encoding="utf-8")
    lengths = {
        f"{row.group(1)}{end}"
        for row in re.finditer(r"^\| `(\w+)_\d+epochs?`.*$", text, re.MULTILINE)
        for end in re.findall(r"`(_\d+epochs?)`", row.group())
    }
    named = {name for name in re.findall(r"\b\w+Trainer\w*", text) if name[:5] != "nnUNe"}
    assert named | lengths == set(trainers)


@pytest.mark.parametrize("page", ["user_guide.md", "mathematics.md"])
def test_pages_state_the_shares_of_the_gradient_that_the_trainer_has(page):
    module = importlib.import_module("nnunetv2_le.training.layer_ensemble_trainer")
    trainer = module.LayerEnsembleTrainer
    text = (REPOSITORY / "documentation" / page).read_text(encoding="utf-8")
    stated = re.search(r"(0\.\d+) of\s+the\s+encoder heads', (0\.\d+) of\s+the", text)
    assert stated is not None
    assert tuple(map(float, stated.groups())) == (
        trainer.encoder_gradient,
        trainer.decoder_gradient,
    )


# --- the tables of the README


def _table(header: str, page: Path = README) -> dict[str, list[str]]:
    """Rows of a page's table whose first column has this header, by the name in backticks."""
    lines = page.read_text(encoding="utf-8").splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(f"| {header} |"))
    rows = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        first, *others = (cell.strip() for cell in line.strip("|").split("|"))
        rows[re.findall(r"`([^`]+)`", first)[0]] = others
    return rows


def test_the_user_guide_describes_exactly_the_columns_of_a_calibrated_model():
    described = {
        name: (column.unit, column.direction, column.description)
        for name, column in JUDGED_COLUMNS.items()
    }
    rows = _table("column", GUIDE)
    assert list(rows) == list(described)
    assert {
        name: (unit, DIRECTIONS[direction], meaning)
        for name, (unit, direction, meaning) in rows.items()
    } == described


def _columns_of_the_readme() -> dict[str, tuple[str, str, str]]:
    """Unit, direction and meaning of each column, FAMILY and AGGREGATION filled in."""
    aggregations = {name: cells[0] for name, cells in _table("AGGREGATION").items()}
    columns = {}
    for template, (unit, direction, meaning) in _table("column").items():
        for family in FAMILIES if "FAMILY" in template else [""]:
            for name, text in aggregations.items() if "AGGREGATION" in template else [("", "")]:
                column = template.replace("FAMILY", family).replace("AGGREGATION", name)
                said = meaning.replace("FAMILY", family).replace("AGGREGATION", text)
                columns[column] = (unit, DIRECTIONS[direction], said)
    return columns


def _plan() -> MemberPlan:
    families = (Family(name, ("a", "b"), ordered=name == "heads") for name in FAMILIES)
    return MemberPlan(tuple(families), fused=(0,))


def _maps() -> tuple[str, ...]:
    settings = importlib.import_module("nnunetv2_le.inference.settings")
    return settings.available_maps(_plan().families)


def test_the_readme_describes_exactly_the_columns_that_there_are():
    described = {
        name: (column.unit, column.direction, column.description)
        for name, column in describe_columns(_plan(), _maps()).items()
    }
    assert _columns_of_the_readme() == described


def test_the_readme_names_exactly_the_maps_that_there_are():
    named = {
        template.replace("FAMILY", family) for template in _table("map") for family in FAMILIES
    }
    assert named == set(_maps())


def test_the_readme_shows_columns_in_the_order_of_the_table():
    header = next(
        line.strip()
        for line in README.read_text(encoding="utf-8").splitlines()
        if line.startswith("    case ")
    )
    shown = header.split()
    every = ["case", *describe_columns(_plan(), _maps())]
    assert shown == sorted(shown, key=every.index)


# --- examples


def _python_blocks() -> list[tuple[str, str]]:
    return [
        (f"{_id(page)}:{number}", block)
        for page in PAGES
        for number, (language, block) in enumerate(FENCE.findall(page.read_text(encoding="utf-8")))
        if language == "python"
    ]


@pytest.mark.parametrize("block", [pytest.param(b, id=name) for name, b in _python_blocks()])
def test_python_examples_compile_and_import_what_exists(block):
    compile(block, "example", "exec")
    for module, names in re.findall(r"^from (nnunetv2_le[\w.]*) import (.+)$", block, re.MULTILINE):
        imported = importlib.import_module(module)
        assert all(hasattr(imported, name.strip()) for name in names.split(","))


# --- the names of the package


def test_importing_the_package_imports_nothing_heavy():
    program = (
        "import sys, nnunetv2_le; dir(nnunetv2_le); nnunetv2_le.__version__; "
        "print(sorted({'torch', 'nnunetv2', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


@pytest.mark.parametrize("name", sorted({*nnunetv2_le.__all__} - {"__version__"}))
def test_a_public_name_is_that_of_its_module(name):
    found = getattr(nnunetv2_le, name)
    assert found is getattr(importlib.import_module(found.__module__), name)
    assert name in nnunetv2_le.__all__
    assert name in dir(nnunetv2_le)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Predictor'"):
        _ = nnunetv2_le.Predictor
