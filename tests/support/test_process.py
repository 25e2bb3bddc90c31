"""What belongs to the whole process is as before, whoever works at the same time and whatever interrupts."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import os
import pkgutil
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fxprune
from fxprune import Budget
from fxprune.bench.benchmark import benchmark
from fxprune.coupling.cost import measure
from fxprune.criteria.score import score
from fxprune.errors import TraceError
from fxprune.support.process import alone, no_garbage, quiet, uninterrupted

IMAGE = (2, 3, 8, 8)


class Net(nn.Module):
    """Makes tensors without naming their type, and has something to do in each mode."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.a, self.bn = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width)
        self.drop, self.b = nn.Dropout(0.5), nn.Conv2d(width, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn(self.a(x))) * torch.linspace(0.5, 1, x.shape[-1])
        return self.b(self.drop(y)) / torch.arange(1, x.shape[-1] + 1)


class Branching(Net):
    """Recorded from a real run, as where it goes depends on its data."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x + 1) if x.sum() > 1e6 else super().forward(x)


def state() -> dict[str, object]:
    """All that is global: a stage has to leave it as it found it."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    return {
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "threads": torch.get_num_threads(),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
        "mkldnn": torch.backends.mkldnn.enabled,
        "nnpack": torch.backends.nnpack.enabled() if hasattr(torch.backends.nnpack, "enabled") else None,
        "cudnn": (torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark),
        "tf32": (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "collector": gc.isenabled(),
        "logging": logging.root.manager.disable,
        "levels": {
            name: logger.level
            for name, logger in logging.root.manager.loggerDict.items()
            if isinstance(logger, logging.Logger) and logger.level and name.startswith("torch")
        },
        "handlers": [(id(handler), len(handler.filters)) for handler in logging.root.handlers],
        "warnings": list(warnings.filters),
        "show": id(warnings.showwarning),
        "stderr": id(sys.stderr),
        "signals": [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)],
        "python": hash(python[1]),
        "numpy": numpy[1].tobytes(),
        "torch": bytes(torch.get_rng_state().numpy()),
    }


@contextlib.contextmanager
def as_before() -> Iterator[None]:
    """All of that is the same after the body."""
    before = state()
    yield
    after = state()
    assert {k: (before[k], v) for k, v in after.items() if k != "levels" and v != before[k]} == {}
    assert before["levels"].items() <= after["levels"].items()


def whole(net: nn.Module, x: torch.Tensor, out: Path) -> float:
    """Every stage; the error of the proof and of the exported file."""
    traced = fxprune.trace(net, x)
    plan = fxprune.plan(traced, Budget(channels=0.5), align=1, criterion="l1")
    small = fxprune.slim(traced, plan)
    proof = fxprune.verify(traced, plan, small)
    report = fxprune.export_onnx(small, x, out)
    assert report.max_error_random is not None
    return max(proof.error, report.max_error_random)


@pytest.fixture(scope="module", autouse=True)
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What torch, scipy and the exporters import and set up once is not ours."""
    with warnings.catch_warnings():
        whole(Net(), torch.randn(IMAGE), tmp_path_factory.mktemp("warm") / "m.onnx")


def in_threads(*works: Callable[[], object]) -> list[object]:
    """Run at once; the first exception is raised here."""
    results: list[object] = [None] * len(works)
    failures: list[BaseException] = []
    start = threading.Barrier(len(works))

    def run(k: int, work: Callable[[], object]) -> None:
        try:
            start.wait(30)
            results[k] = work()
        except BaseException as error:  # noqa: BLE001 - told to the thread that asked
            failures.append(error)

    threads = [threading.Thread(target=run, args=item) for item in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    if failures:
        raise failures[0]
    return results


# --- threads -----------------------------------------------------------------------------------


def test_two_threads_at_once(tmp_path: Path) -> None:
    x, nets = torch.randn(IMAGE), [Net(8).train(), Net(6).train()]
    nets[1].bn.eval()
    modes = [[m.training for m in net.modules()] for net in nets]
    with as_before():
        errors = in_threads(*(lambda k=k: whole(nets[k], x, tmp_path / f"{k}.onnx") for k in (0, 1)))
    assert max(errors) < 1e-5
    assert [[m.training for m in net.modules()] for net in nets] == modes


def test_two_threads_on_one_model() -> None:
    net, x = Net().train(), torch.randn(IMAGE)

    def work() -> tuple[str, float]:
        traced = fxprune.trace(net, x)
        plan = fxprune.plan(traced, Budget(channels=0.5), align=1)
        return plan.to_json(), fxprune.verify(traced, plan, fxprune.slim(traced, plan)).error

    with as_before():
        one, two = in_threads(work, work)
    assert one == two
    assert one[1] < 1e-9
    assert all(m.training for m in net.modules())


def test_nothing_hides_the_warnings_of_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = Net(), torch.randn(IMAGE)
    traced = fxprune.trace(net, x)  # modules are loaded
    plan = fxprune.plan(traced, Budget(channels=0.5), align=1)
    fxprune.verify(traced, plan, fxprune.slim(traced, plan))
    entered = []

    class Told(warnings.catch_warnings):  # type: ignore[type-arg]
        def __enter__(self) -> None:  # type: ignore[override]
            entered.append(self)
            super().__enter__()

    with monkeypatch.context() as patched:
        patched.setattr(warnings, "catch_warnings", Told)
        traced = fxprune.trace(net, x)
        fxprune.verify(traced, plan, fxprune.slim(traced, plan))
    assert not entered


@pytest.mark.parametrize("kind", [Net, Branching])
def test_what_another_thread_sees(kind: type[Net]) -> None:
    """The user's model in its mode, tensors of the default type, its own warnings, log lines and error output."""
    net, x = kind().train(), torch.randn(IMAGE)
    over, odd = threading.Event(), set[str]()
    lines, said = io.StringIO(), io.StringIO()
    handler = logging.StreamHandler(lines)
    logging.getLogger("user").addHandler(handler)
    counts = {"lines": 0}

    def look() -> None:
        while not over.is_set():
            counts["lines"] += 1
            logging.getLogger("user").error("line")
            logging.getLogger("torch.user").error("line of torch")
            print("word", file=sys.stderr)
            if not all(m.training for m in net.modules()):
                odd.add("mode")
            if torch.zeros(1).dtype is not torch.float32:
                odd.add("dtype")
            with contextlib.suppress(UserWarning):
                warnings.warn("own", UserWarning, stacklevel=1)  # an error in tests
                odd.add("warning")
            time.sleep(0.001)

    def work() -> None:
        try:
            for _ in range(2):
                traced = fxprune.trace(net, x)
                plan = fxprune.plan(traced, Budget(channels=0.5), align=1)
                fxprune.verify(traced, plan, fxprune.slim(traced, plan))
        finally:
            over.set()

    with contextlib.redirect_stderr(said), as_before():
        try:
            in_threads(look, work)
        finally:
            logging.getLogger("user").removeHandler(handler)
    assert not odd
    assert counts["lines"] > 10
    assert lines.getvalue().count("line\n") == said.getvalue().count("word\n") == counts["lines"]


