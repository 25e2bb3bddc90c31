"""The project's commands: ``python tools/dev.py demo``, ``test``, ``docs``, ``lint`` and ``setup``.

They need Python 3.11 or newer and nothing else. The first call makes an environment in ``.venv``: with uv where
there is one, else (or where uv cannot) with venv and pip. A stamp, written last, says what it was made from, so that a
later call starts at once, a change of the dependencies is installed, and what was cut short is begun again.
"""

import sys

if sys.version_info < (3, 11):  # an older Python reads this file, too, and says what is wrong
    sys.exit(
        "error: fxprune needs Python 3.11 or newer; this is Python %d.%d (%s)\n"
        "  what to do: install a newer Python and call it by name, as 'python3.12 tools/dev.py test'"
        % (sys.version_info[0], sys.version_info[1], sys.executable)
    )

import argparse
import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ".[all,dev,docs]"  # the demo and the tests use every extra
STAMP = "fxprune-stamp"
UNFINISHED = "installing"
MOST_WORKERS = 8  # each holds torch and a few models: about 2 GB

CHECKS = {
    "lint": ("-m", "ruff", "check", "."),
    "format": ("-m", "ruff", "format", "--check", "."),
    "types": ("-m", "mypy"),
    "docs": ("tools/build_docs.py",),
    "wheel": ("tools/check_wheel.py",),
}
MENDS = (("-m", "ruff", "check", "--fix", "."), ("-m", "ruff", "format", "."))


# -- the environment ----------------------------------------------------------------------------------------------


def interpreter(venv: Path) -> Path:
    """The environment's Python."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def ensure(root: Path, reinstall: bool = False) -> Path:
    """Make sure that the environment is there and whole.

    Args:
        root: The repository.
        reinstall: Throw the environment away and make it again.

    Returns:
        The environment's interpreter.

    Raises:
        SystemExit: Neither uv nor pip could make it; they have said why.
    """
    venv, wanted = root / ".venv", _wanted(root)
    with contextlib.nullcontext() if _stamp(venv) == wanted and not reinstall else _alone(root):
        if reinstall or _stamp(venv) != wanted:  # another call may have made it meanwhile
            _make(root, venv, reinstall)
            (venv / STAMP).write_text(wanted, encoding="utf-8")
    return interpreter(venv)


def _wanted(root: Path) -> str:
    """The stamp of an environment that fits: settings of lint and tests have no part in it."""
    data = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    made_from = [str(root), TARGET, data.get("build-system"), data.get("project")]
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def _stamp(venv: Path) -> str:
    stamp = venv / STAMP
    return stamp.read_text(encoding="utf-8") if stamp.exists() and interpreter(venv).exists() else ""


def _make(root: Path, venv: Path, reinstall: bool) -> None:
    uv, python = _uv(), interpreter(venv)
    # What was cut short, or cannot even start (the Python it was made from is gone, say), is begun again.
    # An environment that a person made is filled, not cleared.
    sound = python.exists() and _run([python, "-c", "" if uv else "import pip"], root, quiet=True) == 0
    clear = reinstall or _stamp(venv) == UNFINISHED or not sound
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "-e", TARGET]
    mode = ["--clear"] if clear else []
    ways = [([sys.executable, "-m", "venv", *mode, str(venv)], pip)]
    if uv:
        making = [
            *uv,
            "venv",
            "--seed",
            *(mode or ["--allow-existing"]),
            "--python",
            sys.executable,
            str(venv),
        ]
        # Compiled once here, or every process would compile torch's sources again where writing is barred.
        filling = [*uv, "pip", "install", "--python", str(python), "--compile-bytecode", "-e", TARGET]
        ways.insert(0, (making, filling))
    for making, filling in ways:
        print(f"[dev] making {venv} with {' '.join(making[:3])}, then {' '.join(filling[:4])}", flush=True)
        if _run(making, root):
            continue
        (venv / STAMP).write_text(UNFINISHED, encoding="utf-8")
        if not _run(filling, root):
            return
    sys.exit(
        f"error: {venv} could not be made\n"
        "  what to do: see what the installer said. It needs about 8 GB of disk (3 GB for PyTorch's CPU build) and a package\n"
        "  index: HTTPS_PROXY, PIP_INDEX_URL and UV_DEFAULT_INDEX name others. The next call begins again where this one stopped"
    )


def _uv() -> list[str]:
    """How uv is called; empty where there is none."""
    program = shutil.which("uv")
    if program:
        return [program]
    return [sys.executable, "-m", "uv"] if importlib.util.find_spec("uv") else []


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold a lock: two commands started at once must not fill one environment."""
    try:
        import fcntl
    except ImportError:  # not POSIX
        yield
        return
    with (root / "pyproject.toml").open("rb") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _run(command: Sequence[str | Path], folder: Path, quiet: bool = False) -> int:
    sys.stdout.flush()
    return subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=quiet).returncode


