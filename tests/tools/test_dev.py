"""The development commands: environments in every half-done state, and what each command runs.

Nothing is downloaded: the project that is installed for real needs nothing, its build backend stands beside it.
"""

from __future__ import annotations

import argparse
import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import dev
import pytest

TOOLS = Path(dev.__file__).parent

PYPROJECT = """
[project]
name = "alone"
version = "1"
optional-dependencies = { dev = [], docs = [] }
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[tool.ruff]
line-length = 110
"""

BACKEND = """
import pathlib, zipfile

def build_editable(folder, settings=None, metadata=None):
    files = {
        "alone.pth": str(pathlib.Path.cwd()),
        "alone-1.dist-info/METADATA": "Metadata-Version: 2.1\\nName: alone\\nVersion: 1\\nProvides-Extra: dev\\nProvides-Extra: docs\\n",
        "alone-1.dist-info/WHEEL": "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        "alone-1.dist-info/RECORD": "",
    }
    name = "alone-1-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(folder, name), "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
    return name
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository without an environment."""
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "backend.py").write_text(BACKEND)
    (tmp_path / "alone.py").write_text("here = True\n")
    return tmp_path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would have been run to make an environment; making it makes a file where its Python would be."""
    recorded: list[list[str]] = []

    def run(command: Sequence[str | Path], folder: Path, quiet: bool = False) -> int:
        if not quiet:
            recorded.append(list(map(str, command)))
        if "venv" in command:
            python = dev.interpreter(folder / ".venv")
            python.parent.mkdir(parents=True, exist_ok=True)
            python.unlink(missing_ok=True)
            python.touch()
        return 0

    monkeypatch.setattr(dev, "_run", run)
    monkeypatch.setattr(dev, "_uv", lambda: ["uv"])
    return recorded


# -- the environment ----------------------------------------------------------------------------------------------


def test_with_pip_alone(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """For real: made, found again, begun again when it was cut short."""
    monkeypatch.setattr(dev, "_uv", list)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    venv = root / ".venv"
    python = dev.ensure(root)

    def installed() -> bool:
        command = [python, "-c", "import alone; assert alone.here"]
        return subprocess.run(command, cwd="/", capture_output=True).returncode == 0

    assert installed()
    capfd.readouterr()
    assert dev.ensure(root) == python
    assert capfd.readouterr().out == "", "the second call does nothing"

    (venv / dev.STAMP).write_text(dev.UNFINISHED)
    shutil.rmtree(next(venv.glob("lib/python*/site-packages/pip")))
    (venv / "left").touch()
    dev.ensure(root)
    assert installed()
    assert not (venv / "left").exists(), "what was cut short is cleared"


def test_uv_makes_it_where_there_is_one(root: Path, calls: list[list[str]]) -> None:
    dev.ensure(root)
    assert [call[:3] for call in calls] == [["uv", "venv", "--seed"], ["uv", "pip", "install"]]
    assert calls[1][-2:] == ["-e", ".[all,dev,docs]"], "torch and torchvision come from one resolver run"
    calls.clear()
    dev.ensure(root)
    assert calls == []


def test_pip_steps_in_where_uv_cannot(
    root: Path, calls: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = dev._run

    def run(command: Sequence[str | Path], folder: Path, quiet: bool = False) -> int:
        return recording(command, folder, quiet) or int(command[:3] == ["uv", "pip", "install"])

    monkeypatch.setattr(dev, "_run", run)
    dev.ensure(root)
    assert [call[1:4] for call in calls[2:]] == [
        ["-m", "venv", "--clear"],
        ["-m", "pip", "install"],
    ]


def test_a_change_of_dependencies_installs_and_a_change_of_lint_does_not(
    root: Path, calls: list[list[str]]
) -> None:
    dev.ensure(root)
    calls.clear()
    (root / "pyproject.toml").write_text(PYPROJECT.replace("110", "120"))
    dev.ensure(root)
    assert calls == []
    (root / "pyproject.toml").write_text(PYPROJECT.replace("dev = []", 'dev = ["rich"]'))
    dev.ensure(root)
    assert len(calls) == 2
    assert not any("--clear" in call for call in calls), "what is there is kept"


def test_a_moved_repository_is_installed_again(root: Path, calls: list[list[str]]) -> None:
    dev.ensure(root)
    moved = root.rename(root.with_name("moved"))
    calls.clear()
    dev.ensure(moved)
    assert calls, "the editable installation points to the old place"


def test_an_environment_whose_python_is_gone_is_made_again(root: Path, calls: list[list[str]]) -> None:
    dev.ensure(root)
    calls.clear()
    dev.interpreter(root / ".venv").unlink()
    dev.interpreter(root / ".venv").symlink_to(root / "gone")
    dev.ensure(root)
    assert "--clear" in calls[0]


def test_an_environment_that_a_person_made_is_filled(root: Path, calls: list[list[str]]) -> None:
    dev.interpreter(root / ".venv").parent.mkdir(parents=True)
    dev.interpreter(root / ".venv").touch()
    dev.ensure(root)
    assert not any("--clear" in call for call in calls)
    calls.clear()
    dev.ensure(root, reinstall=True)
    assert "--clear" in calls[0]


def test_a_failure_says_what_to_do_and_is_begun_again(
    root: Path, calls: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = dev._run

    def run(command: Sequence[str | Path], folder: Path, quiet: bool = False) -> int:
        recording(command, folder, quiet)
        return int("install" in command)

    monkeypatch.setattr(dev, "_run", run)
    with pytest.raises(SystemExit, match="what to do"):
        dev.ensure(root)
    assert (root / ".venv" / dev.STAMP).read_text() == dev.UNFINISHED
    monkeypatch.setattr(dev, "_run", recording)
    calls.clear()
    dev.ensure(root)
    assert "--clear" in calls[0]


def test_an_unreachable_index(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """For real, against a closed port: the tool's own words, then what to do."""
    (root / "backend.py").write_text(BACKEND.replace("Provides-Extra: dev", "Requires-Dist: torch"))
    for name in [name for name in os.environ if name.startswith("PIP_") or "proxy" in name.lower()]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")  # pip names the cause where it tries again
    monkeypatch.setattr(dev, "_uv", list)
    with pytest.raises(SystemExit, match="HTTPS_PROXY"):
        dev.ensure(root)
    assert "Connection refused" in "".join(capfd.readouterr())


