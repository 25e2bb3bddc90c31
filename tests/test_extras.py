"""The base installation is enough for everything but pictures, recipes and the demo; what is missing says how it is had."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from fxprune.errors import FxpruneError, MissingPackage
from fxprune.support.extras import EXTRAS, need

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
HIDE = "import sys; sys.modules.update(dict.fromkeys({}))\n"
NET = """
import torch, fxprune
net = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.Conv2d(32, 4, 3)).eval()
x = torch.randn(1, 3, 8, 8)
"""


def without(modules: list[str], code: str, folder: Path) -> str:
    """What a process prints to which these packages are not installed."""
    done = subprocess.run(
        [sys.executable, "-c", HIDE.format(modules) + code],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return done.stdout.strip()


def test_the_base_is_enough(tmp_path: Path) -> None:
    """Every public name can be had, and ``compress`` does all but the pictures, and says so."""
    code = f"""{NET}
assert [getattr(fxprune, name) for name in fxprune.__all__]
result = fxprune.compress(net, x, fxprune.Budget(macs=0.5), out="out", seconds=0.01)
print(result.why_no_pictures)
print(sorted({{"report", "widths_plot", "latency_plot"}} & set(result.as_json()["files"])))
"""
    without_pictures = "matplotlib is not installed; pip install 'fxprune[plots]'"
    assert without(list(EXTRAS), code, tmp_path).splitlines() == [without_pictures, "['report']"]
    report = (tmp_path / "out" / "report.md").read_text()
    assert f"No pictures: {without_pictures}." in report
    assert ".png" not in report
    assert not list((tmp_path / "out").glob("*.png"))


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("matplotlib", "from fxprune.report.plots import plot_widths; plot_widths([], 'x.png')"),
        ("sklearn", "from fxprune.demo import Digits; Digits.load()"),
        ("sklearn", "from fxprune.demo import run_demo; run_demo('out')"),
        ("matplotlib", "from fxprune.demo import run_demo; run_demo('out')"),
        ("accelerate", "import fxprune.training.run"),
        ("yaml", "import fxprune.training.recipe.file"),
    ],
)
def test_what_is_missing_says_how_it_is_had(module: str, code: str, tmp_path: Path) -> None:
    asking = f"from fxprune.errors import MissingPackage\ntry:\n    {code}\nexcept MissingPackage as error:\n    print(error.what, error.advice, sep='|')"
    what, advice = without([module], asking, tmp_path).split("|")
    package, extra = EXTRAS[module]
    assert what.endswith(f"{package} is not installed")
    assert advice == f"pip install 'fxprune[{extra}]'"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "module"),
    [(["demo"], "sklearn"), (["demo"], "matplotlib"), (["train", "r.yaml"], "accelerate")],
)
def test_the_command_line_says_so_at_once(words: list[str], module: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("model: a:b")
    code = (
        "from typer.testing import CliRunner\nfrom fxprune.cli.app import app\n"
        f"done = CliRunner().invoke(app, {words!r}, env={{'COLUMNS': '200'}})\n"
        "print(done.exit_code, 'torch' in sys.modules, done.stderr)"
    )
    said = without([module], code, tmp_path)
    assert said.startswith("1 False")
    assert f"pip install 'fxprune[{EXTRAS[module][1]}]'" in said


def test_extras_are_those_of_the_project() -> None:
    """Each package that a message names is in the extra that it names, and none of them is in the base."""
    extras = PROJECT["optional-dependencies"]
    base = {Requirement(line).name.lower() for line in PROJECT["dependencies"]}
    for package, extra in EXTRAS.values():
        assert package.lower() in {Requirement(line).name.lower() for line in extras[extra]}
        assert package.lower() not in base
    [everything] = [Requirement(line) for line in extras["all"]]
    assert everything.extras == {extra for _, extra in EXTRAS.values()}


def test_every_package_of_the_base_is_imported() -> None:
    """What nobody imports is no dependency: torchmetrics was one."""
    source = "\n".join(path.read_text("utf-8") for path in (ROOT / "fxprune").rglob("*.py"))
    for line in PROJECT["dependencies"]:
        module = Requirement(line).name.replace("-", "_")
        assert re.search(rf"^\s*(import|from) {module}\b", source, re.MULTILINE), module


def test_need() -> None:
    need("this test", "yaml")
    assert issubclass(MissingPackage, FxpruneError) and issubclass(MissingPackage, ImportError)
