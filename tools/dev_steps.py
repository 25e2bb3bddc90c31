"""The development commands: what each one runs inside the environment that dev_env.py makes."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import dev_env
from dev_console import say

__all__ = ["main"]

ROOT = Path(__file__).resolve().parent.parent
MOST_WORKERS = 8  # each holds torch and a few models: about 2 GB

CHECKS: dict[str, Sequence[str]] = {
    "lint": ("ruff", "check", "."),
    "format": ("ruff", "format", "--check", "."),
    "types": ("mypy",),
}
MENDS = (("ruff", "check", "--fix", "."), ("ruff", "format", "."))


@dataclass(frozen=True)
class Options:
    """What the command line said.

    Attributes:
        slow: Run the sweeps marked slow too.
        jobs: Test processes; None is one for each core.
        only: Names of the steps to run; empty is all of them.
        keyword: pytest's -k expression.
        reinstall: Lay the environment anew.
        rest: Arguments handed on to pytest or to ``fxprune demo``.
    """

    slow: bool
    jobs: int | None
    only: tuple[str, ...]
    keyword: str
    reinstall: bool
    rest: tuple[str, ...]


def test(python: Path, options: Options) -> int:
    """Run every check, also after one has failed, and sum up."""
    steps = {**CHECKS, "tests": _pytest(options)}
    results: list[tuple[str, int, float]] = []
    for name in options.only or steps:
        say(f"{name}: {' '.join(steps[name])}")
        started = time.monotonic()
        code = _module(python, steps[name], threads=1)
        results.append((name, code, time.monotonic() - started))
    print(f"\n{'step':<10} {'result':<8} seconds")
    for name, code, seconds in results:
        print(f"{name:<10} {'failed' if code else 'ok':<8} {seconds:7.1f}")
    return int(any(code for _, code, _ in results))


def demo(python: Path, options: Options) -> int:
    """Train, prune, fine-tune, export and measure a small network on real data."""
    return _module(python, ("fxprune", "demo", "--out", "out/demo", *options.rest))


def setup(python: Path, _: Options) -> int:
    """Make the environment, or mend it, and say where its Python is."""
    print(python)
    return 0


def lint(python: Path, _: Options) -> int:
    """Mend what ruff can mend by itself and reformat."""
    return max(_module(python, command) for command in MENDS)


COMMANDS: dict[str, Callable[[Path, Options], int]] = {f.__name__: f for f in (demo, test, setup, lint)}


def main(arguments: Sequence[str]) -> int:
    """Run one command.

    Args:
        arguments: The command line without the program's name.

    Returns:
        0, 1 where a check failed, 3 where the machine or the environment is not fit, 130 on interruption.
    """
    command, options = _parse(arguments)
    try:
        python = dev_env.ensure(ROOT, reinstall=options.reinstall)
        return COMMANDS[command](python, options)
    except dev_env.NotFit as error:
        print(error, file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("\ninterrupted; a half-done installation is mended by the next call", file=sys.stderr)
        return 130


def _parse(arguments: Sequence[str]) -> tuple[str, Options]:
    parser = argparse.ArgumentParser(prog="tools/dev.py", description="fxprune's development commands.")
    commands = parser.add_subparsers(dest="command", required=True)
    parsers = {name: commands.add_parser(name, help=f.__doc__) for name, f in COMMANDS.items()}
    parsers["setup"].add_argument(
        "--reinstall", action="store_true", help="throw .venv away and make it again"
    )
    checks = parsers["test"]
    checks.epilog = "Other arguments go to pytest, as 'test tests/planning/test_plan.py -x'."
    checks.add_argument("--slow", action="store_true", help="run the sweeps marked slow too")
    checks.add_argument(
        "--jobs", type=int, metavar="N", help="test processes; 0 runs in one (default: cores)"
    )
    checks.add_argument(
        "--only", action="append", choices=[*CHECKS, "tests"], help="run this step; repeatable"
    )
    checks.add_argument("-k", dest="keyword", default="", metavar="EXPRESSION", help="tests to select")
    parsers["demo"].epilog = "Other arguments go to 'fxprune demo'."
    known, rest = parser.parse_known_args(arguments)
    if rest and known.command not in ("test", "demo"):
        parser.error(f"unknown arguments: {' '.join(rest)}")
    values = vars(known)
    return known.command, Options(
        slow=values.get("slow", False),
        jobs=values.get("jobs"),
        only=tuple(values.get("only") or ()),
        keyword=values.get("keyword", ""),
        reinstall=values.get("reinstall", False),
        rest=tuple(rest),
    )


def _pytest(options: Options) -> Sequence[str]:
    jobs = _cores() if options.jobs is None else options.jobs
    command = ["pytest", *options.rest]
    command += ["-n", str(jobs), "--dist", "worksteal"] if jobs > 1 else []
    command += ["-m", ""] if options.slow else []
    return command + (["-k", options.keyword] if options.keyword else [])


def _cores() -> int:
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(mine, MOST_WORKERS)


def _module(python: Path, command: Sequence[str], *, threads: int | None = None) -> int:
    """Run a module of the environment.

    Args:
        python: The environment's interpreter.
        command: The module's name and its arguments.
        threads: Threads for numeric libraries; None leaves them their own choice.
    """
    limits = {} if threads is None else dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    sys.stdout.flush()
    return subprocess.run([python, "-m", *command], cwd=ROOT, env={**os.environ, **limits}).returncode
