"""Every example of documentation/any_network.md runs as it stands, one after another."""

import re
import sys
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parents[1] / "documentation" / "any_network.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch.compile's own
def test_the_examples_run(shapes_unchecked, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "my_networks", None)  # the page puts a module here
    text = PAGE.read_text(encoding="utf-8")
    namespace: dict = {"__name__": "example"}
    with torch.random.fork_rng():
        for match in BLOCK.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            code = "\n" * line + match.group(1)  # errors name the line of the page
            exec(compile(code, str(PAGE), "exec"), namespace)
    printed = capsys.readouterr().out
    for shown in re.findall(r"print\(.*#\s(.*\d.*)$", text, re.MULTILINE):
        for part in shown.removesuffix(" is the last").split(" ... "):
            assert part in printed
