"""Help, and what is wrong with arguments, do not wait for torch; and errors are JSON where JSON is asked for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from fxprune.cli.app import app
from fxprune.errors import SliceError

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = tuple(typer.main.get_command(app).commands)
NET = "nets.py:make"
RECIPE = "model: nets.py:make\nbudget: {{macs: 0.5}}\nsparse: {{epochs: 1}}\ndata: {data}\n"

# Wrong words, and what is said of them.
EARLY: tuple[tuple[tuple[str, ...], int, str], ...] = (
    (("inspect", "nowhere.py:make"), 1, "there is no file nowhere.py"),
    (("inspect", "nowhere.pt2"), 1, "there is no file nowhere.pt2"),
    (("inspect", "torchvision:resnet19"), 1, "did you mean 'resnet18'"),
    (("inspect", NET, "-w", "none.pt"), 1, "there is no file none.pt"),
    (("inspect", NET, "-i", "none.npz"), 1, "there is no file none.npz"),
    (("inspect", NET, "-i", "1x3xx8"), 1, "is not a shape or a file"),
    (("inspect", NET, "-i", "1x3:int64:5..1"), 1, "the range is empty"),
    (("inspect", NET, "--graph", "g.png"), 1, ".graphml"),
    (("inspect", NET, "--sensitivity", "--calibrate", "none"), 1, "there is no file none"),
    (("plan", NET, "--macs", "0.5", "-c", "l3"), 1, "there is no criterion 'l3'"),
    (("plan", NET, "--macs", "0.5", "-c", "taylor"), 1, "--data is missing"),
    (("plan", NET, "--macs", "0.5", "--target", "none"), 1, "there is no target 'none'"),
    (("plan", NET, "--macs", "0.5", "--target", "none.json"), 1, "there is no file none.json"),
    (("plan", NET, "--macs", "0.5", "--data", "none.npz"), 1, "there is no file none.npz"),
    (("plan", NET, "--macs", "0.5", "-o", "no/plan.json"), 1, "does not exist"),
    (
        ("plan", NET, "--accuracy", "0.9", "--calibrate", "nets.py", "--trials", "no/t.json"),
        1,
        "does not exist",
    ),
    (("plan", NET, "--macs", "1.5"), 2, "is not a fraction to keep"),
    (("plan", NET, "--macs", "0.5", "--scope", "all"), 2, "'all' is not one of"),
    (("plan", NET, "--mac", "0.5"), 2, "No such option"),
    (("slim", NET, "-p", "none.json", "-o", "x.safetensors"), 1, "there is no file none.json"),
    (("slim", NET, "-p", "none.safetensors", "-o", "x.safetensors"), 1, "there is no file none.safetensors"),
    (("slim", NET, "-p", "nets.py", "-o", "x.safetensors"), 1, "not a readable plan"),
    (("export", NET, "-o", "no/x.onnx"), 1, "does not exist"),
    (("export", NET, "-o", "x.onnx", "--opset", "99"), 1, "there is no opset 99"),
    (("export", NET, "-o", "x.onnx", "--passes", "fast"), 1, "there is no pass 'fast'"),
    (("bench", "none.onnx"), 1, "there is no file none.onnx"),
    (("bench", "nets.py", "--levels", "most"), 1, "there is no optimisation level 'most'"),
    (("bench", "nets.py", "--providers", "gpu"), 1, "no execution provider 'gpu'"),
    (("bench", "nets.py", "--seconds", "-1"), 2, "--seconds"),
    (("compress", NET, "--macs", "0.5", "-o", "out", "--seconds", "inf"), 2, "inf is no time"),
    (("calibrate", "-o", "no/cpu.json"), 1, "does not exist"),
    (("compress", NET, "--macs", "0.5", "-o", "nets.py/out"), 1, "nets.py is a file"),
    (("compress", NET, "--macs", "0.5", "-o", "out", "--calibrate", "none"), 1, "there is no file none"),
    (("compress", NET, "--macs", "0.5", "-o", "old"), 1, "of another budget (macs=0.4)"),
    (("demo", "-o", "nets.py/out"), 1, "nets.py is a file"),
    (("train", "none.yaml"), 1, "there is no file none.yaml"),
    (("train", "folder.yaml"), 1, "there is no folder"),
    (("train", "npz.yaml"), 1, "no file is named"),
    (("train", "npz.yaml", "--set", "sprase.lr=1"), 1, "unknown key 'sprase'"),
    (
        ("train", "npz.yaml", "--set", "model=torchvision:resnet19", "--set", "data={source: digits}"),
        1,
        "'resnet18'",
    ),
)

SCRIPT = """
import json, sys
from typer.testing import CliRunner
from fxprune.cli.app import app
for words in json.load(sys.stdin):
    done = CliRunner().invoke(app, words, env={"COLUMNS": "300"})
    loaded = sorted({"torch", "matplotlib"} & sys.modules.keys())
    print(json.dumps([done.exit_code, done.stdout, done.stderr, loaded]))
