"""README and docs cannot rot: their Python runs, and what they show of the command line is what the commands print."""

from __future__ import annotations

import re
from pathlib import Path

import pages
import pytest

GENERATED = {"fxprune --help"}


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda p: p.name)
def test_python_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    """Blocks run one after the other: a page reads as one script."""
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    names: dict[str, object] = {"__name__": page.stem}
    for match in pages.BLOCK.finditer(text):
        if match[1]:
            continue
        line = text.count("\n", 0, match.start(2))
        with subtests.test(line=line + 1):
            # Blank lines before the code make tracebacks name the page's own lines.
            exec(compile("\n" * line + match[2], page.name, "exec"), names)


def test_some_python_is_shown() -> None:
    assert sum(len(pages.BLOCK.findall(page.read_text(encoding="utf-8"))) for page in pages.PAGES) >= 4


def test_command_line_sections_are_current() -> None:
    texts = [page.read_text(encoding="utf-8") for page in pages.PAGES]
    assert {match[2] for text in texts for match in pages.SECTION.finditer(text)} >= GENERATED
    assert [pages.render(text) for text in texts] == texts, "run python tools/pages.py"


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda p: p.name)
def test_files_it_points_to_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = [t for t in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) if "://" not in t]
    assert not [target for target in targets if not (page.parent / target).exists()]