# -- the commands -------------------------------------------------------------------------------------------------


def test(python: Path, given: argparse.Namespace) -> int:
    """Run every check, also after one has failed, and sum up."""
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    steps = {**CHECKS, "tests": _pytest(given)}
    results = []
    for name in given.only or steps:
        print(f"[dev] {name}: {' '.join(steps[name])}", flush=True)
        started = time.monotonic()
        results.append((name, _run([python, *steps[name]], ROOT), time.monotonic() - started))
    print(f"\n{'step':<10} {'result':<8} seconds")
    for name, code, seconds in results:
        print(f"{name:<10} {'failed' if code else 'ok':<8} {seconds:7.1f}")
    return int(any(code for _, code, _ in results))


def demo(python: Path, given: argparse.Namespace) -> int:
    """Train, prune, fine-tune, export and measure a small network on real data."""
    return _run([python, "-m", "fxprune", "demo", "--out", "out/demo", *given.rest], ROOT)


def docs(python: Path, _: argparse.Namespace) -> int:
    """Build the documentation into build/docs/site; warnings are errors."""
    return _run([python, *CHECKS["docs"]], ROOT)


def lint(python: Path, _: argparse.Namespace) -> int:
    """Mend what ruff can mend by itself and reformat."""
    return max(_run([python, *command], ROOT) for command in MENDS)


def setup(python: Path, _: argparse.Namespace) -> int:
    """Make the environment, or mend it, and say where its Python is."""
    print(python)
    return 0


COMMANDS: dict[str, Callable[[Path, argparse.Namespace], int]] = {
    f.__name__: f for f in (demo, test, docs, lint, setup)
}


def main(arguments: Sequence[str]) -> int:
    """Run one command; the result is 0, 1 where a check failed, 130 on interruption."""
    given = _parse(arguments)
    try:
        return COMMANDS[given.command](ensure(ROOT, given.reinstall), given)
    except KeyboardInterrupt:
        print("\ninterrupted; what is half done is mended by the next call", file=sys.stderr)
        return 130


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools/dev.py", description="fxprune's development commands.")
    parser.set_defaults(reinstall=False)
    commands = parser.add_subparsers(dest="command", required=True)
    of = {name: commands.add_parser(name, help=f.__doc__) for name, f in COMMANDS.items()}
    of["setup"].add_argument("--reinstall", action="store_true", help="throw .venv away and make it again")
    of["demo"].epilog = "Other arguments go to 'fxprune demo'."
    tests = of["test"]
    tests.epilog = (
        "Other arguments go to pytest, as 'test tests/planning/test_plan.py -x' or 'test --nets 500'."
    )
    tests.add_argument("--slow", action="store_true", help="run the sweeps marked slow too")
    tests.add_argument("--jobs", type=int, metavar="N", help="test processes; 0 runs in one (default: cores)")
    tests.add_argument(
        "--only", action="append", choices=[*CHECKS, "tests"], help="run this step; repeatable"
    )
    tests.add_argument("-k", dest="keyword", default="", metavar="EXPRESSION", help="tests to select")
    given, rest = parser.parse_known_args(arguments)
    if rest and given.command not in ("test", "demo"):
        parser.error(f"unknown arguments: {' '.join(rest)}")
    given.rest = rest
    return given


def _pytest(given: argparse.Namespace) -> Sequence[str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = min(cores, MOST_WORKERS) if given.jobs is None else given.jobs
    return [
        *("-m", "pytest", *given.rest),
        *(["-n", str(jobs), "--dist", "worksteal"] if jobs > 1 else []),
        *(["-m", ""] if given.slow else []),
        *(["-k", given.keyword] if given.keyword else []),
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
