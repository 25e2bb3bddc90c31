"""The command line: every command on small models, and every way of getting it wrong."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import typer
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner, Result

import fxprune
from fxprune import targets
from fxprune.cli import options
from fxprune.cli.app import app
from fxprune.criteria import CRITERIA
from fxprune.planning.solve import EXCESS

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.bn = nn.BatchNorm2d(width)
        self.mid = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(width, 5)

    def forward(self, x):
        x = torch.relu(self.bn(self.stem(x)))
        x = torch.relu(self.mid(x)) + x
        return self.head(x.mean((2, 3)))

def make():
    torch.manual_seed(0)
    return Net()

def wide():
    return Net(48)

def with_inputs():
    return make(), torch.zeros(1, 3, 8, 8)

class Spectral(Net):
    def forward(self, x):
        x = torch.linalg.pinv(self.stem(x)).mT
        return self.head(x.mean((2, 3)))

def spectral():
    return Spectral()

class Fails(Net):
    def forward(self, x):
        raise ValueError("this model never runs")

def fails():
    return Fails()
"""


def line_of(text: str) -> int:
    return next(number for number, line in enumerate(NETS.splitlines(), 1) if text in line)


INPUT = ["-i", "1x3x8x8"]
PARAMS_DENSE = 32 * 27 + 32 + 64 + 32 * 32 * 9 + 32 + 5 * 32 + 5


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def done(*words: object) -> Result:
    result = run(*words)
    assert result.exit_code == 0, result.output
    return result


def refused(*words: object, code: int = 1) -> str:
    """What stderr says, without the panel's frame and line breaks; nothing may be on stdout."""
    result = run(*words)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    assert result.stdout == ""
    return flat(result.stderr)


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The model's name; the current folder is empty but for its file."""
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return "nets.py:make"


def files() -> set[str]:
    return {str(path) for path in Path().rglob("*") if path.suffix != ".pyc" and path.is_file()} - {"nets.py"}


# --- help ------------------------------------------------------------------------------------


def test_help_names_every_command() -> None:
    text = done("--help").stdout
    commands = typer.main.get_command(app).commands
    assert len(commands) == len(app.registered_commands) > 0
    for name in commands:
        assert f" {name} " in text
        assert re.search(rf"Examples?:.*fxprune {name}\b", flat(done(name, "--help").stdout))


def test_help_names_every_criterion_and_target() -> None:
    """They are written there, as help does not wait for torch."""
    criteria, with_data = told_by(options.Criterion).split("with --data")
    for criterion in CRITERIA:
        assert re.search(rf"\b{criterion.name}\b", with_data if criterion.needs else criteria)
    for name in targets.names():
        assert re.search(rf"(?<![\w-]){name}(?![\w-])", told_by(options.Target))


def told_by(option: object) -> str:
    """Its help."""
    [facts] = option.__metadata__
    return str(facts.help)


def flat(text: str) -> str:
    """Without line breaks and frames."""
    return " ".join(text.replace("│", " ").split())


def test_help_does_not_wait_for_torch() -> None:
    script = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from fxprune.cli.app import app\n"
        "assert CliRunner().invoke(app, ['compress', '--help']).exit_code == 0\n"
        "print(sorted({'torch', 'numpy', 'onnx', 'matplotlib'} & set(sys.modules)))"
    )
    made = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert made.stdout.strip() == "[]"


def test_version() -> None:
    assert done("--version").stdout.startswith("fxprune ")


def test_without_a_command_help_is_shown() -> None:
    assert "compress" in run().output


# --- inspect ---------------------------------------------------------------------------------


def test_inspect(nets: str) -> None:
    result = done("inspect", nets, *INPUT)
    assert "1 group can be pruned" in result.stdout
    assert "the model's output" in result.stdout
    assert "kernel" not in result.stdout.replace("such as kernel extents", "")
    assert "✓ trace" in result.stderr
    assert "extent of a convolution kernel" in done("inspect", nets, *INPUT, "--all").stdout


