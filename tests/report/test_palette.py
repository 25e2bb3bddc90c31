"""One palette: what a colour means in one picture it means in all."""

from __future__ import annotations

import re
from pathlib import Path

from fxprune.report import palette

ROOT = Path(__file__).resolve().parents[2]
COLOUR = re.compile(r"[\"']#[0-9a-fA-F]{6}[\"']|[\"'](?:C\d|tab:\w+)[\"']")


def test_no_other_file_spells_a_colour() -> None:
    sources = [*(ROOT / "fxprune").rglob("*.py"), *(ROOT / "tools").rglob("*.py")]
    spelling = {p.name for p in sources if COLOUR.search(p.read_text(encoding="utf-8"))}
    assert spelling == {Path(palette.__file__).name}


def test_colours_of_one_table_differ() -> None:
    for table in (
        palette.LINES,
        tuple(palette.VERDICTS.values()),
        (palette.DENSE, palette.SLIM, palette.BETWEEN),
    ):
        assert len(set(table)) == len(table)
