"""Runs the recipes one after another: ``python tools/reproduce/run.py [--only PATTERN] [--epochs N]``.

Finished runs are skipped and interrupted ones go on, so the command may be stopped and repeated at will.  Each run is
a process of its own.  The record of a finished run is copied to ``records/``, from which ``results.py`` makes the
tables.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from rich.console import Console

from fxprune.errors import FxpruneError
from fxprune.report.steps import show_error
from fxprune.training.recipe.file import RecipeFile, read_recipe
from fxprune.training.record import read_record

HERE = Path(__file__).resolve().parent
RECIPES = HERE / "recipes"
RECORDS = HERE / "records"
RUNS = HERE.parent.parent / "runs" / "reproduce"

# Options that act at every step: with fewer steps they must grow, or the method would not come to its end.
PER_STEP = {
    "increg": "increment",
    "greg": "delta",
    "network_slimming": "lam",
    "dwgl": "lam",
    "group_lasso": "lam",
}
# Steps between updates: with fewer steps they must shrink, so that there are as many updates.
PERIODS = {"ssr": "period", "gal": "mask_step"}


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        name: Of the recipe, with the epochs where they are not the recipe's own.
        recipe: The file.
        changes: Values that differ from it.
    """

    name: str
    recipe: Path
    changes: tuple[str, ...]

    def command(self, out: Path) -> list[str]:
        """What starts it, or goes on with it."""
        changes = [part for change in self.changes for part in ("--set", change)]
        return [
            sys.executable,
            "-m",
            "fxprune",
            "train",
            str(self.recipe),
            "--out",
            str(out),
            "--resume",
            *changes,
        ]


def jobs(only: Sequence[str], epochs: int | None, changes: Sequence[str]) -> list[Job]:
    """Runs whose names fit a pattern, the cheap ones first.

    Args:
        only: Names, or patterns that may fit anywhere in a name; none fits all.
        epochs: The whole budget of each run, None for the recipes' own.
        changes: Further ``key=value`` texts.
    """
    names = [path.stem for path in sorted(RECIPES.glob("*.yaml")) if not path.stem.startswith("base")]
    # A whole name means that run alone, also where another one's begins with it.
    patterns = [pattern if pattern in names else f"*{pattern}*" for pattern in only]
    chosen = [name for name in names if not only or any(fnmatch(name, pattern) for pattern in patterns)]
    return [_job(RECIPES / f"{name}.yaml", epochs, tuple(changes)) for name in chosen]


def _job(path: Path, epochs: int | None, changes: tuple[str, ...]) -> Job:
    file = read_recipe(path, changes)
    if epochs is None or epochs == file.recipe.epochs:
        return Job(path.stem, path, changes)
    return Job(f"{path.stem}-{epochs}", path, (*changes, f"epochs={epochs}", *_per_step(file, epochs)))


def _per_step(file: RecipeFile, epochs: int) -> list[str]:
    """Options that count steps, scaled to another number of them."""
    own = file.recipe.epochs
    assert own is not None, "the base recipe has epochs"
    found = []
    for method in file.recipe.method:
        rate = method.options.get(PER_STEP.get(method.name, ""))
        if isinstance(rate, float):
            found.append(f"method.{PER_STEP[method.name]}={rate * own / epochs:.6g}")
        period = method.options.get(PERIODS.get(method.name, ""))
        if isinstance(period, int):
            found.append(f"method.{PERIODS[method.name]}={max(round(period * epochs / own), 1)}")
    return found


def run(job: Job, runs: Path) -> bool:
    """Run one job to its end; returns whether it came there."""
    out = runs / job.name
    if (out / "record.json").exists():
        print(f"{job.name}: finished before", flush=True)
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        print(f"{job.name}: {'goes on' if out.exists() else 'starts'}", flush=True)
        began = time.monotonic()
        if subprocess.run(job.command(out), check=False).returncode:
            print(f"{job.name}: failed; repeat the command to go on from the last checkpoint", flush=True)
            return False
        print(f"{job.name}: done in {(time.monotonic() - began) / 60:.1f} min", flush=True)
    read_record(out / "record.json")
    RECORDS.mkdir(exist_ok=True)
    shutil.copyfile(out / "record.json", RECORDS / f"{job.name}.json")
    return True


def main() -> int:
    """Run what the command line asks for; 1 where a run failed."""
    parser = argparse.ArgumentParser(description="Runs the recipes of tools/reproduce one after another.")
    parser.add_argument(
        "--only", action="append", default=[], metavar="PATTERN", help="names, wildcards; repeatable"
    )
    parser.add_argument(
        "--epochs", type=int, metavar="N", help="budget of every run, instead of the recipes' own"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="as for fxprune train"
    )
    parser.add_argument("--runs", type=Path, default=RUNS, metavar="FOLDER", help="where runs are kept")
    parser.add_argument("--list", action="store_true", help="only say what would be run")
    given = parser.parse_args()
    try:
        found = jobs(given.only, given.epochs, given.set)
    except FxpruneError as error:
        show_error(error, Console(stderr=True))
        return 1
    if given.list:
        print("\n".join(" ".join([job.name, *job.changes]) for job in found))
        return 0
    ended = [run(job, given.runs) for job in found]  # one failure does not stop the others
    return int(not all(ended))


if __name__ == "__main__":
    sys.exit(main())
