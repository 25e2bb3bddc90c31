"""The picture of the peers shows the numbers of the tables."""

from __future__ import annotations

from pathlib import Path

import pytest
from draw_peers import PAGES, ROOT, draw, read
from PIL import Image

PAGE = """# Probes

`python tools/peers.py` wrote this: a CPU, 2 cores; torch 2.

| verdict | A 1 | B 2 |
|---|---|---|
| right | 1 | 2 |

| what stands between | A 1 | B 2 |
|---|---|---|
| relu | right | right |
| a | b | crash | refused |
| flip | silently wrong | no answer |
| view | not judged | nothing pruned |
"""


def test_verdicts_are_counted() -> None:
    panel = read(PAGE, "probes")
    assert (panel.tried, panel.machine) == (4, "a CPU, 2 cores")
    assert panel.counts == {
        "fxprune": {"right": 4},
        "A 1": {"right": 1, "crash": 1, "silently wrong": 1, "not judged": 1},
        "B 2": {"right": 1, "refused": 2, "crash": 1},
    }
    ours = read(PAGE.replace("A 1", "fxprune 1"), "nets")
    assert list(ours.counts) == ["fxprune 1", "B 2"], "its own row counts where there is one"


def test_a_page_without_verdicts_is_refused() -> None:
    with pytest.raises(ValueError, match="no rows"):
        read("# nothing\n\n| a | b |\n|---|---|\n| 1 | 2 |\n", "x")


def test_the_picture_is_one(tmp_path: Path) -> None:
    draw([read(PAGE, "probes"), read(PAGE, "nets")], tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as image:
        assert len(set(image.convert("RGB").resize((200, 100)).get_flattened_data())) > 5


def test_the_tables_of_the_repository_can_be_drawn() -> None:
    pages = [ROOT / "tools" / "results" / name for name in PAGES]
    panels = [read(page.read_text(encoding="utf-8"), "x") for page in pages if page.exists()]
    assert panels
    assert all(sum(counts.values()) == panel.tried for panel in panels for counts in panel.counts.values())
