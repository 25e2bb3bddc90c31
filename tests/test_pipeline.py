"""compress() in one call, its failures, and what it leaves behind them."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import kills
import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from support.test_files import short_of_space
from torch import nn

import fxprune
from fxprune import ExportError, FxpruneError, PlanError, SliceError
from fxprune.pipeline import onnx_inputs, open_model
from fxprune.planning.reading import read_plan
from fxprune.planning.solve import EXCESS
from fxprune.support.delivery import Asked, Delivery, Paths, begin_delivery, check_folder

PARITY = 1e-4


def _net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 48, 3, padding=1),
        nn.BatchNorm2d(48),
        nn.ReLU(),
        nn.Conv2d(48, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 5),
    ).eval()


class _Log:
    """A watcher that remembers the steps."""

    def __init__(self) -> None:
        self.titles: list[str] = []

    def step(self, title: str):
        self.titles.append(title)
        return fxprune.report.steps.SILENT.step(title)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 3, 8, 8)


def test_everything_in_one_call(tmp_path: Path, x: torch.Tensor) -> None:
    net, log = _net(), _Log()
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}

    def finetune(slim: nn.Module) -> None:
        with torch.no_grad():
            slim[7].bias += 1.0

    result = fxprune.compress(
        net,
        x,
        fxprune.Budget(macs=0.5),
        out=tmp_path / "a" / "b",
        finetune=finetune,
        seconds=0.05,
        watcher=log,
    )
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())
    assert log.titles == [
        "trace",
        "plan",
        "slim",
        "verify",
        "save",
        "export dense",
        "export slim",
        "benchmark",
        "report",
    ]
    assert result.plan.predicted.macs <= (0.5 + EXCESS) * result.plan.dense.macs
    assert result.proof.error < 1e-12

    session = onnxruntime.InferenceSession(result.paths.slim_onnx)
    [got] = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    expected = result.slim(x).detach().numpy()
    assert np.abs(got - expected).max() <= PARITY * np.abs(expected).max()

    loaded = fxprune.load(_net(), result.paths.weights, x)  # what is saved is the fine-tuned model
    torch.testing.assert_close(loaded.eval()(x), result.slim(x), rtol=0, atol=0)
    assert read_plan(result.paths.plan) == read_plan(result.paths.weights) == result.plan
    assert json.loads(json.dumps(result.as_json()))["slim"]["macs"] == result.plan.predicted.macs
    report = result.paths.report.read_text()
    for name in ("widths.png", "latency.png"):
        assert f"({name})" in report
        assert (result.paths.report.parent / name).stat().st_size > 1000
    assert not [path for path in result.paths.report.parent.iterdir() if path.name.startswith(".")]


def test_recovery_and_a_metric(tmp_path: Path, x: torch.Tensor) -> None:
    net, log, samples = _net(), _Log(), torch.randn(128, 3, 8, 8)
    unseen = torch.randn(64, 3, 8, 8)
    expected = net(unseen).detach()

    def metric(model: nn.Module) -> float:
        assert not model.training and not torch.is_grad_enabled()
        return -float((model(unseen) - expected).square().mean())

    result = fxprune.compress(
        *(net, x, fxprune.Budget(macs=0.5)),
        out=tmp_path,
        calibrate=samples,
        metric=metric,
        seconds=0.05,
        watcher=log,
    )
    assert log.titles[4:8] == ["metric, dense", "metric, sliced", "recover", "metric, recovered"]
    scores = result.accuracy
    assert list(scores) == ["dense", "sliced", "recovered", "onnx"]
    assert scores["dense"] == 0
    assert scores["sliced"] < scores["recovered"] < 0
    assert abs(scores["onnx"] - scores["recovered"]) < 1e-4 * abs(scores["sliced"])
    assert result.recovery is not None and result.recovery.solved
    assert result.proof.error < 1e-12, "proved before its weights were solved for"
    report = result.paths.report.read_text()
    assert "## Recovery" in report and "## Metric" in report and "before recovery" in report
    data = json.loads(json.dumps(result.as_json(), allow_nan=False))
    assert data["recovery"]["after"] < data["recovery"]["before"]


def test_recovery_takes_what_the_criterion_saw_if_it_can(tmp_path: Path, x: torch.Tensor) -> None:
    def loss(model: nn.Module, batch: object) -> torch.Tensor:
        images, labels = batch if isinstance(batch, tuple) else (batch["images"], batch["labels"])  # type: ignore[index]
        return nn.functional.cross_entropy(model(images), labels)

    pairs = [(torch.randn(8, 3, 8, 8), torch.randint(5, (8,))) for _ in range(8)]
    words = {"criterion": "taylor", "loss": loss, "seconds": 0.05}
    made = fxprune.compress(_net(), x, fxprune.Budget(macs=0.5), out=tmp_path, data=pairs, **words)  # type: ignore[arg-type]
    assert made.recovery is not None
    named = [{"images": images, "labels": labels} for images, labels in pairs]
    made = fxprune.compress(_net(), x, fxprune.Budget(macs=0.5), out=tmp_path, data=named, **words)  # type: ignore[arg-type]
    assert made.recovery is None
    made = fxprune.compress(
        _net(),
        x,
        fxprune.Budget(macs=0.5),
        out=tmp_path,
        data=pairs,
        calibrate=[],
        **words,  # type: ignore[arg-type]
    )
    assert made.recovery is None
    with pytest.raises(FxpruneError, match="a mapping with images, labels"):
        fxprune.compress(_net(), x, fxprune.Budget(macs=0.5), out=tmp_path, calibrate=named, seconds=0.05)


def test_keyword_inputs(tmp_path: Path) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 16), nn.Linear(16, 3)

        def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
            return self.b(torch.relu(self.a(left - right)))

    inputs = {"right": torch.randn(2, 4), "left": torch.randn(2, 4)}
    result = fxprune.compress(Named().eval(), inputs, fxprune.Budget(params=0.5), out=tmp_path, seconds=0.05)
    assert result.bench["slim"].params is not None


def test_options_reach_the_planner(tmp_path: Path, x: torch.Tensor) -> None:
    result = fxprune.compress(
        _net(),
        x,
        fxprune.Budget(channels=0.5),
        out=tmp_path,
        protect=["3"],
        align=1,
        criterion="l2",
        seconds=0.05,
    )
    assert {row.name: row.after for row in result.widths} == {"0": 24, "3": 32}


def test_an_impossible_plan_leaves_no_file(tmp_path: Path, x: torch.Tensor) -> None:
    with pytest.raises(PlanError, match="fits no group"):
        fxprune.compress(_net(), x, fxprune.Budget(macs=0.5), out=tmp_path / "o", only=["nothing"])
    assert not (tmp_path / "o").exists()


PLAN = '{"format": "fxprune-plan"}'


def _fail(*_: object, **__: object) -> None:
    raise ExportError("no")


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_failed_export_keeps_the_weights_and_no_report(
    tmp_path: Path, x: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plan.json").write_text(PLAN)  # of an earlier run that did not come to its end
    (tmp_path / "slim.onnx").write_text("of an earlier run")
    (tmp_path / "notes.txt").write_text("the user's")
    monkeypatch.setattr("fxprune.pipeline.export_onnx", _fail)
    with pytest.raises(ExportError):
        fxprune.compress(_net(), x, fxprune.Budget(macs=0.5), out=tmp_path)
    assert _names(tmp_path) == {"asked.json", "plan.json", "slim.safetensors", "groups.json", "notes.txt"}
    assert read_plan(tmp_path / "plan.json") == read_plan(tmp_path / "slim.safetensors")


@pytest.mark.parametrize("trained", [False, True])
def test_a_failure_leaves_a_finished_run_as_it_was(
    tmp_path: Path, x: torch.Tensor, monkeypatch: pytest.MonkeyPatch, trained: bool
) -> None:
    files = {"plan.json": PLAN, "report.md": "finished", "slim.safetensors": "weights"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr("fxprune.pipeline.export_onnx", _fail)
    finetune = (lambda _: None) if trained else None
    with pytest.raises(ExportError):
        fxprune.compress(_net(), x, fxprune.Budget(macs=0.5), out=tmp_path, finetune=finetune)
    assert {name: (tmp_path / name).read_text() for name in files} == files
    # What took long to make is not thrown away; the next run removes it.
    assert _names(tmp_path) - set(files) == ({"fxprune-unfinished"} if trained else set())
    if trained:
        assert "slim.safetensors" in _names(tmp_path / "fxprune-unfinished")
        with pytest.raises(PlanError):
            fxprune.compress(_net(), x, fxprune.Budget(macs=0.5), out=tmp_path, only=["nothing"])
        assert _names(tmp_path) == set(files)


def test_a_full_disk(tmp_path: Path, x: torch.Tensor) -> None:
    """The system itself refuses to write more; what was there stays, and the weights say so as an error of fxprune."""
    traced = fxprune.trace(_net(), x)
    plan = fxprune.plan(traced, fxprune.Budget(macs=0.5))
    small = fxprune.slim(traced, plan)
    fxprune.save(small, plan, tmp_path / "slim.safetensors")
    (tmp_path / "out").mkdir()
    files = {"plan.json": PLAN, "report.md": "finished"}
    for name, text in files.items():
        (tmp_path / "out" / name).write_text(text)
    before = (tmp_path / "slim.safetensors").read_bytes()
    with short_of_space(4096):
        with pytest.raises(SliceError, match=r"slim\.safetensors cannot be written: .*[Tt]oo large"):
            fxprune.save(small, plan, tmp_path / "slim.safetensors")
        with pytest.raises(FxpruneError, match=r"cannot be written: .*[Tt]oo large"):
            fxprune.compress(_net(), x, fxprune.Budget(macs=0.5), out=tmp_path / "out")
        with pytest.raises(ExportError, match=r"cannot be written: .*[Tt]oo large"):
            fxprune.export_onnx(small, x, tmp_path / "slim.onnx")
    assert (tmp_path / "slim.safetensors").read_bytes() == before
    assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == files
    assert _names(tmp_path) == {"slim.safetensors", "out"}


def test_what_others_have_in_the_folder(tmp_path: Path, x: torch.Tensor) -> None:
    """Files with other names stay and are told of; compress overwrites nothing that it did not write."""
    for files, says in (
        ({"report.md": "the user's own"}, r"report\.md was not written by compress"),
        ({"plan.json": "{}"}, r"plan\.json was not written by compress"),
        ({"record.json": "{}"}, "holds a run of fxprune train"),
    ):
        folder = tmp_path / next(iter(files))
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
        with pytest.raises(FxpruneError, match=says):
            fxprune.compress(_net(), x, fxprune.Budget(macs=0.5), out=folder)
        assert {path.name: path.read_text() for path in folder.iterdir()} == files


@pytest.mark.parametrize("option", [{"seconds": -1.0}, {"seconds": float("nan")}, {"threads": 0}])
def test_what_the_benchmark_would_refuse_is_refused_first(
    tmp_path: Path, x: torch.Tensor, option: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fxprune.pipeline.trace", _fail)
    with pytest.raises(FxpruneError, match="makes no sense"):
        fxprune.compress(_net(), x, fxprune.Budget(macs=0.5), out=tmp_path / "out", **option)
    assert not (tmp_path / "out").exists()


def test_a_result_of_something_else_is_replaced_only_when_told(tmp_path: Path, x: torch.Tensor) -> None:
    """The same again takes the place of the earlier result, after more training, too; another model or budget does not."""

    def again(net: nn.Module, macs: float = 0.5, **options: bool) -> str:
        result = fxprune.compress(
            net, x, fxprune.Budget(macs=macs), out=tmp_path, seconds=0.01, calibrate=[], **options
        )
        return result.paths.plan.read_text()

    first = again(_net())
    held = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = nn.Sequential(nn.Conv2d(3, 24, 3), nn.ReLU(), nn.Conv2d(24, 5, 3))
    for net, macs, says in (
        (_net(), 0.4, r"holds the result of another budget \(macs=0\.5\), which would be lost"),
        (other, 0.5, r"holds the result of another model \(\w+\), which would be lost"),
    ):
        with pytest.raises(FxpruneError, match=says) as caught:
            again(net, macs)
        assert "force=True" in caught.value.advice
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == held
    trained = _net()
    with torch.no_grad():
        for weight in trained.parameters():
            weight.add_(0.1)
    assert json.loads(again(trained))["fingerprint"] == json.loads(first)["fingerprint"]
    again(_net(), 0.4, force=True)
    (tmp_path / "asked.json").unlink()  # as earlier versions left it: the plan alone tells
    again(_net(), 0.5)
    with pytest.raises(FxpruneError, match="of another model"):
        again(other)
    assert json.loads((tmp_path / "asked.json").read_text())["budget"] == {"macs": 0.5}


def test_a_home_directory_and_names_that_no_file_can_have(
    tmp_path: Path, x: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert check_folder("~/x") == tmp_path / "x"
    for name in ("a\0b", "a" * 300, "~nobody-of-that-name/x"):
        with pytest.raises(FxpruneError, match="cannot be written"):
            fxprune.compress(_net(), x, fxprune.Budget(macs=0.5), out=name)


# --- kills: hundreds of them by tools/kills.py -------------------------------------------------

ASKED = Asked("Net", {"macs": 0.5})
ALL = sorted(path.name for path in vars(Paths.inside(Path())).values())


def _delivery(out: Path, generation: str, *, finished: bool = True) -> Delivery:
    """A run of compress, its files holding a word of their own."""
    delivery = begin_delivery(out, ASKED)
    delivery.begin()
    for path in vars(delivery.unfinished).values():
        if finished or path.name in ("plan.json", "slim.safetensors"):
            path.write_text(PLAN + " " * len(generation) if path.name == "plan.json" else generation)
    return delivery


def _generations(out: Path) -> set[int]:
    """By the words, and by the length of the plan, which has to be one."""
    texts = {path.name: path.read_text() for path in out.iterdir() if path.is_file()}
    return {len(text) - len(PLAN) * (name == "plan.json") for name, text in texts.items()}


def test_killed_at_every_file_operation_of_a_delivery(tmp_path: Path) -> None:
    """In sight are files of one run, a report stands beside all of them, and the next start mends the rest."""

    def deliver() -> None:
        _delivery(tmp_path / "new", "new!").finish()

    shutil.rmtree(tmp_path / "new", ignore_errors=True)
    total = kills.operations(lambda: (_filled(tmp_path / "new"), deliver()), tmp_path / "new")
    filled = kills.operations(lambda: _filled(tmp_path / "old"), tmp_path / "old")
    assert total - filled > 3 * len(ALL)
    seen: set[tuple[int, ...]] = set()
    for at in range(1, total - filled + 1):
        shutil.rmtree(tmp_path / "new")
        _filled(tmp_path / "new")
        assert kills.run(deliver, tmp_path / "new", kills.Kill(signal.SIGKILL, at)) == -signal.SIGKILL
        there = _names(tmp_path / "new") - {"fxprune-unfinished"}
        found = _generations(tmp_path / "new")
        assert len(found) <= 1
        assert "report.md" not in there or sorted(there) == ALL
        seen.add(tuple(found))
        begin_delivery(tmp_path / "new", ASKED)  # as the next start does
        left = _names(tmp_path / "new")
        assert sorted(left) == ALL  # the old run or the new one, whole
        assert len(_generations(tmp_path / "new")) == 1
    assert {(3,), (4,)} <= seen


def _filled(out: Path) -> None:
    _delivery(out, "old").finish()


def test_compress_is_killed_and_answers_signals(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    net = tmp_path / "nets.py"
    net.write_text(kills.NETS)
    out = tmp_path / "out"
    work = kills.command(
        ("compress", f"{net}:new", "-i", "2x1x8x8", "--macs", "0.5", "--out", "OUT"), tmp_path, out
    )
    for kill, code in (
        (kills.Kill(signal.SIGKILL, 12), -signal.SIGKILL),
        (kills.Kill(signal.SIGTERM, 12), 143),
        (kills.Kill(signal.SIGHUP, 14), 129),
    ):
        assert kills.run(work, out, kill, tmp_path / "log") == code
        assert not (out / "report.md").exists()
        hidden = [path for path in out.rglob("*") if path.name.startswith(".")] if out.exists() else []
        assert bool(hidden) == (code < 0)
    assert "interrupted by SIGHUP; no file was left half-written" in capfd.readouterr().err


# --- models without ONNX files -----------------------------------------------------------------


def test_a_folder_that_cannot_be(tmp_path: Path, x: torch.Tensor) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FxpruneError, match="file is a file"):
        fxprune.compress(_net(), x, fxprune.Budget(macs=0.5), out=tmp_path / "file" / "o")


class Branching(nn.Module):
    """Where it goes depends on its data, as in a detector."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 64), nn.Linear(64, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.a(x)
        return self.b(h * 2 if h.sum() > 0 else h)


