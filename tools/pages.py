"""Writes what the pages for people show of the command line: ``python tools/pages.py`` (``--check`` only compares).

A line ``<!-- begin: fxprune plan --help -->`` and the next ``<!-- end -->`` hold what that command prints.  The
commands run inside this interpreter's environment, 100 columns wide and without colours.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

__all__ = ["BLOCK", "PAGES", "SECTION", "render"]

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "tools" / "docs").rglob("*.md")))

SECTION = re.compile(r"(?m)^(<!-- begin: (fxprune[^\n]*?) -->\n).*?^(<!-- end -->)$", re.DOTALL)

# A block that needs what a test has not (the user's own data, say) says so in the line before it.
BLOCK = re.compile(r"(?ms)^(<!-- not run: [^\n]+ -->\n)?```python\n(.*?)^```$")

# What the installed program does, for an environment in which only the source lies.
PROGRAM = "import sys; del sys.argv[0]; from fxprune.cli.app import main; sys.exit(main())"

COLUMNS = "100"
COLOURS = ("FORCE_COLOR", "PY_COLORS", "CLICOLOR_FORCE", "GITHUB_ACTIONS", "TTY_COMPATIBLE")


def render(text: str) -> str:
    """A page with every generated section made anew.

    Args:
        text: The page as it is.

    Returns:
        The same text where it was up to date.
    """
    return SECTION.sub(lambda m: f"{m[1]}```console\n$ {m[2]}\n{_printed(m[2])}\n```\n{m[3]}", text)


@cache
def _printed(command: str) -> str:
    env = {key: value for key, value in os.environ.items() if key not in COLOURS}
    env |= {"COLUMNS": COLUMNS, "TERMINAL_WIDTH": COLUMNS, "NO_COLOR": "1", "TERM": "dumb", "PYTHONUTF8": "1"}
    arguments = [sys.executable, "-c", PROGRAM, *command.split()]
    done = subprocess.run(arguments, cwd=ROOT, env=env, capture_output=True, encoding="utf-8")
    if done.returncode:
        raise RuntimeError(f"'{command}' ended with {done.returncode}:\n{done.stderr}")
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    return "\n".join(lines).strip("\n")


def main() -> int:
    """Write the pages, or say which are stale."""
    parser = argparse.ArgumentParser(description="Writes what the pages show of the command line.")
    parser.add_argument("--check", action="store_true", help="only compare; exit code 1 where one differs")
    check, stale = parser.parse_args().check, 0
    for page in PAGES:
        old = page.read_text(encoding="utf-8")
        new = render(old)
        if old != new and check:
            print(f"{page.relative_to(ROOT)} is stale: run python tools/pages.py")
            stale += 1
        elif old != new:
            page.write_text(new, encoding="utf-8")
    return int(stale > 0)


if __name__ == "__main__":
    sys.exit(main())