"""


def answers(folder: Path, commands: list[list[str]]) -> list[list[object]]:
    """Exit code, stdout, stderr and what is loaded after each command, one process for all of them."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(commands),
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("early")
    (place / "nets.py").write_text("def make():\n    raise AssertionError('nobody asked for the model')\n")
    (place / "folder.yaml").write_text(RECIPE.format(data="{source: folder, train: none, test: none}"))
    (place / "npz.yaml").write_text(RECIPE.format(data="{source: npz, train: 'none*.npz', test: none.npz}"))
    (place / "old").mkdir()
    (place / "old" / "plan.json").write_text('{"format": "fxprune-plan", "fingerprint": "f"}')
    (place / "old" / "asked.json").write_text(
        '{"format": "fxprune-asked", "version": 1, "model": "Net", "budget": {"macs": 0.4}, "fingerprint": "f"}'
    )
    return place


def flat(text: object) -> str:
    return " ".join(str(text).replace("│", " ").split())


def test_nothing_of_it_waits_for_torch(folder: Path) -> None:
    helps = [["--help"], ["--version"], *([command, "--help"] for command in COMMANDS)]
    said = answers(folder, [*helps, *(list(words) for words, _, _ in EARLY)])
    assert [answer[0] for answer in said[: len(helps)]] == [0] * len(helps)
    assert {tuple(answer[3]) for answer in said} == {()}, "torch is loaded"
    for (words, code, says), (exit_code, stdout, stderr, _) in zip(EARLY, said[len(helps) :], strict=True):
        assert (exit_code, stdout) == (code, ""), words
        assert says in flat(stderr), words
    assert not {path.name for path in folder.iterdir()} & {"x.onnx", "x.safetensors", "out"}


def test_every_command_is_among_the_early_ones() -> None:
    assert {words[0] for words, _, _ in EARLY} == set(COMMANDS)


def test_errors_are_json_where_json_is_asked_for(folder: Path) -> None:
    """One object on stdout, and the panel for people on stderr, as without."""
    said = answers(folder, [[*words, "--json"] for words, _, _ in EARLY])
    for (words, code, says), (exit_code, stdout, stderr, _) in zip(EARLY, said, strict=True):
        assert exit_code == code, words
        assert says in flat(stderr), words
        told = json.loads(str(stdout))
        assert set(told) == {"error"}
        assert set(told["error"]) == {"kind", "what", "node", "op", "tensor", "source", "advice"}
        assert says in flat(f"{told['error']['what']} {told['error']['advice']}"), words
        assert told["error"]["advice"], words
        assert (told["error"]["kind"] == "UsageError") == (code == 2), words
    kinds = {json.loads(str(answer[1]))["error"]["kind"] for answer in said}
    assert kinds == {"FxpruneError", "PlanError", "ExportError", "RecipeError", "UsageError"}


@pytest.mark.parametrize("words", [["--nope", "plan"], ["prune", NET], ["plan"]])
def test_usage_before_and_without_a_command(words: list[str]) -> None:
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 2
    assert json.loads(done.stdout)["error"]["kind"] == "UsageError"
    assert CliRunner().invoke(app, words).stdout == ""


def test_json_behind_two_dashes_is_a_word() -> None:
    assert CliRunner().invoke(app, ["bench", "--", "--json"]).stdout == ""


@pytest.mark.parametrize(
    ("raised", "code", "facts"),
    [
        (
            SliceError(
                "too thin", node="conv", op="aten.conv2d.default", tensor="a.weight", advice="keep more"
            ),
            1,
            {"kind": "SliceError", "node": "conv", "tensor": "a.weight", "advice": "keep more"},
        ),
        (IndexError("surprise"), 1, {"kind": "FxpruneError", "what": "IndexError: surprise"}),
        (PermissionError(13, "Permission denied", "x"), 1, {"kind": "FxpruneError"}),
        (KeyboardInterrupt(), 128 + signal.SIGINT, {"kind": "Interrupted"}),
    ],
)
def test_later_errors_are_json_too(
    raised: BaseException,
    code: int,
    facts: dict[str, str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.chdir(folder)
    monkeypatch.setattr("fxprune.pipeline.open_model", fail)
    for words in (["inspect", NET, "--json"], ["--debug", "inspect", NET, "--json"]):
        done = CliRunner().invoke(app, words)
        assert facts.items() <= json.loads(done.stdout)["error"].items()
        assert done.exit_code == code or words[0] == "--debug"
    monkeypatch.setenv("RANK", "1")  # of several processes of one run the first one speaks
    assert CliRunner().invoke(app, ["inspect", NET, "--json"]).stdout == ""