def test_inspect_as_json(nets: str) -> None:
    data = json.loads(done("inspect", nets, *INPUT, "--json").stdout)
    [stem] = [group for group in data["groups"] if group["name"] == "stem"]
    assert stem["width"] == 32
    assert {"tensor": "mid.weight", "dim": 0} in stem["members"]


def test_inspect_why(nets: str) -> None:
    text = done("inspect", nets, *INPUT, "--why", "mid.weight").stdout
    assert "group 'stem': 32 units" in text
    assert f"nets.py:{line_of('+ x')}" in text  # the residual add
    data = json.loads(done("inspect", nets, *INPUT, "--why", "head.weight", "--dim", 0, "--json").stdout)
    assert data["pins"][0]["kind"] == "output"
    assert "did you mean 'head.weight'" in refused("inspect", nets, *INPUT, "--why", "heed.weight")


def test_inspect_says_how_it_was_traced_and_explains_its_own_names(nets: str) -> None:
    data = json.loads(done("inspect", nets, *INPUT, "--json").stdout)
    assert data["trace"] == {"kind": "export", "dynamic_batch": True, "why_static": ""}
    name = next(row["name"] for row in data["groups"] if row["pinned"] is None)
    assert f"group '{name}'" in done("inspect", nets, *INPUT, "--why", name).stdout


def test_models_take_arguments_and_heads_come_from_weights(nets: str) -> None:
    Path("sized.py").write_text(
        "from torch import nn\n"
        "def make(width=4, num_classes=3):\n"
        "    return nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, num_classes))\n"
    )
    torch.save({f"module.{k}": v for k, v in _sized(6, 5).state_dict().items()}, "w.pt")
    run = done("inspect", "sized.py:make?width=6", "-w", "w.pt", "-i", "1x2", "--json")
    widths = {row["name"]: row["width"] for row in json.loads(run.stdout)["groups"]}
    assert (widths["0"], widths["2"]) == (6, 5)
    assert "num_classes=5" in run.stderr
    assert "'module.' was taken off" in run.stderr
    assert "takes no argument 'wdth'" in refused("inspect", "sized.py:make?wdth=6", "-i", "1x2")
    assert "fxprune bench measures it" in refused("inspect", "net.onnx")


def _sized(width: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, classes))


def test_inspect_writes_graphs(nets: str) -> None:
    done("inspect", nets, *INPUT, "--graph", "g.dot", "--graph", "g.graphml", "--graph", "g.json")
    assert files() == {"g.dot", "g.graphml", "g.json"}
    edges = json.loads(Path("g.json").read_text())["edges"]
    assert f"nets.py:{line_of('+ x')}" in " ".join(edge["source_line"] for edge in edges)
    assert ".dot, .graphml, .json" in refused("inspect", nets, *INPUT, "--graph", "g.png")


def test_inspect_strict_names_the_op(nets: str) -> None:
    words = ("inspect", "nets.py:spectral", *INPUT)
    assert "no rule for" in done(*words).stdout
    said = refused(*words, "--strict")
    assert "unsupported op" in said
    assert f"nets.py:{line_of('torch.linalg.pinv')}" in said


def test_a_factory_may_bring_its_inputs(nets: str) -> None:
    assert "input 1x3x8x8 float32" in done("inspect", "nets.py:with_inputs").stderr


# --- plan, slim, export, bench ---------------------------------------------------------------


