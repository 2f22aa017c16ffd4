"""Every example of documentation/any_network.md runs as it stands, one after another."""

import re
import sys
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parents[1] / "documentation" / "any_network.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # those of torch.compile and of other libraries
    pytest.mark.usefixtures("shapes_unchecked"),
]


def _run(blocks: list[re.Match]) -> None:
    namespace: dict = {"__name__": "example"}
    with torch.random.fork_rng():
        for block in blocks:
            line = TEXT.count("\n", 0, block.start()) + 1
            code = "\n" * line + block.group(1)  # errors name the line of the page
            exec(compile(code, str(PAGE), "exec"), namespace)


def _shown(blocks: list[re.Match]) -> list[str]:
    """What comments say is printed, where they quote it."""
    code = "".join(block.group(1) for block in blocks)
    comments = re.findall(r"print\(.*#\s(.*\d.*)$", code, re.MULTILINE)
    return [part for text in comments for part in text.removesuffix(" is the last").split(" ... ")]


def _blocks(*, monai: bool) -> list[re.Match]:
    return [block for block in BLOCK.finditer(TEXT) if ("monai" in block.group(1)) == monai]


def test_the_examples_run(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "my_networks", None)  # the page puts a module here
    blocks = _blocks(monai=False)
    assert len(blocks) > 5
    _run(blocks)
    printed = capsys.readouterr().out
    assert not [shown for shown in _shown(blocks) if shown not in printed]


def test_the_example_with_monai_runs_where_it_is_installed(capsys):
    pytest.importorskip("monai")
    imports, *_ = _blocks(monai=False)
    blocks = [imports, *_blocks(monai=True)]
    _run(blocks)
    printed = capsys.readouterr().out
    assert not [shown for shown in _shown(blocks) if shown not in printed]