def test_quiet_is_for_one_thread(
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def narrate() -> None:
        logging.getLogger("torch.some.exporter").error("narration")
        print("narration", file=sys.stderr)
        with contextlib.suppress(DeprecationWarning):
            warnings.warn("narration", DeprecationWarning, stacklevel=1)
            raise AssertionError("hidden")

    monkeypatch.setattr(logging.getLogger("torch"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("torch"), "handlers", [])
    with quiet():
        logging.getLogger("torch.some.exporter").error("hidden")
        logging.getLogger("user").error("the model's own")
        warnings.warn("hidden", DeprecationWarning, stacklevel=1)
        print("hidden", file=sys.stderr)
        in_threads(narrate)
    assert [r.message for r in caplog.records] == ["the model's own", "narration"]
    assert capsys.readouterr().err == "narration\n"


def test_a_forked_process_has_the_lock_for_itself() -> None:
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with alone():
            held.set()
            over.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    child = os.fork()
    if not child:
        with alone():
            os._exit(0)
    over.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0


# --- interruptions -----------------------------------------------------------------------------


def test_interrupted_at_many_moments() -> None:
    net, x = Net().train(), torch.randn(IMAGE)
    began = time.monotonic()
    fxprune.trace(net, x)
    takes, hits = time.monotonic() - began, 0
    for k in range(10):
        timer = threading.Timer(takes * (k + 0.5) / 10, os.kill, (os.getpid(), signal.SIGINT))
        with as_before():
            try:
                timer.start()
                fxprune.trace(net, x)
                timer.join()
                time.sleep(0.01)
            except KeyboardInterrupt:
                hits += 1
            timer.join()
        assert all(m.training for m in net.modules())
    assert hits == 10
    assert fxprune.trace(net, x).kind == "export"


def test_an_answer_is_put_off_once() -> None:
    done: list[int] = []

    def signalled(times: int) -> None:
        with uninterrupted():
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
            done.append(times)

    for times in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            signalled(times)
    assert done == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# --- the collector -----------------------------------------------------------------------------


def test_the_collector_sleeps_until_the_last_body_has_ended() -> None:
    inside, ended = threading.Event(), threading.Event()

    def other() -> None:
        with no_garbage():
            inside.set()
            ended.wait(10)

    thread = threading.Thread(target=other)
    with no_garbage():
        with no_garbage():
            thread.start()
            assert inside.wait(10)  # it does not wait for this thread
        assert not gc.isenabled()
    assert not gc.isenabled()
    ended.set()
    thread.join()
    assert gc.isenabled()


def test_a_collector_that_slept_sleeps_on() -> None:
    gc.disable()
    try:
        with no_garbage():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_the_collector_wakes_after_an_error() -> None:
    with pytest.raises(KeyError), no_garbage():
        raise KeyError
    assert gc.isenabled()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
@pytest.mark.parametrize("itself", [True, False], ids=["by the body", "by another thread"])
def test_in_a_forked_process_the_collector_is_awake(itself: bool) -> None:
    inside, ended = threading.Event(), threading.Event()

    def other() -> None:
        with no_garbage():
            inside.set()
            ended.wait(10)

    thread = threading.Thread(target=other)
    if not itself:
        thread.start()
        assert inside.wait(10)
    child = 0
    with no_garbage() if itself else contextlib.nullcontext():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # to fork beside threads is what is tried
            child = os.fork()
        if not child:
            awake = gc.isenabled()
            with no_garbage():
                asleep = not gc.isenabled()
            os._exit(0 if awake and asleep and gc.isenabled() else 1)
    _, status = os.waitpid(child, 0)
    ended.set()
    if not itself:
        thread.join()
    assert os.waitstatus_to_exitcode(status) == 0
    assert gc.isenabled()


@pytest.mark.parametrize(
    "part",
    ["coupling.couple.Walk.run", "planning.spend.Attempts.run", "slimming.slim.module_copy"],
)
def test_the_steps_of_the_engine_are_not_looked_through_for_garbage(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    awake: list[bool] = []
    owner, _, name = f"fxprune.{part}".rpartition(".")
    real = getattr(pkgutil.resolve_name(owner), name)

    def looked(*args: object, **options: object) -> object:
        awake.append(gc.isenabled())
        return real(*args, **options)

    monkeypatch.setattr(f"{owner}.{name}", looked)
    trace = fxprune.trace(Net().eval(), torch.randn(IMAGE))
    fxprune.slim(trace, fxprune.plan(trace, Budget(channels=0.5), criterion="l1"))
    assert awake
    assert not any(awake)
    assert gc.isenabled()


# --- the user's model --------------------------------------------------------------------------


class Counting(Net):
    """Counts its calls and follows the mean of its input, in evaluation mode, too."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.mean = 0.9 * self.mean + 0.1 * x.mean()
        return super().forward(x - self.mean)


class CountingBranch(Branching):
    """The same where only a real run shows the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.add_(1)
        return super().forward(x)


class Writing(Net):
    """Doubles its input in place."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.mul_(2))


class Drawing(Net):
    """Draws from all three generators."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        random.random()
        np.random.rand()  # noqa: NPY002
        return super().forward(x) + 0 * torch.rand(()) * x.mean()


class Captured(Net):
    """A function among its attributes reaches the modules of this very object, whichever copy calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.last = lambda x: self.drop(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(self.last(x))


def holds(net: nn.Module, x: torch.Tensor) -> dict[str, object]:
    """Everything of a model and its input that a stage could change."""
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers()), "the input": x}
    return {
        "numbers": {n: (id(t), t.detach().numpy().tobytes()) for n, t in tensors.items()},
        "flags": [(p.requires_grad, p.grad) for p in net.parameters()],
        "modes": [m.training for m in net.modules()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net.modules()],
        "attributes": [sorted(vars(m)) for m in net.modules()],
    }


def _data(x: torch.Tensor) -> dict[str, object]:
    return {"data": [x.clone()], "loss": lambda model, batch: model(batch.clone()).square().mean()}


STAGES: dict[str, Callable[[nn.Module, torch.Tensor], object]] = {
    "trace": fxprune.trace,
    "taylor": lambda net, x: score(fxprune.trace(net, x), "taylor", **_data(x)),
    "activation": lambda net, x: score(fxprune.trace(net, x), "activation", **_data(x)),
    "measure": lambda net, x: measure(net, (x,)),
    "benchmark": lambda net, x: benchmark({"net": net}, x, repeats=5, seconds=0.01),
}


@pytest.mark.parametrize("kind", [Counting, CountingBranch, Writing, Captured])
def test_the_model_is_never_changed(kind: type[Net]) -> None:
    for name, stage in STAGES.items():
        net, x = kind().train(), torch.randn(IMAGE)
        net.bn.eval()
        before = holds(net, x)
        with as_before():
            stage(net, x)
        after = holds(net, x)
        assert {k for k in before if before[k] != after[k]} == set(), name


@pytest.mark.parametrize("name", STAGES)
def test_a_model_that_draws_is_never_changed(name: str) -> None:
    """Numbers drawn by Python are refused where a graph would hold one of them, and all generators are as before."""
    net, x = Drawing().train(), torch.randn(IMAGE)
    net.bn.eval()
    before = holds(net, x)
    traces = name in ("trace", "taylor", "activation")
    refusal = pytest.raises(TraceError, match="random numbers of Python and numpy")
    with as_before(), refusal if traces else contextlib.nullcontext():
        STAGES[name](net, x)
    assert holds(net, x) == before


def test_the_mode_of_a_model_that_a_function_captures() -> None:
    """Its dropout is traced in evaluation mode although no copy of it can be."""
    traced = fxprune.trace(Captured().train(), torch.randn(IMAGE))
    assert not [n for n in traced.graph.graph.nodes if "dropout" in str(n.target) and n.args[2]]


def test_a_model_that_writes_into_its_input_is_timed_on_copies() -> None:
    x = torch.randn(IMAGE)
    row = benchmark({"net": Writing(), "other": Net()}, x, repeats=5)
    assert any("writes into its inputs" in note for note in row["net"].notes)
    assert not any("writes into its inputs" in note for note in row["other"].notes)