def test_plan_slim_export_bench(nets: str) -> None:
    plan_text = done("plan", nets, *INPUT, "--params", 0.5, "--align", 16, "-o", "plan.json", "--json").stdout
    plan = fxprune.Plan.from_json(plan_text)
    assert plan == fxprune.Plan.from_json(Path("plan.json").read_text())
    assert plan.dense.params == PARAMS_DENSE
    assert len(plan.kept["stem.weight", 0]) == 16

    facts = json.loads(
        done("slim", nets, *INPUT, "-p", "plan.json", "-o", "slim.safetensors", "--json").stdout
    )
    assert facts["kind"] == "module"
    assert facts["proof"]["error"] < 1e-12
    with safe_open("slim.safetensors", "pt") as file:
        assert file.get_tensor("mid.weight").shape == (16, 16, 3, 3)

    done("export", nets, *INPUT, "-o", "dense.onnx")
    report = json.loads(
        done("export", nets, *INPUT, "-w", "slim.safetensors", "-o", "slim.onnx", "--json").stdout
    )
    assert report["max_error_random"] < 1e-4
    weights = {i.name: tuple(i.dims) for i in onnx.load("slim.onnx").graph.initializer}
    assert (16, 16, 3, 3) in weights.values()

    table = json.loads(
        done("bench", "dense.onnx", "small=slim.onnx", "--repeats", 5, "--no-memory", "--json").stdout
    )
    assert [row["name"] for row in table["rows"]] == ["dense", "small"]
    assert table["rows"][1]["macs"] == plan.predicted.macs
    shown = done("bench", "dense.onnx", "-i", "2x3x8x8", "--repeats", 5, "--no-memory").stdout
    assert "batch 2" in shown


def test_levels_and_providers_of_the_runtime(nets: str) -> None:
    done("export", nets, *INPUT, "-o", "dense.onnx")
    words = ("bench", "dense.onnx", "--repeats", 5, "--no-memory", "--levels", "all, basic")
    table = json.loads(done(*words, "--providers", "cpu", "--json").stdout)
    assert [row["name"] for row in table["rows"]] == ["dense", "dense @ basic"]
    assert table["rows"][1]["difference"] < 1e-4
    assert "there is no optimisation level 'none'" in refused(*words[:-1], "none")
    assert "onnxruntime has no execution provider 'gpu'" in refused(*words, "--providers", "gpu")


def test_where_the_time_goes(nets: str) -> None:
    done("export", nets, *INPUT, "-o", "dense.onnx", "--passes", "none")
    words = ("bench", "dense.onnx", "--repeats", 5, "--no-memory", "--profile")
    shown = done(*words).stdout
    assert "where the time goes" in shown
    (operators,) = json.loads(done(*words, "--json").stdout)["operators"]
    assert operators["name"] == "dense"
    assert set(operators["nodes"]) == set(operators["milliseconds"])
    assert all(f" {kind} " in shown for kind in operators["nodes"])


def test_a_plan_for_a_wished_time(nets: str) -> None:
    words = ("plan", nets, *INPUT, "--latency", 0.6, "--target", "onnxruntime-cpu-avx512", "--json")
    plan = fxprune.Plan.from_json(done(*words).stdout)
    assert any("latency by facts alone" in note for note in plan.notes)


