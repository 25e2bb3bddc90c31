"""Bench: figures that can be checked, models that take turns, errors that say what to do."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    quantize_dynamic,
    quantize_static,
)
from torch import nn

from fxprune.bench import benchmark as bench_stage
from fxprune.bench import contestants
from fxprune.bench.benchmark import BenchRow, BenchTable, benchmark
from fxprune.bench.table import _scaled
from fxprune.errors import ExportError, FxpruneError
from fxprune.onnx import cost as onnx_cost
from fxprune.onnx.export import export_onnx
from fxprune.onnx.session import Session, machine, open_session
from fxprune.onnx.settings import Setting
from fxprune.plans import Cost

MIB = 2**20


class _Net(nn.Sequential):
    def __init__(self, width: int) -> None:
        super().__init__(
            *(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)),
        )


WIDE = 3 * 64 * 9 + 64 + 64 * 64 * 9 + 64 + 64 * 10 + 10
WIDE_MACS = 64 * 27 * 32 * 32 + 64 * 64 * 9 * 30 * 30 + 640
IMAGE = torch.rand(1, 3, 32, 32)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("nets")
    for name, width in (("wide", 64), ("narrow", 16)):
        export_onnx(_Net(width), IMAGE, folder / f"{name}.onnx")
    return {name: folder / f"{name}.onnx" for name in ("wide", "narrow")}


@pytest.fixture(scope="module")
def table(files: dict[str, Path]) -> BenchTable:
    models = {**files, "module": _Net(64)}
    return benchmark(models, IMAGE, repeats=9, warmup=2, batch=2)


# --- the figures -------------------------------------------------------------------------------


def test_rows(table: BenchTable, files: dict[str, Path]) -> None:
    assert [row.name for row in table.rows] == ["wide", "narrow", "module"]
    assert [row.runtime for row in table.rows] == ["onnxruntime", "onnxruntime", "torch"]
    assert (table.rounds, table.warmup, table.threads, table.batch) == (9, 2, 1, 2)
    for row in table.rows:
        assert 0 < row.p10_ms <= row.median_ms <= row.p90_ms
        assert row.iqr_ms >= 0
        assert row.speedup_low <= row.speedup <= row.speedup_high
        assert row.calls_per_sample >= 1
    wide, narrow, module = table.rows
    assert (wide.speedup, wide.speedup_low, wide.speedup_high) == (1, 1, 1)
    assert narrow.speedup > 1.5  # a sixteenth of the work in the second layer
    assert [row.size_bytes for row in table.rows] == [*(p.stat().st_size for p in files.values()), None]
    assert (module.peak_memory_bytes, module.params, module.macs) == (None, WIDE, WIDE_MACS)


def test_params_and_macs_are_those_of_the_formula(table: BenchTable) -> None:
    assert (table["wide"].params, table["wide"].macs) == (WIDE, WIDE_MACS)  # per sample, at batch 2
    with pytest.raises(KeyError):
        table["none"]


def test_given_costs_are_taken_over(files: dict[str, Path]) -> None:
    costs = {name: Cost(params=7, macs=11) for name in files}
    table = benchmark(files, IMAGE, repeats=1, warmup=0, costs=costs, memory=False)
    assert [(row.params, row.macs) for row in table.rows] == [(7, 11)] * 2
    assert "as given" in table.counted
    assert all(row.peak_memory_bytes is None for row in table.rows)
    # A busy machine is said, too.
    assert not any("count" in note or "memory" in note for row in table.rows for note in row.notes)


def test_frozen_and_as_json(table: BenchTable) -> None:
    with pytest.raises(FrozenInstanceError):
        table.threads = 2  # type: ignore[misc]
    data = json.loads(table.to_json())
    assert (data["format"], data["version"]) == ("fxprune-bench", 1)
    assert data["rows"][1]["median_ms"] == table["narrow"].median_ms
    assert data["machine"]["cores"] == machine().cores >= 1
    assert data["machine"]["torch"] == torch.__version__
    assert data["threads"] == 1
    assert "CPUExecutionProvider" in data["session"]


def test_as_text(table: BenchTable) -> None:
    text = table.to_text(width=140)
    assert "latency of one call, batch 2" in text
    for row in table.rows:
        assert row.name in text
    for fact in (
        "1 thread;",
        "9 rounds after 2 warm-up calls",
        machine().cpu,
        "95 % interval",
        "MACs: convolutions",
        "run in torch",
    ):
        assert fact in text
    assert "\x1b" not in text
    assert all(len(line) <= 100 for line in table.to_text(width=100).splitlines())


def test_names_are_no_markup() -> None:
    row = BenchRow("[bold]a[/bold]", "torch", *[1.0] * 7, calls_per_sample=1)
    text = BenchTable((row,), machine(), 2, None, 1, 0, "counted").to_text()
    assert "[bold]a[/bold]" in text
    assert "2 threads;" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (999, "999 B"),
        (44_700_000, "44.7 MB"),
        (4.09e9, "4.09 GB"),
        (999_960, "1000 kB"),
        (2e13, "20.0 TB"),
    ],
)
def test_units(value: float | None, text: str) -> None:
    assert _scaled(value, "B") == text


# --- how it is measured ------------------------------------------------------------------------


class _Sleeper(nn.Module):
    """Takes a known time, and notes when it was called."""

    def __init__(self, seconds: float, log: list[float]) -> None:
        super().__init__()
        self.seconds, self.log = seconds, log

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert torch.is_inference_mode_enabled() or not torch.is_grad_enabled()
        assert not self.training
        self.log.append(self.seconds)
        time.sleep(self.seconds)
        return x


def test_known_times_give_known_ratios() -> None:
    log: list[float] = []
    slow, fast = _Sleeper(0.02, log), _Sleeper(0.005, log)
    table = benchmark({"slow": slow, "fast": fast}, torch.ones(1), repeats=12, warmup=2)
    # sleep() may take longer than asked, on a busy machine by milliseconds, never shorter
    assert 20 <= table["slow"].median_ms < 30
    assert 5 <= table["fast"].median_ms < 10
    assert 2.5 < table["fast"].speedup < 4.5
    assert table["fast"].speedup_low > 1.5
    assert slow.training, "the module's mode is given back"
    # Warm-up and loading come first, then one of each a round, in changing order.
    timed = log[-2 - 24 : -2]  # the last two calls count the MACs
    rounds = [tuple(timed[k : k + 2]) for k in range(0, 24, 2)]
    assert {frozenset(r) for r in rounds} == {frozenset((0.02, 0.005))}
    assert set(rounds) == {(0.02, 0.005), (0.005, 0.02)}


def test_short_calls_are_timed_together() -> None:
    log: list[float] = []
    table = benchmark({"short": _Sleeper(0.0002, log)}, torch.ones(1), repeats=5, warmup=3)
    row = table["short"]
    assert 2 <= row.calls_per_sample <= 10  # two milliseconds of 0.2 and the cost of sleeping
    assert row.median_ms >= 0.2


def test_order_depends_on_the_seed_only() -> None:
    def order(seed: int) -> list[float]:
        log: list[float] = []
        benchmark(
            {"a": _Sleeper(0.0021, log), "b": _Sleeper(0.0022, log)},
            torch.ones(1),
            repeats=10,
            warmup=1,
            seed=seed,
        )
        return log

    random.seed(3)
    first = order(0)
    random.seed(4)
    assert order(0) == first
    assert order(1) != first


def test_seconds_instead_of_rounds() -> None:
    start = time.perf_counter()
    table = benchmark({"a": _Sleeper(0.01, [])}, torch.ones(1), seconds=0.3, repeats=1, warmup=1)
    assert 5 <= table.rounds <= 31
    assert time.perf_counter() - start >= 0.3
    assert benchmark({"a": _Sleeper(0.01, [])}, torch.ones(1), seconds=0, warmup=0).rounds == 5


def test_interval_covers_the_median() -> None:
    """Of 200 experiments with a known median the 95 % interval misses about one in twenty."""
    random_state = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        low, high = bench_stage._interval(random_state.normal(2.0, 0.3, 40))
        hits += low <= 2.0 <= high
    assert 180 <= hits <= 199
    assert bench_stage._interval(np.ones(7)) == (1, 1)


def test_threads_are_set_and_given_back() -> None:
    seen: list[int] = []

    class Threads(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(torch.get_num_threads())
            return x

    before = torch.get_num_threads()
    benchmark({"a": Threads()}, torch.ones(1), threads=2, repeats=2)
    assert set(seen) == {2}
    assert torch.get_num_threads() == before


def test_progress_only_grows(files: dict[str, Path]) -> None:
    told: list[tuple[float, str]] = []
    benchmark(files, IMAGE, repeats=3, warmup=1, progress=lambda done, what: told.append((done, what)))
    fractions = [done for done, _ in told]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0, 1)
    assert {"loading", "round 2", "memory of narrow", "done"} <= {what for _, what in told}


# --- memory ------------------------------------------------------------------------------------


def test_peak_memory_sees_weights_and_activations(tmp_path: Path) -> None:
    """A linear layer of 32 MiB, and one whose output of 64 MiB is the larger part."""
    weights = export_onnx(nn.Linear(4096, 2048, bias=False), torch.rand(1, 4096), tmp_path / "w.onnx").path
    empty = export_onnx(nn.Linear(4, 4), torch.rand(1, 4), tmp_path / "e.onnx").path

    def peak(path: Path, *shape: int) -> int:
        name = open_session(path).inputs[0].name
        measured, problem = contestants.peak_memory(path, {name: np.ones(shape, np.float32)})
        assert problem == ""
        assert measured is not None
        return measured

    base = peak(empty, 1, 4)
    assert 0 < base < 24 * MIB
    heavy = peak(weights, 1, 4096) - base
    assert 32 * MIB <= heavy < 5 * 32 * MIB  # once as loaded, and as the runtime packs and copies it
    wide = peak(empty, 4 * MIB, 4) - base
    assert 64 * MIB <= wide < 3 * 64 * MIB


def test_memory_from_another_folder(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the current folder nor what lies in it matters, and relative paths work."""
    monkeypatch.chdir(files["wide"].parent)
    Path("numpy.py").write_text("raise SystemExit('the wrong numpy')")
    try:
        table = benchmark({"wide": "wide.onnx"}, IMAGE, repeats=1, warmup=0)
    finally:
        Path("numpy.py").unlink()
    assert table["wide"].peak_memory_bytes is not None
    assert table["wide"].peak_memory_bytes > 0


