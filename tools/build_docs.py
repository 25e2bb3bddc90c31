"""Builds the documentation: ``python tools/build_docs.py`` writes ``build/docs/site``; a warning is an error.

The site has the shape of the repository, README.md being its first page, so that a link works here and there.
Docstrings are read, not imported. What is built loads nothing from elsewhere: fonts, scripts and the search are in it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from draw_folders import arrows, drawing

__all__ = ["foreign", "main", "stage", "undocumented"]

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "tools" / "docs"
BUILT = ROOT / "build" / "docs"
DRAWING = "<!-- drawn here: the folders and their imports -->"
EXAMPLE = re.compile(r"(?m)(?<=^    )Example:$|(?<=^        )Example:$")
"""Google's guide knows one example; the reader of docstrings takes the plural alone for code."""

KINDS = ("*.md", "*.png", "*.cff")
LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
LINKS_THAT_LOAD_NOTHING = {"canonical", "prev", "next", "alternate"}


def stage(folder: Path) -> None:
    """Lay out what the generator reads.

    Args:
        folder: Its pages come into ``pages``; both are made, what was there goes.
    """
    shutil.rmtree(folder, ignore_errors=True)
    pages = folder / "pages"
    shown = [
        *ROOT.glob("*.md"),
        ROOT / "LICENSE",
        *(f for kind in KINDS for f in (ROOT / "tools").rglob(kind)),
    ]
    for page in shown:
        place = pages / page.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(page, place)
    (pages / "README.md").rename(pages / "index.md")
    how = pages / "tools" / "docs" / "how_it_works.md"
    how.write_text(how.read_text(encoding="utf-8").replace(DRAWING, drawing(arrows())), encoding="utf-8")
    shutil.copyfile(DOCS / "zensical.toml", folder / "zensical.toml")
    for source in (ROOT / "fxprune").rglob("*.py"):
        place = folder / "source" / source.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(EXAMPLE.sub("Examples:", source.read_text(encoding="utf-8")), encoding="utf-8")


class _Loading(HTMLParser):
    """Collects what a page makes a browser fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Look at one element."""
        given = dict(attrs)
        wanted = given.get(LOADING.get(tag, "")) or ""
        if (given.get("rel") or "") not in LINKS_THAT_LOAD_NOTHING and re.match(r"(https?:)?//", wanted):
            self.found.append(wanted)


def foreign(page: str) -> list[str]:
    """What an HTML page would load from another machine.

    Example:
        >>> foreign('<a href="https://x.y">x</a><img src="a.png"><script src="//x.y/z.js"></script>')
        ['//x.y/z.js']
    """
    parser = _Loading()
    parser.feed(page)
    return parser.found


def undocumented(page: str) -> list[str]:
    """Names of ``import fxprune`` that a reference (Markdown with ``::: name``) does not show."""
    public = re.search(
        r"(?s)__all__ = \[(.*?)\]", (ROOT / "fxprune" / "__init__.py").read_text(encoding="utf-8")
    )
    assert public is not None
    return [n for n in re.findall(r'"(\w+)"', public[1]) if not re.search(rf"(?m)^::: fxprune\.{n}$", page)]


def _problems(site: Path, said: str) -> Iterator[str]:
    # What its reader of docstrings finds wrong the generator passes on, and counts as no issue.
    yield from (line for line in said.splitlines() if line.startswith(("griffe:", "mkdocstrings:")))
    for page in sorted(site.rglob("*.html")):
        for address in foreign(page.read_text(encoding="utf-8")):
            yield f"{page.relative_to(site)} loads {address}: the site must work offline"
    for name in undocumented((DOCS / "reference.md").read_text(encoding="utf-8")):
        yield f"fxprune.{name} is public and not in tools/docs/reference.md"


def main() -> int:
    """Build and check the site."""
    stage(BUILT)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "-f", "zensical.toml"]
    done = subprocess.run(command, cwd=BUILT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        print(done.stdout)
        return done.returncode
    problems = list(_problems(BUILT / "site", done.stdout))
    print("\n".join(problems) or f"built {BUILT / 'site' / 'index.html'}")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