def test_calibration_writes_a_target(nets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fxprune.onnx.calibrate.ROUNDS", 1)
    facts = json.loads(done("calibrate", "-o", "cpu.json", "--json").stdout)
    assert facts["block"] in (8, 16)
    assert "calibrate" in done("plan", "--help").stdout
    words = ("plan", nets, *INPUT, "--latency", 0.6, "--target", "cpu.json", "--json")
    assert fxprune.Plan.from_json(done(*words).stdout).predicted.params < PARAMS_DENSE
    Path("odd.json").write_text("{}")
    assert "holds no facts about a machine" in refused(*words[:-3], "--target", "odd.json")


def test_plan_options(nets: str) -> None:
    text = done(
        "plan", nets, *INPUT, "--channels", 0.5, "--align", 1, "--ratio", "stem=0.25", "--json"
    ).stdout
    assert len(fxprune.Plan.from_json(text).kept["stem.weight", 0]) == 8
    shown = done("plan", nets, *INPUT, "--macs", 0.5, "--scope", "local", "-c", "l2").stdout
    assert "1 of 1 group narrower" in shown
    assert "MACs" in shown
    assert "protected" in refused("plan", nets, *INPUT, "--macs", 0.5, "--protect", "stem")
    drawn = [
        done("plan", nets, *INPUT, "--channels", 0.5, "-c", "random", "--seed", n, "--json").stdout
        for n in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert "--blocks" in done("compress", "--help").stdout


def test_plan_with_data(nets: str) -> None:
    words = ("plan", nets, *INPUT, "--macs", 0.5, "-c", "taylor")
    assert "needs gradients" in refused(*words)
    labels = np.arange(16) % 5
    np.savez("data.npz", x=np.random.default_rng(0).normal(size=(16, 3, 8, 8)).astype(np.float32), y=labels)
    plan = fxprune.Plan.from_json(done(*words, "--data", "data.npz", "--json").stdout)
    assert len(plan.kept["stem.weight", 0]) == 16


def test_slim_from_a_slim_file(nets: str) -> None:
    """The file of one slim model is the plan for another set of weights."""
    done("plan", nets, *INPUT, "--params", 0.5, "--align", 16, "-o", "plan.json")
    done("slim", nets, *INPUT, "-p", "plan.json", "-o", "slim.safetensors")
    done("slim", nets, *INPUT, "-p", "slim.safetensors", "-o", "again.safetensors", "--no-verify")
    with safe_open("slim.safetensors", "pt") as one, safe_open("again.safetensors", "pt") as two:
        assert torch.equal(one.get_tensor("mid.weight"), two.get_tensor("mid.weight"))


def test_a_slim_model_slimmed_again_is_still_one_file(nets: str) -> None:
    """Its plan leads from the model that was named all the way to the weights."""
    done("plan", nets, *INPUT, "--params", 0.5, "-o", "one.json")
    done("slim", nets, *INPUT, "-p", "one.json", "-o", "one.safetensors")
    one = (*INPUT, "-w", "one.safetensors")
    done("plan", nets, *one, "--params", 0.5, "-o", "two.json", "--align", 1)
    facts = json.loads(done("slim", nets, *one, "-p", "two.json", "-o", "two.safetensors", "--json").stdout)
    data = json.loads(done("inspect", nets, *INPUT, "-w", "two.safetensors", "--json").stdout)
    with safe_open("two.safetensors", "pt") as file:
        width = file.get_tensor("stem.weight").shape[0]
        plan = fxprune.Plan.from_json(file.metadata()["plan"])
    assert next(group["width"] for group in data["groups"] if group["name"] == "stem") == width < 16
    assert plan.dense.params == PARAMS_DENSE
    assert plan.predicted.params == facts["slim"]["params"] < facts["dense"]["params"] < PARAMS_DENSE
    out = ("compress", nets, *one, "--params", 0.5, "-o", "out", "--seconds", 0.05, "--json")
    assert json.loads(done(*out).stdout)["dense"]["params"] == facts["dense"]["params"]
    done("inspect", nets, *INPUT, "-w", "out/slim.safetensors")


def test_a_slim_model_is_inspected_as_slim(nets: str) -> None:
    done("plan", nets, *INPUT, "--params", 0.5, "--align", 16, "-o", "plan.json")
    done("slim", nets, *INPUT, "-p", "plan.json", "-o", "slim.safetensors")
    data = json.loads(done("inspect", nets, *INPUT, "-w", "slim.safetensors", "--json").stdout)
    assert next(group["width"] for group in data["groups"] if group["name"] == "stem") == 16


# --- how far one may go ------------------------------------------------------------------------


def samples(name: str, **more: np.ndarray) -> str:
    np.savez(name, x=np.random.default_rng(0).normal(size=(64, 3, 8, 8)).astype(np.float32), **more)
    return name


def test_sensitivity(nets: str) -> None:
    words = ("inspect", nets, *INPUT, "--sensitivity", "--calibrate", samples("samples.npz"))
    data = json.loads(done(*words, "--json").stdout)
    assert [(p["group"], p["units"], p["asked"]) for p in data["probes"]] == [
        ("stem", 32, share) for share in (0.25, 0.5, 0.75)
    ]
    assert all(p["recovered"] < p["sliced"] for p in data["probes"])
    shown = done(*words).stdout
    assert "-25 %" in shown and "-75 %" in shown and "64 samples" in shown


def test_a_criterion_that_looks_at_samples(nets: str) -> None:
    words = ("plan", nets, *INPUT, "--macs", 0.5, "--criterion", "sensitivity")
    plan = json.loads(done(*words, "--calibrate", samples("samples.npz"), "--json").stdout)
    assert plan["predicted"]["macs"] <= 0.51 * plan["dense"]["macs"]
    result = run(*words)
    assert result.exit_code == 1
    assert "--calibrate is missing" in result.output


def test_the_smallest_plan_for_an_error(nets: str) -> None:
    words = ("plan", nets, *INPUT, "--accuracy", 0.5, "--calibrate", samples("samples.npz"), "--align", 1)
    data = json.loads(done(*words, "--trials", "trials.json", "--json").stdout)
    assert "accuracy=0.5 after recovery: one less the error of the outputs is" in data["notes"][-1]
    trials = json.loads(Path("trials.json").read_text())["values"]
    assert len(trials) == 8
    assert data["predicted"]["macs"] <= data["dense"]["macs"]
    assert json.loads(done(*words, "--trials", "trials.json", "--json").stdout) == data


def test_the_smallest_plan_for_an_accuracy(nets: str) -> None:
    labelled = samples("labelled.npz", y=np.arange(64) % 5)
    words = ("plan", nets, *INPUT, "--accuracy", 0.01, "--calibrate", labelled, "--data", labelled, "--json")
    assert "accuracy=0.01 after recovery: the metric says" in json.loads(done(*words).stdout)["notes"][-1]
    result = run(*words[:5], 1.1, *words[6:])
    assert result.exit_code == 1
    assert "the dense model has 0." in result.output


# --- compress --------------------------------------------------------------------------------


def test_a_plan_says_how_it_was_made(nets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("plan", nets, *INPUT, "--params", 0.5, "--scope", "local", "--target", "onnxruntime-cpu-avx2")
    monkeypatch.setattr(sys, "argv", ["fxprune", *map(str, words)])
    made = json.loads(done(*words, "--json").stdout)["origin"]
    assert (made["budget"], made["criterion"]) == ({"params": 0.5}, "l1")
    assert made["options"] == {"scope": "local", "target": "onnxruntime-cpu-avx2"}
    assert made["command"].startswith("fxprune plan ")
    assert made["command"].endswith("--params 0.5 --scope local --target onnxruntime-cpu-avx2")
    assert "this machine" in json.loads(done(*words[:-2], "--json").stdout)["origin"]["target"]


def test_compress(nets: str) -> None:
    words = ("compress", nets, *INPUT, "--macs", 0.5, "--align", 16, "-o", "out", "--seconds", 0.1, "--json")
    data = json.loads(done(*words).stdout)
    assert files() == {
        f"out/{name}"
        for name in [
            "asked.json",
            "plan.json",
            "slim.safetensors",
            "dense.onnx",
            "slim.onnx",
            "groups.json",
            "bench.json",
            "report.md",
            "widths.png",
            "latency.png",
        ]
    }
    assert data["slim"]["macs"] <= (0.5 + EXCESS) * data["dense"]["macs"]
    assert data["bench"]["rows"][1]["name"] == "slim"
    assert "| stem | 32 | 16 |" in Path("out/report.md").read_text()


def test_compress_recovers_without_labels(nets: str) -> None:
    np.savez("samples.npz", x=np.random.default_rng(0).normal(size=(64, 3, 8, 8)).astype(np.float32))
    words = ("compress", nets, *INPUT, "--macs", 0.5, "-o", "out", "--seconds", 0.05, "--json")
    data = json.loads(done(*words, "--calibrate", "samples.npz").stdout)
    assert data["recovery"]["after"] < data["recovery"]["before"]
    assert "## Recovery" in Path("out/report.md").read_text()
    result = run(*words, "--calibrate", "nowhere")
    assert result.exit_code == 1
    assert "nowhere" in result.output


# --- what is wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("plan", "nets.py:make"), "a budget names what is to be kept"),
        (("plan", "nets.py:make", "--macs", "0.5", "--channels", "0.5"), "is two of one kind"),
        (("plan", "nets.py:make", "--latency-ms", "0"), "is no time"),
        (("plan", "nets.py:make", "--latency", "0.5", "--latency-ms", "5"), "is two of one kind"),
        (("plan", "nets.py:make", "--accuracy", "0.9"), "wants samples from --calibrate"),
        (
            ("plan", "nets.py:make", "--accuracy", "0.9", "--calibrate", "a", "--macs", "0.5"),
            "in the place of a budget",
        ),
        (("plan", "nets.py:make", "--macs", "0.5", "--trials", "a.json"), "belongs to --accuracy"),
        (("inspect", "nets.py:make", "--sensitivity"), "wants samples from --calibrate"),
        (("inspect", "nets.py:make", "--calibrate", "a"), "wants samples from --calibrate"),
        (("inspect", "nets.py:make", "--dim", "1"), "give that, too"),
        (("plan", "nets.py:make", "--macs", "1.5"), "is not a fraction to keep"),
        (("plan", "nets.py:make", "--macs", "0.5", "--align", "x"), "neither auto nor a number"),
        (("plan", "nets.py:make", "--macs", "0.5", "--ratio", "stem"), "not PATTERN=FRACTION"),
        (("plan", "nets.py:make", "--macs", "0.5", "--scope", "all"), "'all' is not one of"),
        (("plan", "--macs", "0.5"), "Missing argument"),
        (("slim", "nets.py:make"), "Missing option"),
        (("bench", "a.onnx", "b/a.onnx"), "two files are called 'a'"),
        (("prune", "nets.py:make"), "No such command"),
    ],
)
def test_wrong_usage_is_code_2(nets: str, words: tuple[str, ...], says: str) -> None:
    assert says in refused(*words, *(INPUT if words[0] == "plan" else ()), code=2)
    assert not files()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("inspect", "torchvision:resnet19"), "did you mean 'resnet18'"),
        (("inspect", "nets.py:made", *INPUT), "did you mean 'make'"),
        (("inspect", "nowhere.py:make", *INPUT), "there is no file nowhere.py"),
        (("inspect", "nets.py:make"), "pass --input"),
        (("inspect", "nets.py:make", "-i", "1x3xx8"), "is not a shape or a file"),
        (("inspect", "nets.py:make", "-i", "1x4x8x8"), "trace error"),
        (("inspect", "nets.py:fails", *INPUT), "this model never runs"),
        (("plan", "nets.py:make", *INPUT, "--macs", "0.5", "-c", "l3"), "l1"),
        (("plan", "nets.py:make", *INPUT, "--macs", "0.5", "--target", "none"), "there is no target 'none'"),
        (("plan", "nets.py:make", *INPUT, "--macs", "0.5", "--protect", "nothing*"), "fits no group"),
        (("plan", "nets.py:make", *INPUT, "--macs", "0.5", "-o", "no/plan.json"), "does not exist"),
        (
            ("slim", "nets.py:make", *INPUT, "-p", "none.json", "-o", "x.safetensors"),
            "there is no file none.json",
        ),
        (("slim", "nets.py:make", *INPUT, "-p", "nets.py", "-o", "x.safetensors"), "not a readable plan"),
        (("export", "nets.py:make", *INPUT, "-o", "no/x.onnx"), "does not exist"),
        (("export", "nets.py:make", *INPUT, "-w", "none.pt", "-o", "x.onnx"), "there is no file none.pt"),
        (("bench", "none.onnx"), "there is no file none.onnx"),
        (("bench", "nets.py"), "onnxruntime cannot load nets.py"),
        (("compress", "nets.py:make", *INPUT, "--macs", "0.5", "-o", "nets.py/out"), "nets.py is a file"),
        (("compress", "nets.py:made", *INPUT, "--macs", "0.5", "-o", "out"), "did you mean 'make'"),
        (("inspect", "nets.py", *INPUT), "name a function in the file"),
        (("inspect", "nets.py:make", *INPUT, "--graph", "no/ties.dot"), "does not exist"),
        (("inspect", "nets.py:make", *INPUT, "-w", "."), ". is a folder"),
        (("inspect", "nets.py:make", "-i", "none.npz"), "there is no file none.npz"),
    ],
)
def test_what_is_refused_is_code_1(nets: str, words: tuple[str, ...], says: str) -> None:
    assert says in refused(*words)
    assert not files()


