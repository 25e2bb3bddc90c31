"""Names of layers that steer terminals, browsers, plots and graph editors: shown as they are spelled."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import networkx as nx
import pytest
import torch
from rich.console import Console
from torch import nn

import fxprune
from fxprune.errors import FxpruneError
from fxprune.escaping import dot, line, markdown, plot, terminal, xml
from fxprune.inspection.explain import WidthRow, group_table
from fxprune.inspection.graph_files import write_graph
from fxprune.report.plots import plot_widths
from fxprune.report.sheets import Sheet, group_sheet
from fxprune.report.steps import Steps, show_error

NAMES = (
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "[bold]x[/bold]",
    "<img src=http:__a_b>",
    "![x](http:__a_b)",
    "a$b{c$",
    'say "\\N" {x|y}',
    "line\nbreak",
    "\u202eright to left",
    "\x01\x0b\x7f\x9b",
    "`code` *bold* __init__",
    "\ud800",
)
BAD = ("\x1b", "\x07", "\x01", "\x0b", "\x7f", "\x9b", "\u202e", "\ud800")


def _sheet() -> Sheet:
    return Sheet("\x1b[2J", ("name", "n>"), tuple((name, "1") for name in NAMES), footer="\x1b[0m <b>")


def _drawn(shown: object) -> str:
    out = io.StringIO()
    Console(file=out, width=200, force_terminal=True, color_system=None).print(shown)
    return out.getvalue()


def test_terminal() -> None:
    text = _drawn(_sheet().rich())
    assert not any(char in text for char in BAD)
    assert "\\x1b[31mred" in text and "[bold]x[/bold]" in text and "line\\nbreak" in text
    error = FxpruneError(NAMES[0], tensor=NAMES[1], source=NAMES[8], advice=NAMES[11])
    out = io.StringIO()
    show_error(error, Console(file=out, width=200, color_system=None))
    for said in (out.getvalue(), str(error)):
        assert not any(char in said for char in BAD)
        said.encode()
    assert terminal("é \N{PARTY POPPER}\n\t") == "é \N{PARTY POPPER}\n\t"


def test_steps() -> None:
    out = io.StringIO()
    with Steps(Console(file=out, width=200, color_system=None)).step("load \x1b[31m[bold]\\") as ticks:
        ticks.note("\x9b2J[/]")
    assert "load \\x1b[31m[bold]\\" in out.getvalue() and "\\x9b2J[/]" in out.getvalue()


def test_markdown() -> None:
    """No character of a name begins markup: each that could has a backslash before it."""
    for name in NAMES:
        text = markdown(name)
        assert "\n" not in text and not any(char in text for char in BAD)
        assert all(text[at - 1] == "\\" for at, char in enumerate(text) if char in "<>[]`*!|$")
    assert markdown("layer1.0.conv_1") == "layer1.0.conv_1"
    report = _sheet().markdown()
    assert "<img" not in report.replace("\\<", "") and "![x](" not in report


def test_graph_files(tmp_path: Path) -> None:
    graph: nx.MultiGraph[tuple[str, int]] = nx.MultiGraph()
    for name in NAMES:
        graph.add_node((name, 0), tensor=name, dim=0, size=3, group=name, pinned=name)
    for a, b in pairwise(NAMES):
        graph.add_edge((a, 0), (b, 0), op="aten.relu", node=a, source=b)
    read = nx.read_graphml(write_graph(graph, tmp_path / "g.graphml"))
    assert len(read) == len(NAMES) and read.number_of_edges() == len(NAMES) - 1
    assert {data["tensor"] for _, data in read.nodes(data=True)} == {xml(name) for name in NAMES}
    ET.parse(tmp_path / "g.graphml")
    text = write_graph(graph, tmp_path / "g.dot").read_text()
    quoted = re.findall(r'^ *"((?:[^"\\]|\\.)*)" \[label=', text, re.MULTILINE)
    assert [f'"{name}"' for name in quoted] == [dot(f"{name}[0]") for name in NAMES]
    raw = json.loads(write_graph(graph, tmp_path / "g.json").read_bytes())
    assert {node["tensor"] for node in raw["nodes"]} == set(NAMES)


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_plots(suffix: str, tmp_path: Path) -> None:
    rows = [WidthRow(name, 4, 2, 1) for name in (*NAMES, "\N{PARTY POPPER}", "$x$", "\\$")]
    plot_widths(rows, tmp_path / f"widths{suffix}")
    if suffix == ".svg":
        ET.parse(tmp_path / "widths.svg")
    assert plot("a$b{c$") == "a\\$b{c\\$"


class _Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.add_module("a$b{c$", nn.Conv2d(3, 8, 3))
        self.add_module("\x1b]0;t\x07[bold]<img>", nn.Conv2d(8, 4, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for module in self.children():
            x = module(x)
        return x


def test_a_model_with_such_names() -> None:
    traced = fxprune.trace(_Named(), torch.zeros(1, 3, 8, 8))
    fxprune.couple(traced)
    said = [str(fxprune.explain(traced, "\x1b]0;t\x07[bold]<img>.weight", dim=1))]
    said += [_drawn(group_sheet(group_table(traced)).rich()), line("\n")]
    assert not any(char in text for text in said for char in BAD)
    assert "\\x1b]0;t\\x07[bold]<img>.weight" in said[0]


# --- streams ---------------------------------------------------------------------------------

LARGE = """
import sys
from fxprune.cli.app import app, main
from fxprune.cli.common import say, show
@app.command()
def large() -> None:
    say("working")
    show("x" * 1_000_000, {}, False)
sys.argv = ["fxprune", "large"]
main()
"""
"""A command with a result that no buffer holds, and without torch, which takes seconds."""


def _run(folder: Path, redirected: str) -> subprocess.CompletedProcess[str]:
    (folder / "large.py").write_text(LARGE)
    command = f"{sys.executable} large.py {redirected}; echo ${{PIPESTATUS[0]}} >&3"
    root = str(Path(__file__).resolve().parents[1])
    return subprocess.run(
        ["bash", "-c", f"({command}) 3> code"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=120,
    )


def _code(folder: Path) -> str:
    return (folder / "code").read_text().strip()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_device_is_no_bug(tmp_path: Path) -> None:
    done = _run(tmp_path, "> /dev/full")
    assert _code(tmp_path) == "1"
    assert "the system refused to read or write: No space left on device" in done.stderr
    assert not any(word in done.stderr for word in ("report it", "Traceback", "Exception"))
    done = _run(tmp_path, "2> /dev/full")
    assert _code(tmp_path) == "0" and len(done.stdout) == 1_000_001


def test_a_pipe_that_is_closed_ends_it_quietly(tmp_path: Path) -> None:
    done = _run(tmp_path, "| true")
    assert _code(tmp_path) == "1"
    assert done.stderr.strip() in ("", "working")


def test_streams_that_are_closed(tmp_path: Path) -> None:
    done = _run(tmp_path, "2>&- < /dev/null")
    assert _code(tmp_path) == "0" and len(done.stdout) == 1_000_001 and done.stderr == ""
    done = _run(tmp_path, "<&- >&- 2>&-")
    assert _code(tmp_path) == "0" and done.stdout == "" and done.stderr == ""
