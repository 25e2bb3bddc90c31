"""The README cannot rot: its Python runs, and its pictures of the command line are what the commands print."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import readme

TEXT = readme.README.read_text(encoding="utf-8")

# A block that needs what a test has not (the user's own data, say) says so in the line before it.
BLOCK = re.compile(r"(?ms)^(<!-- not run: [^\n]+ -->\n)?```python\n(.*?)^```$")

GENERATED = {"fxprune --help"}


@pytest.fixture(scope="module")
def namespace() -> dict[str, object]:
    """Names that earlier blocks defined: the README reads as one script."""
    return {"__name__": "readme"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the blocks write, one after the other."""
    return tmp_path_factory.mktemp("readme")


def test_python_runs(
    namespace: dict[str, object], folder: Path, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    monkeypatch.chdir(folder)
    blocks = [match for match in BLOCK.finditer(TEXT) if not match[1]]
    assert blocks, "the README shows no Python"
    for match in blocks:
        line = TEXT.count("\n", 0, match.start(2))
        with subtests.test(line=line + 1):
            # Blank lines before the code make tracebacks name the README's own lines.
            exec(compile("\n" * line + match[2], "README.md", "exec"), namespace)


def test_command_line_sections_are_current() -> None:
    assert {match[2] for match in readme.SECTION.finditer(TEXT)} >= GENERATED
    assert readme.render(TEXT) == TEXT, "run python tools/readme.py"


def test_files_it_points_to_exist() -> None:
    targets = [t for t in re.findall(r"\]\(([^)#\s]+)[^)]*\)", TEXT) if "://" not in t]
    assert not [target for target in targets if not (readme.ROOT / target).exists()]