def test_a_model_that_can_be_no_onnx_gets_everything_else(tmp_path: Path) -> None:
    x, net = torch.randn(2, 8), Branching().eval()
    result = fxprune.compress(net, x, fxprune.Budget(macs=0.5), out=tmp_path / "o", seconds=0.05)
    assert {path.name for path in result.paths.report.parent.iterdir()} == {
        "asked.json",
        "plan.json",
        "slim.safetensors",
        "groups.json",
        "bench.json",
        "report.md",
        "widths.png",
        "latency.png",
    }
    assert result.proof.error < 1e-12
    assert not result.exports
    assert [row.runtime for row in result.bench.rows] == ["torch", "torch"]
    assert result.bench["slim"].macs == result.plan.predicted.macs
    facts = result.as_json()
    assert "depends on its data" in str(facts["why_no_onnx"])
    assert not {"dense_onnx", "slim_onnx"} & set(facts["files"])
    assert "No ONNX files: torch.export refuses" in result.paths.report.read_text()
    torch.testing.assert_close(fxprune.load(net, result.paths.weights, x)(x), result.slim(x), rtol=0, atol=0)


def test_onnx_inputs(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    fxprune.export_onnx(_net(), torch.zeros(2, 3, 8, 8), path)
    [tensor] = onnx_inputs(path).values()
    assert tensor.shape == (1, 3, 8, 8)
    assert isinstance(onnx_inputs(path, ["4x3x8x8"]), tuple)


def test_plans_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe")
    (tmp_path / "other.json").write_text("[]")
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors")
    for name, says in (
        ("none.json", "there is no file"),
        ("binary.json", "it is not UTF-8 text"),
        ("other.json", "not a readable plan"),
        ("w.safetensors", "holds weights and no plan"),
    ):
        with pytest.raises(PlanError, match=says) as caught:
            read_plan(tmp_path / name)
        assert name in str(caught.value)


def test_where_weights_come_from(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text("from torch import nn\n\ndef make():\n    return nn.Linear(3, 4)\n")
    spec = f"{tmp_path / 'nets.py'}:make"
    assert open_model(spec, inputs=["1x3"]).weights == "as the factory made them"
    assert "random" in open_model("torchvision:squeezenet1_1").weights
    torch.save({"weight": torch.ones(4, 3), "bias": torch.zeros(4)}, tmp_path / "w.pt")
    opened = open_model(spec, weights=tmp_path / "w.pt", inputs=["1x3"])
    assert opened.weights == f"from {tmp_path / 'w.pt'}"
    assert opened.model.weight.sum() == 12
