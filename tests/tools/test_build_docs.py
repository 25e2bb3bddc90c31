"""The documentation's own checks can fail, and the drawing shows what the sources import."""

from __future__ import annotations

import tomllib
from pathlib import Path
from xml.etree import ElementTree

import networkx as nx
import pytest
from build_docs import DOCS, DRAWING, ROOT, foreign, stage, undocumented
from draw_folders import arrows, drawing

import fxprune


def test_every_public_name_is_in_the_reference() -> None:
    page = (DOCS / "reference.md").read_text(encoding="utf-8")
    assert undocumented(page) == []
    assert undocumented(page.replace("::: fxprune.slim\n", "")) == ["slim"]
    assert sorted(undocumented("")) == sorted(fxprune.__all__)


@pytest.mark.parametrize(
    ("page", "loads"),
    [
        ('<script src="https://a.b/c.js"></script>', ["https://a.b/c.js"]),
        ('<link rel="stylesheet" href="//a.b/c.css">', ["//a.b/c.css"]),
        ('<img src="http://a.b/c.png"><img src="c.png"/>', ["http://a.b/c.png"]),
        ('<a href="https://a.b">there</a><link rel="canonical" href="https://a.b">', []),
    ],
)
def test_what_a_page_loads_from_elsewhere(page: str, loads: list[str]) -> None:
    assert foreign(page) == loads


def test_the_site_has_the_shape_of_the_repository(tmp_path: Path) -> None:
    stage(tmp_path)
    pages = tmp_path / "pages"
    assert (pages / "index.md").read_text() == (ROOT / "README.md").read_text()
    how = (pages / "tools" / "docs" / "how_it_works.md").read_text(encoding="utf-8")
    assert DRAWING not in how
    assert "<svg" in how
    source = (tmp_path / "source" / "fxprune" / "plans.py").read_text(encoding="utf-8")
    assert "    Examples:\n        >>>" in source
    assert "    Example:\n" not in source


def _targets(entries: list[dict[str, object]]) -> list[str]:
    found: list[str] = []
    for entry in entries:
        for value in entry.values():
            found += [value] if isinstance(value, str) else _targets(value)  # type: ignore[arg-type]
    return found


def test_every_page_of_the_docs_can_be_found_from_the_menu() -> None:
    nav = tomllib.loads((DOCS / "zensical.toml").read_text())["project"]["nav"]
    pages = {path.relative_to(ROOT).as_posix() for path in DOCS.rglob("*.md")}
    assert pages <= set(_targets(nav))


def test_every_arrow_of_the_drawing_points_down() -> None:
    graph = arrows()
    assert ("cli", "pipeline") in graph.edges
    assert ("slimming", "coupling") in graph.edges
    svg = ElementTree.fromstring(drawing(graph))
    space = "{http://www.w3.org/2000/svg}"
    height = {text.text: float(text.get("y", "")) for text in svg.iter(f"{space}text")}
    names = {"__init__": "import fxprune", "__main__": "python -m fxprune"}
    assert all(height[names.get(a, a)] < height[names.get(b, b)] for a, b in graph.edges)
    drawn = list(svg.iter(f"{space}path"))
    assert len(drawn) == len(nx.transitive_reduction(graph).edges) < len(graph.edges)