def test_a_plan_for_another_model(nets: str) -> None:
    done("plan", "nets.py:wide", *INPUT, "--params", 0.5, "-o", "plan.json")
    assert "made for another model" in refused("slim", nets, *INPUT, "-p", "plan.json", "-o", "x.safetensors")
    assert files() == {"plan.json"}


def test_weights_that_do_not_fit(nets: str) -> None:
    save_file({"stem.weight": torch.zeros(8, 3, 3, 3)}, "w.safetensors")
    said = refused("plan", nets, *INPUT, "--macs", 0.5, "-w", "w.safetensors")
    assert "stem.weight: 8x3x3x3 in the file, 32x3x3x3 in the model" in said
    Path("w.safetensors").write_bytes(b"not what it says")
    assert "damaged" in refused("plan", nets, *INPUT, "--macs", 0.5, "-w", "w.safetensors")


class _Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("ran"),))


def test_pickles_are_refused_unless_allowed(nets: str) -> None:
    torch.save({"state_dict": {"a": torch.zeros(1)}, "extra": _Bomb()}, "w.pt")
    words = ("plan", nets, *INPUT, "--macs", 0.5, "-w", "w.pt")
    assert "--allow-pickle" in refused(*words)
    assert not Path("ran").exists()
    assert "do not fit the model" in refused(*words, "--allow-pickle")
    assert Path("ran").exists()
    Path("p.pkl").write_bytes(pickle.dumps(_Bomb()))
    Path("ran").unlink()
    assert "--allow-pickle" in refused("plan", nets, *INPUT, "--macs", 0.5, "-w", "p.pkl")
    torch.save({"state_dict": _Bomb()}, "w.pt")
    assert "pickled objects" in refused(*words)
    assert not Path("ran").exists()


def test_a_failed_run_keeps_what_was_there(nets: str) -> None:
    Path("x.onnx").write_text("mine")
    refused("export", "nets.py:fails", *INPUT, "-o", "x.onnx")
    assert Path("x.onnx").read_text() == "mine"


def test_debug_raises(nets: str) -> None:
    result = run("--debug", "inspect", "nets.py:made", *INPUT)
    assert isinstance(result.exception, fxprune.FxpruneError)


def test_interruption(nets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fxprune.pipeline.open_model", interrupt)
    result = run("inspect", nets, *INPUT)
    assert result.exit_code == 130
    assert "interrupted" in result.stderr


def test_an_unforeseen_error_is_a_panel(nets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise IndexError("surprise")

    monkeypatch.setattr("fxprune.pipeline.open_model", fail)
    said = refused("inspect", nets, *INPUT)
    assert "IndexError: surprise" in said
    assert "--debug" in said