def test_a_temporary_folder_that_is_full(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures are there; only memory is measured through a file."""
    for problem, says in (
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "OSError: No space left on device"),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory"), "No usable temporary directory"),
    ):
        monkeypatch.setattr(np, "savez", _raising(problem))
        row = benchmark({"wide": files["wide"]}, IMAGE, repeats=1)["wide"]
        assert (row.peak_memory_bytes, row.params) == (None, WIDE)
        assert "peak memory not measured" in row.notes[0]
        assert says in row.notes[0]


def _raising(error: Exception) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_a_failing_probe_says_so(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", os.devnull)
    row = benchmark({"wide": files["wide"]}, IMAGE, repeats=1)["wide"]
    assert row.peak_memory_bytes is None
    # A busy machine is said, too.
    assert "peak memory not measured: PermissionError: Permission denied" in row.notes
    monkeypatch.undo()
    measured, problem = contestants.peak_memory(files["wide"], {"input": np.ones((1, 3, 32, 31), np.float16)})
    assert measured is None
    assert "peak memory not measured: " in problem
    assert "Unexpected input data type" in problem
    assert contestants.peak_memory(files["wide"], {}, timeout=0.001) == (
        None,
        "peak memory not measured: TimeoutExpired",
    )


def test_the_probe_does_not_import_torch() -> None:
    script = f"import runpy, sys; runpy.run_path({str(contestants.memory_probe.__file__)!r}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# --- counting in the file ------------------------------------------------------------------------


def _count(module: nn.Module, x: torch.Tensor, folder: Path) -> onnx_cost.OnnxCost:
    path = export_onnx(module, x, folder / "m.onnx", target="any").path  # as it is, no groups joined
    return onnx_cost.count(path, {open_session(path).inputs[0].name: tuple(x.shape)}, x.shape[0])


@pytest.mark.parametrize(
    ("module", "shape", "params", "macs"),
    [
        (nn.Conv2d(4, 6, 3, stride=2, groups=2), (3, 4, 9, 9), 6 * 2 * 9 + 6, 6 * 18 * 16),
        (nn.Conv1d(4, 6, 3), (2, 4, 9), 78, 6 * 12 * 7),
        (nn.Conv3d(2, 4, (1, 3, 3)), (2, 2, 5, 6, 7), 76, 4 * 18 * 5 * 4 * 5),
        (nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2), (2, 6, 5, 5), 6 * 2 * 9 + 4, 6 * 25 * 2 * 9),
        (nn.Linear(5, 7), (3, 5), 42, 35),
        (nn.Linear(5, 7), (3, 11, 5), 42, 11 * 35),
    ],
)
def test_macs_by_layer(
    module: nn.Module, shape: tuple[int, ...], params: int, macs: int, tmp_path: Path
) -> None:
    assert _count(module, torch.rand(shape), tmp_path) == onnx_cost.OnnxCost(params, macs)


def test_macs_of_attention(tmp_path: Path) -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    tokens, width = 6, 16
    projections = tokens * (4 * width * width + 2 * width * 32)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)  # equal tensors (new norms) would be stored once
    counted = _count(layer, torch.rand(2, tokens, width), tmp_path)
    assert counted.macs == projections + 2 * tokens * tokens * width
    assert counted.params == sum(p.numel() for p in layer.parameters())


def _graph(path: Path, nodes: list[onnx.NodeProto], shape: list[int | str]) -> Path:
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [info("x", TensorProto.FLOAT, shape)], [info("y", TensorProto.FLOAT, None)]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_what_is_not_counted_is_named(tmp_path: Path) -> None:
    path = _graph(
        tmp_path / "m.onnx", [helper.make_node("Einsum", ["x", "x"], ["y"], equation="ij,kj->ik")], [2, 3]
    )
    assert onnx_cost.count(path, {"x": (2, 3)}, 2) == onnx_cost.OnnxCost(0, 0, "not counted: Einsum")


def test_unknown_shapes_give_no_figure(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
    ]
    nodes += [helper.make_node("Transpose", ["f"], ["t"]), helper.make_node("MatMul", ["f", "t"], ["y"])]
    counted = onnx_cost.count(_graph(tmp_path / "m.onnx", nodes, [2, 3]), {"x": (2, 3)}, 1)
    assert counted.macs is None
    assert counted.note.startswith("no MACs: the shape of")


def test_a_run_tells_shapes_that_cannot_be_inferred(tmp_path: Path) -> None:
    """As those of a language model with a batch of any size: the product of a matrix [2, 6] and its transpose."""
    nodes = [
        helper.make_node("NonZero", ["x"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["f"], ["t"]),
        helper.make_node("MatMul", ["f", "t"], ["y"]),
    ]
    path = _graph(tmp_path / "m.onnx", nodes, [2, 3])
    feeds = {"x": np.ones((2, 3), np.float32)}
    assert onnx_cost.count(path, {"x": (2, 3)}, 1, feeds=feeds) == onnx_cost.OnnxCost(0, 2 * 6 * 2)
    row = benchmark({"m": path}, torch.ones(2, 3), repeats=2, memory=False).rows[0]
    assert (row.macs, row.notes) == (2 * 6 * 2 // 2, row.notes)
    assert not any("no MACs" in note for note in row.notes)


def test_a_run_finds_weights_beside_the_graph(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["w", "f"], ["y"]),
    ]
    path = _graph(tmp_path / "m.onnx", nodes, [2, 3])
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((500, 2), np.float32), "w"))
    onnx.save_model(model, path, save_as_external_data=True, location="w.data", size_threshold=0)
    counted = onnx_cost.count(path, {"x": (2, 3)}, 1, feeds={"x": np.ones((2, 3), np.float32)})
    assert counted == onnx_cost.OnnxCost(1000, 500 * 2 * 6)


class _Calibration(CalibrationDataReader):
    def __init__(self) -> None:
        self.left = [
            {"input": np.random.default_rng(n).normal(size=(1, 3, 8, 8)).astype("f4")} for n in (0, 1)
        ]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self.left.pop() if self.left else None


def test_a_quantised_file_has_the_weights_and_the_work_of_the_float_one(tmp_path: Path) -> None:
    """Scales and zero points are none of them, biases in int32 are; in every way in which onnxruntime writes such files."""
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=4), nn.Flatten(), nn.Linear(256, 10)
    )
    dense = export_onnx(net, torch.rand(1, 3, 8, 8), tmp_path / "dense.onnx", passes=[]).path
    quantize_dynamic(dense, tmp_path / "dynamic.onnx")
    for way in QuantFormat:
        quantize_static(
            dense, tmp_path / f"{way.name}.onnx", _Calibration(), quant_format=way, per_channel=True
        )
    feeds = {"input": np.zeros((4, 3, 8, 8), np.float32)}
    params = sum(parameter.numel() for parameter in net.parameters())
    macs = 16 * 27 * 36 + 16 * 36 * 16 + 256 * 10
    kinds: set[str] = set()
    for path in sorted(tmp_path.glob("*.onnx")):
        counted = onnx_cost.count(path, {"input": (4, 3, 8, 8)}, 4, feeds=feeds)
        assert counted == onnx_cost.OnnxCost(params, macs), path.name
        kinds |= {node.op_type for node in onnx.load(path).graph.node}
    assert {"ConvInteger", "MatMulInteger", "QLinearConv", "QGemm", "DequantizeLinear"} <= kinds


def test_weights_of_four_bits_are_counted_by_what_they_hold(tmp_path: Path) -> None:
    columns, depth, block = 8, 64, 32
    node = helper.make_node(
        "MatMulNBits",
        ["x", "w", "s"],
        ["y"],
        domain="com.microsoft",
        K=depth,
        N=columns,
        bits=4,
        block_size=block,
    )
    path = _graph(tmp_path / "m.onnx", [node], [2, depth])
    model = onnx.load(path)
    packed = np.zeros((columns, depth // block, block // 2), np.uint8)
    scales = np.ones(columns * depth // block, np.float32)
    for name, array in (("w", packed), ("s", scales)):
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, path)
    feeds = {"x": np.ones((2, depth), np.float32)}
    counted = onnx_cost.count(path, {"x": (2, depth)}, 2, feeds=feeds)
    assert counted == onnx_cost.OnnxCost(columns * depth, columns * depth)


def test_external_weights_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fxprune.onnx.export._SINGLE_FILE_BYTES", 10)
    report = export_onnx(_Net(64), IMAGE, tmp_path / "m.onnx")
    row = benchmark({"m": report.path}, IMAGE, repeats=1)["m"]
    assert row.size_bytes == report.size_bytes
    assert row.size_bytes > 4 * WIDE
    assert (row.params, row.macs) == (WIDE, WIDE_MACS)
    assert row.peak_memory_bytes is not None


# --- refusals ------------------------------------------------------------------------------------


def _missing(folder: Path) -> object:
    return folder / "none.onnx"


def _garbage(folder: Path) -> object:
    (folder / "bad.onnx").write_bytes(b"no model")
    return folder / "bad.onnx"


def _empty(folder: Path) -> object:
    (folder / "empty.onnx").touch()
    return str(folder / "empty.onnx")


def _unknown_op(folder: Path) -> object:
    return _graph(folder / "op.onnx", [helper.make_node("Frobnicate", ["x"], ["y"])], [1])


def _future(folder: Path) -> object:
    path = _graph(folder / "new.onnx", [helper.make_node("Relu", ["x"], ["y"])], [1])
    model = onnx.load(path)
    model.ir_version = 99
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_missing, r"there is no file .*none\.onnx"),
        (_garbage, r"cannot load .*bad\.onnx: .*Protobuf parsing failed"),
        (_empty, r"cannot load .*empty\.onnx"),
        (_unknown_op, r"cannot load .*op\.onnx: .*Frobnicate"),
        (
            _future,
            r"cannot load .*new\.onnx: Load model from new\.onnx failed:Unsupported model IR version: 99",
        ),
        (lambda _: 3, "'m' is a int"),
        (lambda _: nn.Linear(3, 4, device="meta"), "meta device"),
        (lambda _: nn.Linear(3, 4), "does not run on the inputs of 'm'"),
    ],
)
def test_bad_models(
    make: Callable[[Path], Path], says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ExportError, match=says) as caught:
        benchmark({"m": make(tmp_path)}, IMAGE)
    assert caught.value.advice
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        (torch.rand(1, 3, 32), r"'input' was given float32\[1, 3, 32\]"),
        (torch.rand(1, 4, 32, 32), r"'input' was given float32\[1, 4, 32, 32\]"),
        (IMAGE.double(), "was given float64"),
        ((IMAGE, IMAGE), "2 tensors were given for 1 inputs"),
        ([1, 2], "hold no tensor"),
        (IMAGE.bfloat16(), "was given bfloat16"),
    ],
)
def test_inputs_that_do_not_fit(files: dict[str, Path], inputs: object, says: str) -> None:
    with pytest.raises(ExportError, match=says) as caught:
        benchmark(files, inputs)  # type: ignore[arg-type]
    if "hold no" not in says:
        assert "wide.onnx" in str(caught.value)
        assert "it expects input: float32[batch, 3, 32, 32]" in caught.value.advice


def test_one_size_for_one_name(tmp_path: Path) -> None:
    class Add(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a + b

    path = export_onnx(Add(), (torch.rand(2, 3), torch.rand(2, 3)), tmp_path / "m.onnx").path
    with pytest.raises(ExportError, match=r"'b' was given float32\[4, 3\]"):
        benchmark({"m": path}, (torch.rand(5, 3), torch.rand(4, 3)))
    by_name = benchmark({"m": path}, {"b": torch.rand(5, 3), "a": torch.rand(5, 3)}, repeats=1, memory=False)
    assert by_name.batch == 5


@pytest.mark.parametrize(
    "options",
    [
        {"threads": 0},
        {"repeats": 0},
        {"warmup": -1},
        {"seconds": -1.0},
        {"seconds": float("nan")},
        {"batch": 0},
    ],
)
def test_senseless_options(options: dict[str, int]) -> None:
    with pytest.raises(FxpruneError, match="makes no sense"):
        benchmark({"m": nn.Identity()}, IMAGE, **options)


def test_no_models() -> None:
    with pytest.raises(FxpruneError, match="nothing to measure"):
        benchmark({}, IMAGE)


# --- processor time --------------------------------------------------------------------------


def test_processor_time_stands_beside_the_clock(tmp_path: Path) -> None:
    small, large = nn.Linear(8, 8), nn.Linear(1024, 1024)
    table = benchmark({"small": small, "again": nn.Linear(8, 8)}, torch.ones(1, 8), repeats=5, memory=False)
    for row in table.rows:
        assert row.cpu_ms is not None
        assert row.cpu_ms > 0
        assert row.cpu_speedup_low is not None and row.cpu_speedup is not None
        assert row.cpu_speedup_low <= row.cpu_speedup
    assert table["small"].cpu_speedup == 1
    assert " CPU " in table.to_text(200)
    several = benchmark({"large": large}, torch.ones(4, 1024), repeats=5, threads=2, memory=False)
    assert several["large"].cpu_ms is None


def test_a_busy_machine_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock stands still for twice the work that is done."""
    from fxprune.bench import benchmark as module

    monkeypatch.setattr(module, "_timed", lambda one, calls: (0.004, 0.002))
    table = benchmark({"a": nn.Linear(2, 2)}, torch.ones(1, 2), repeats=5, memory=False)
    assert any(
        "the machine was busy: 4 ms by the clock for 2 ms of work" in note for note in table["a"].notes
    )


@pytest.mark.parametrize(("threads", "said"), [(1, False), (2, True)])
def test_others_on_the_machine_are_said(monkeypatch: pytest.MonkeyPatch, threads: int, said: bool) -> None:
    """With several threads there is no clock of their own: what others take of the cores that they need is looked at."""
    cores, readings = 2, iter([(0.0, 0.0), (10.0, 15.0)])
    monkeypatch.setattr(bench_stage.psutil, "cpu_count", lambda **_: cores)
    monkeypatch.setattr(bench_stage._Others, "_taken", staticmethod(lambda: next(readings)))
    monkeypatch.setattr(bench_stage, "_timed", lambda one, calls: (0.002, 0.002))
    row = benchmark({"a": nn.Linear(2, 2)}, torch.ones(1, 2), repeats=5, threads=threads, memory=False).rows[
        0
    ]
    note = "the machine was busy: others took 1.5 of 2 cores, and 2 threads had 0.5; measure again when it is quiet"
    assert (note in row.notes) == said


def test_a_quiet_machine_is_not_said_to_be_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([(0.0, 0.0), (10.0, 0.5)])
    monkeypatch.setattr(bench_stage.psutil, "cpu_count", lambda **_: 2)
    monkeypatch.setattr(bench_stage._Others, "_taken", staticmethod(lambda: next(readings)))
    monkeypatch.setattr(bench_stage, "_timed", lambda one, calls: (0.002, 0.002))
    row = benchmark({"a": nn.Linear(2, 2)}, torch.ones(1, 2), repeats=5, threads=2, memory=False).rows[0]
    assert not any("busy" in note or "wide" in note for note in row.notes)


def test_what_others_take_is_what_the_system_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle time and time of waiting are nobody's; this process's own is not others'."""
    busy = psutil.cpu_times()
    monkeypatch.setattr(bench_stage.psutil, "cpu_times", lambda: busy)
    monkeypatch.setattr(bench_stage.time, "process_time", lambda: 1.0)
    guests = getattr(busy, "guest", 0.0) + getattr(busy, "guest_nice", 0.0)
    idle = busy.idle + getattr(busy, "iowait", 0.0)
    assert bench_stage._Others._taken()[1] == pytest.approx(sum(busy) - idle - guests - 1.0)


# --- levels and providers --------------------------------------------------------------------------


def test_every_file_at_every_level(files: dict[str, Path]) -> None:
    models = {**files, "module": _Net(16)}
    table = benchmark(
        models, IMAGE, repeats=3, warmup=1, memory=False, levels=["extended", "all", "disabled"]
    )
    assert [(row.name, row.runtime) for row in table.rows] == [
        ("wide", "onnxruntime, extended"),
        ("wide @ all", "onnxruntime"),
        ("wide @ disabled", "onnxruntime, disabled"),
        ("narrow", "onnxruntime, extended"),
        ("narrow @ all", "onnxruntime"),
        ("narrow @ disabled", "onnxruntime, disabled"),
        ("module", "torch"),
    ]
    for name in files:
        assert table[name].difference is None
        for level in ("all", "disabled"):
            row = table[f"{name} @ {level}"]
            assert row.difference is not None
            assert row.difference < 1e-5
            assert (row.macs, row.size_bytes) == (table[name].macs, table[name].size_bytes)
            assert row.cpu_speedup is not None
    assert "unless a row says otherwise" in table.session


def test_the_fastest_level_says_so_beyond_the_spread(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Basic is 1.5 times as fast as all and disabled 1.2 times for one file; for the other basic varies too much to say."""
    spread = np.tile([0.8, 1.25], 20)[:, None]
    steady = np.ones((40, 1))
    columns = [3 * steady, 2 * steady, 2.5 * steady, steady, spread, 1.1 * steady]
    times = np.stack([np.hstack(columns)] * 2, axis=2)
    monkeypatch.setattr(bench_stage, "_rounds", lambda *_: times)
    table = benchmark(files, IMAGE, warmup=1, memory=False, levels=["all", "basic", "disabled"])
    said = {row.name: note for row in table.rows for note in row.notes if "fastest here" in note}
    assert said == {"wide @ basic": "the fastest here: 1.50 times as fast (1.50..1.50) as wide"}


def test_other_numbers_are_no_speedup(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(path: str | Path, *, threads: int, setting: Setting) -> Session:
        return open_session(files["narrow"] if setting.level == "basic" else path, threads=threads)

    monkeypatch.setattr(contestants, "open_session", wrong)
    wide = {"wide": files["wide"]}
    table = benchmark(wide, IMAGE, repeats=9, warmup=2, memory=False, levels=["all", "basic"])
    row = table["wide @ basic"]
    assert row.speedup > 1.5
    assert row.differs
    (note,) = (note for note in row.notes if "its outputs differ from those of wide by" in note)
    assert "no speed-up" in note
    assert not any("fastest" in note for note in row.notes)
    (line,) = (line for line in table.to_text(200).splitlines() if "│ wide @ basic" in line)
    assert "differs" in line
    assert "×" not in line


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1.0])
def test_numbers_that_are_none_differ(number: float, files: dict[str, Path]) -> None:
    session = open_session(files["wide"])
    one, other = (
        contestants._InOnnxruntime(session, {}, Setting(), (np.array([1.0, value]),))
        for value in (0.5, number)
    )
    assert contestants.difference(one, one) == 0
    assert contestants.difference(one, other) >= 0.5
    row = BenchRow("a", "onnxruntime", *[1.0] * 7, calls_per_sample=1, difference=float("nan"))
    assert row.differs


def test_other_providers_have_no_processor_time(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their threads may be their own: only the clock counts.  Here the CPU's kernels stand for them."""
    monkeypatch.setattr(
        bench_stage, "settings", lambda *_: (Setting(), Setting("all", "OtherExecutionProvider"))
    )

    def as_cpu(path: str | Path, *, threads: int, setting: Setting) -> Session:
        return open_session(path, threads=threads)

    monkeypatch.setattr(contestants, "open_session", as_cpu)
    own, other = benchmark({"wide": files["wide"]}, IMAGE, repeats=3, memory=False).rows
    assert (other.name, other.runtime) == ("wide @ Other", "onnxruntime, Other")
    assert own.cpu_ms is not None
    assert other.cpu_ms is None


def test_the_probe_runs_under_the_setting(files: dict[str, Path]) -> None:
    feeds = {open_session(files["wide"]).inputs[0].name: IMAGE.numpy()}
    peak, problem = contestants.peak_memory(files["wide"], feeds, setting=Setting("disabled"))
    assert (problem, peak is not None) == ("", True)
    peak, problem = contestants.peak_memory(files["wide"], feeds, setting=Setting("nothing"))
    assert peak is None
    assert "KeyError: 'nothing'" in problem
