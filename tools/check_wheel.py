"""Builds the wheel and uses it where nothing else of the repository is: ``python tools/check_wheel.py`` (``--demo``).

It is installed into an empty environment that shares the other packages with this one. There the command line answers,
every module can be imported, every public name without the packages of the extras, and the README's Python runs; how long each took is printed, and nothing fails for being slow.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

from pages import BLOCK

__all__ = ["main"]

ROOT = Path(__file__).resolve().parent.parent
HELPS = 7
IMPORT_ALL = """
import importlib, pathlib, pkgutil, sys, fxprune
assert pathlib.Path(fxprune.__file__).is_relative_to(sys.prefix), fxprune.__file__
names = [m.name for m in pkgutil.walk_packages(fxprune.__path__, "fxprune.") if m.name != "fxprune.__main__"]
for name in names:
    importlib.import_module(name)
print(len(names), "modules")
"""
# As where nothing but the base is installed.
IMPORT_BARE = """
import sys
from fxprune.support.extras import EXTRAS
sys.modules.update(dict.fromkeys(EXTRAS))
import fxprune
print(len([getattr(fxprune, name) for name in fxprune.__all__]), "names")
"""


def _timed(label: str, command: Sequence[str | Path], folder: Path) -> float:
    """Run something without this environment's settings; its output is shown where it fails."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    started = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"error: {label} failed with exit code {done.returncode}\n{done.stdout}")
    print(f"{label:24} {seconds:7.2f} s", flush=True)
    return seconds


def _differences(wheel: Path) -> set[str]:
    """Files that are in the package or in the wheel, and not in both."""
    listed = subprocess.run(
        ["git", "ls-files", "fxprune"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    with zipfile.ZipFile(wheel) as content:
        return {name for name in content.namelist() if ".dist-info/" not in name} ^ set(listed.stdout.split())


def _installed(wheel: Path, folder: Path) -> Path:
    """An environment with this wheel, and the packages of this environment but for fxprune's own link."""
    _timed("environment", [sys.executable, "-m", "venv", "--without-pip", "env"], folder)
    python = folder / "env" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    _timed("installation", [*pip, "install", "--no-deps", "--no-index", wheel], folder)
    site = sysconfig.get_path("purelib", vars={"base": str(folder / "env")})
    # A .pth file of a folder that is named in one is not read: the editable fxprune is not seen.
    Path(site, "shared.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return python


def main() -> int:
    """Build, install and use the wheel."""
    parser = argparse.ArgumentParser(description="Builds the wheel and uses it outside of the repository.")
    parser.add_argument("--demo", action="store_true", help="run fxprune demo, too (minutes)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build: list[str | Path] = [
            sys.executable,
            "-m",
            "hatchling",
            "build",
            "--target",
            "wheel",
            "--directory",
            folder,
        ]
        _timed("wheel", build, ROOT)
        (wheel,) = folder.glob("*.whl")
        if differing := _differences(wheel):
            sys.exit(f"error: not both in the wheel and in git: {', '.join(sorted(differing))}")
        python = _installed(wheel, folder)
        fxprune = python.with_name("fxprune")
        helps = [_timed("fxprune --help", [fxprune, "--help"], folder) for _ in range(HELPS)]
        print(f"{'median':24} {statistics.median(helps):7.2f} s")
        _timed("import of every module", [python, "-c", IMPORT_ALL], folder)
        _timed("import without extras", [python, "-c", IMPORT_BARE], folder)
        text = (ROOT / "README.md").read_text(encoding="utf-8")
        code = "\n".join(match[2] for match in BLOCK.finditer(text) if not match[1])
        _timed("the README's Python", [python, "-c", code], folder)
        if given.demo:
            _timed("fxprune demo", [fxprune, "demo", "--out", "demo"], folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