def test_old_python_is_told_so() -> None:
    source = (TOOLS / "dev.py").read_text()
    ast.parse(source, feature_version=(3, 6))
    assert source.isascii()
    code = "import runpy, sys; sys.version_info = (3, 9, 1); runpy.run_path(sys.argv[1], run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code, TOOLS / "dev.py"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "needs Python 3.11 or newer; this is Python 3.9" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_needs_nothing_but_python() -> None:
    tree = ast.parse((TOOLS / "dev.py").read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


# -- the commands -------------------------------------------------------------------------------------------------


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Modules that the commands ran; ruff check fails."""
    recorded: list[list[str]] = []

    def run(command: Sequence[str | Path], folder: Path, quiet: bool = False) -> int:
        recorded.append([str(part) for part in command[1:] if part != "-m" or command[-1] == ""])
        return int(list(command[2:4]) == ["ruff", "check"])

    monkeypatch.setattr(dev, "_run", run)
    monkeypatch.setattr(dev, "ensure", lambda root, reinstall=False: Path(sys.executable))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    return recorded


def test_every_check_runs_also_after_a_failure(
    ran: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert dev.main(["test"]) == 1
    assert [command[0] for command in ran] == [
        "ruff",
        "ruff",
        "mypy",
        "tools/build_docs.py",
        "tools/check_wheel.py",
        "pytest",
    ]
    rows = [row.split()[:2] for row in capsys.readouterr().out.splitlines()[-6:]]
    assert rows == [
        ["lint", "failed"],
        *([name, "ok"] for name in ("format", "types", "docs", "wheel", "tests")),
    ]


def test_every_check_has_its_file() -> None:
    files = [step[0] for step in dev.CHECKS.values() if step[0] != "-m"]
    assert files
    assert all((TOOLS.parent / file).exists() for file in files)


def test_arguments_reach_pytest(ran: list[list[str]]) -> None:
    arguments = [
        "test",
        "--only",
        "tests",
        "--slow",
        "--jobs",
        "2",
        "tests/planning/test_plan.py",
        "-x",
        "--nets",
        "500",
    ]
    assert dev.main(arguments) == 0
    expected = [
        "-m",
        "pytest",
        "tests/planning/test_plan.py",
        "-x",
        "--nets",
        "500",
        "-n",
        "2",
        "--dist",
        "worksteal",
        "-m",
    ]
    assert ran == [[*expected, ""]]
    given = dev._parse(["test", "-k", "plan", "--jobs", "0"])
    assert dev._pytest(given) == ["-m", "pytest", "-k", "plan"]


def test_demo_writes_to_out(ran: list[list[str]]) -> None:
    assert dev.main(["demo", "--seed", "1"]) == 0
    assert ran == [["fxprune", "demo", "--out", "out/demo", "--seed", "1"]]


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["setup", "--what"]])
def test_wrong_usage(arguments: list[str], ran: list[list[str]]) -> None:
    with pytest.raises(SystemExit) as caught:
        dev.main(arguments)
    assert caught.value.code == 2
    assert ran == []


def test_interruption_is_no_traceback(ran: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(python: Path, given: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(dev.COMMANDS, "lint", stopped)
    assert dev.main(["lint"]) == 130


@pytest.mark.skipif(os.name == "nt", reason="bash script")
@pytest.mark.parametrize(
    ("fit", "code", "said"),
    [("python3.12", 0, "python3.12 tools/dev.py test"), ("", 3, "no Python 3.11 or newer")],
)
def test_ci_asks_each_python_whether_it_is_fit(tmp_path: Path, fit: str, code: int, said: str) -> None:
    """A launcher may stand on the path without that Python behind it."""
    for name in ("python3.13", "python3.12", "python3.11", "python3"):
        launcher = tmp_path / name
        action = f'[ "$1" = -c ] || echo "{name} $*"' if name == fit else "exit 127"
        launcher.write_text(f"#!/bin/sh\n{action}\n")
        launcher.chmod(0o755)
    script = TOOLS.parent / ".ci" / "run"
    env = {**os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin"}
    bash = shutil.which("bash") or "bash"
    done = subprocess.run([bash, str(script)], env=env, capture_output=True, text=True)
    assert done.returncode == code
    assert said in done.stdout + done.stderr
