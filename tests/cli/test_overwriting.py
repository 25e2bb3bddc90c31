"""What ``--out`` replaces unasked, an earlier result of the same model, and what only with ``--force``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from fxprune.cli.app import app

NETS = """
import torch
from torch import nn

class Narrow(nn.Sequential):
    pass

class Wide(nn.Sequential):
    pass

def narrow():
    torch.manual_seed(0)
    return Narrow(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 4, 3)).eval(), torch.zeros(1, 3, 8, 8)

def wide():
    torch.manual_seed(0)
    return Wide(nn.Conv2d(3, 48, 3), nn.ReLU(), nn.Conv2d(48, 4, 3)).eval(), torch.zeros(1, 3, 8, 8)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def done(*words: object) -> None:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output


def refused(*words: object) -> str:
    result = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert result.exit_code == 1, result.output
    error = json.loads(result.stdout)["error"]
    assert "--force" in error["advice"]
    return str(error["what"])


def plan_words(model: str, out: str) -> tuple[object, ...]:
    return ("plan", f"nets.py:{model}", "--channels", 0.5, "-o", out)


def slim_words(model: str, out: str) -> tuple[object, ...]:
    return ("slim", f"nets.py:{model}", "-p", f"{model}.json", "-o", out, "--no-verify")


def export_words(model: str, out: str) -> tuple[object, ...]:
    return ("export", f"nets.py:{model}", "-o", out)


@pytest.mark.parametrize(
    ("words", "name", "another"),
    [
        (plan_words, "x.json", "made for another model"),
        (slim_words, "x.safetensors", "of another model"),
        (export_words, "x.onnx", "of another model"),
    ],
)
def test_files(words, name: str, another: str, here: Path) -> None:
    for model in ("narrow", "wide") if words is slim_words else ():
        done(*plan_words(model, f"{model}.json"))
    done(*words("narrow", name))
    done(*words("narrow", name))  # the same again
    held = Path(name).read_bytes()
    assert refused(*words("wide", name)) == f"{name} is there already, {another}"
    assert Path(name).read_bytes() == held
    done(*words("wide", name), "--force")
    assert Path(name).read_bytes() != held
    Path(name).write_bytes(b"the user's own")
    assert refused(*words("narrow", name)).startswith(f"{name} is there already, and is not ")
    assert Path(name).read_bytes() == b"the user's own"
    done(*words("narrow", name), "--force")


def test_weights_that_were_trained_are_not_slim_ones(here: Path) -> None:
    """The file that ``--weights`` reads is the last that should be replaced."""
    done(*plan_words("narrow", "narrow.json"))
    save_file({"0.weight": torch.zeros(32, 3, 3, 3)}, "trained.safetensors")
    held = Path("trained.safetensors").read_bytes()
    assert "is not slim weights of fxprune" in refused(*slim_words("narrow", "trained.safetensors"))
    assert Path("trained.safetensors").read_bytes() == held


def test_facts_about_a_machine(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fxprune.onnx.calibrate.ROUNDS", 1)
    Path("cpu.json").write_text("{}")
    assert "is not a file of fxprune calibrate" in refused("calibrate", "-o", "cpu.json")
    assert Path("cpu.json").read_text() == "{}"
    done("calibrate", "-o", "cpu.json", "--force")
    done("calibrate", "-o", "cpu.json")


def test_folders(here: Path) -> None:
    def words(model: str, macs: float) -> tuple[object, ...]:
        return ("compress", f"nets.py:{model}", "--macs", macs, "-o", "out", "--seconds", 0.01)

    done(*words("narrow", 0.5))
    done(*words("narrow", 0.5))
    held = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    assert refused(*words("narrow", 0.4)) == (
        "out holds the result of another budget (macs=0.5), which would be lost"
    )
    assert "of another model (Narrow)" in refused(*words("wide", 0.5))
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == held
    done(*words("wide", 0.5), "--force")
    assert json.loads(Path("out/asked.json").read_text())["model"] == "Wide"
    Path("out/asked.json").unlink()
    assert "of another model" in refused(*words("narrow", 0.5))


def test_the_demo_does_not_train_first(here: Path) -> None:
    done("compress", "nets.py:narrow", "--macs", 0.5, "-o", "out", "--seconds", 0.01)
    said = CliRunner().invoke(app, ["demo", "-o", "out"])
    assert said.exit_code == 1
    assert "of another model (Narrow)" in said.stderr
    assert "train" not in said.stderr
