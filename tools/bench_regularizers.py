"""What each method adds to a training step, side by side with Torch-Pruning's group-norm regulariser.

    python tools/bench_regularizers.py                       # ResNet-50, batch 32, into results/
    python tools/bench_regularizers.py --batch 2 --repeats 3 --methods ssr dwgl

Two figures for each method, both as a share of the plain step (forward, loss, backward, SGD with momentum):

*paired*: the median over rounds of (step with the method - plain step), both of one round, in turn.
*alone*: the time of what the method does, by itself: ``penalty()``, its backward pass, ``step()``, averaged over
its own period (SSR renews F every 200 steps).  It is the sharper figure on a machine whose step time
varies by more than the overhead.

Everything runs in one process on one model.  Torch-Pruning adds to the gradients between backward pass and
optimizer, which is what is timed; it needs the ``peers`` extra.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import nn

import fxprune
from fxprune import regularizers
from fxprune.loading import load_model
from fxprune.regularizers import Regularizer

PERIOD = 200
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Figure:
    """What a method costs; times in milliseconds, shares of the plain step."""

    method: str
    paired_ms: float
    paired: float
    alone_ms: float
    alone: float


class Method:
    """Hooks around a training step."""

    def penalty(self) -> torch.Tensor | None:
        """Added to the loss."""
        return None

    def before(self) -> None:
        """Between backward pass and optimizer."""

    def after(self) -> None:
        """After the optimizer."""


class Ours(Method):
    """A method of fxprune."""

    def __init__(self, reg: Regularizer) -> None:
        self.reg = reg

    def penalty(self) -> torch.Tensor | None:
        """Added to the loss."""
        return self.reg.penalty()

    def after(self) -> None:
        """After the optimizer."""
        self.reg.step()


class Peer(Method):
    """Torch-Pruning's group-norm regulariser."""

    def __init__(self, model: nn.Module, example: torch.Tensor) -> None:
        import torch_pruning as tp

        head = [m for m in model.modules() if isinstance(m, nn.Linear)][-1:]
        importance = tp.importance.GroupMagnitudeImportance()
        self._pruner = tp.pruner.GroupNormPruner(model, example, importance, ignored_layers=head)
        self._pruner.update_regularizer()
        self._model = model

    def before(self) -> None:
        """Between backward pass and optimizer."""
        self._pruner.regularize(self._model)


def _methods(
    model: nn.Module, optimizer: torch.optim.Optimizer, example: torch.Tensor
) -> dict[str, Callable[[], Method]]:
    groups = fxprune.couple(fxprune.trace(model.eval(), example))
    model.train()
    makers: dict[str, Callable[[], Regularizer]] = {
        "ssr": lambda: regularizers.SSR(model, groups, lam=1e-6, period=PERIOD),
        "ssr_l20": lambda: regularizers.SSR(model, groups, lam=1e-9, norm="l2,0", period=PERIOD),
        "ssr_subgradient": lambda: regularizers.SSR(model, groups, lam=1e-6, solver="subgradient"),
        "dwgl": lambda: regularizers.DWGL(model, groups, lam=1e-6, lr=optimizer),
        "group_lasso": lambda: regularizers.GroupLasso(model, groups, lam=1e-6, lr=optimizer),
        "group_lasso_all": lambda: regularizers.GroupLasso(
            model, groups, lam=1e-6, lr=optimizer, members="all"
        ),
        "increg": lambda: regularizers.IncReg(model, groups, increment=1e-9),
        "increg_columns": lambda: regularizers.IncReg(model, groups, increment=1e-9, granularity="columns"),
        "network_slimming": lambda: regularizers.NetworkSlimming(model, groups, lam=1e-9),
        "greg": lambda: regularizers.GReg(model, groups, delta=1e-9),
    }
    made: dict[str, Callable[[], Method]] = {n: lambda make=make: Ours(make()) for n, make in makers.items()}  # type: ignore[misc]
    made["torch_pruning"] = lambda: Peer(model, example)
    return made


class Bench:
    """One model, one batch, one optimizer."""

    def __init__(self, name: str, batch: int, size: int, device: torch.device) -> None:
        self.device = device
        self.model = load_model(f"torchvision:{name}").model.to(device).train()
        self.example = torch.randn(1, 3, size, size, device=device)
        self.x = torch.randn(batch, 3, size, size, device=device)
        self.y = torch.randint(1000, (batch,), device=device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-4, momentum=0.9)

    def now(self) -> float:
        """A clock that waits for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def step(self, method: Method) -> float:
        """One training step, milliseconds."""
        start = self.now()
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.model(self.x), self.y)
        penalty = method.penalty()
        (loss if penalty is None else loss + penalty).backward()
        method.before()
        self.optimizer.step()
        method.after()
        return 1e3 * (self.now() - start)

    def alone(self, method: Method, repeats: int) -> float:
        """What the method adds, by itself, milliseconds a step."""
        if isinstance(method, Ours) and isinstance(method.reg, regularizers.SSR):
            return self._with_updates(method, repeats)
        return statistics.median(self._part(method) for _ in range(repeats))

    def _part(self, method: Method) -> float:
        start = self.now()
        penalty = method.penalty()
        if penalty is not None and penalty.requires_grad:
            penalty.backward()
        method.before()
        method.after()
        return 1e3 * (self.now() - start)

    def _with_updates(self, method: Ours, repeats: int) -> float:
        plain = statistics.median(self._part(method) for _ in range(repeats))
        updating = []
        for _ in range(3):
            method.reg.steps = PERIOD - 1  # type: ignore[attr-defined]
            updating.append(self._part(method))
        method.reg.steps = 0  # type: ignore[attr-defined]
        return ((PERIOD - 1) * plain + statistics.median(updating)) / PERIOD


def measure(
    bench: Bench, chosen: dict[str, Method], rounds: int, console: Console
) -> tuple[float, list[Figure]]:
    """Time everything in turn.

    Returns:
        Median plain step in milliseconds, and a figure for each method.
    """
    plain: list[float] = []
    gaps: dict[str, list[float]] = {name: [] for name in chosen}
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("steps", total=(rounds + 1) * (len(chosen) + 1))
        for number in range(rounds + 1):
            base = bench.step(Method())
            progress.advance(task)
            if number:  # the first round warms up
                plain.append(base)
            for name, method in chosen.items():
                taken = bench.step(method)
                progress.advance(task)
                if number:
                    gaps[name].append(taken - base)
    step = statistics.median(plain)
    figures = []
    for name, method in chosen.items():
        alone, paired = bench.alone(method, max(3, rounds)), statistics.median(gaps[name])
        figures.append(Figure(name, paired, paired / step, alone, alone / step))
    return step, figures


def main() -> None:
    """Read the command line, measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="resnet50", help="a torchvision classification model")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=224, help="height and width of the images")
    parser.add_argument("--repeats", type=int, default=7, help="rounds, after one that warms up")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--methods", nargs="*", help="some of them only")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "regularizers.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    console = Console()
    bench = Bench(options.model, options.batch, options.size, torch.device(options.device))
    makers = _methods(bench.model, bench.optimizer, bench.example)
    chosen: dict[str, Method] = {}
    for name, make in makers.items():
        if not options.methods or name in options.methods:
            try:
                chosen[name] = make()
            except ImportError as error:
                console.print(f"{name} is left out: {error}")
    step, figures = measure(bench, chosen, options.repeats, console)
    title = f"{options.model}, batch {options.batch}, {options.device}, {options.threads} threads: {step:.0f} ms a plain step"
    table = Table("method", "paired ms", "paired %", "alone ms", "alone %", title=title)
    for f in figures:
        numbers = (f.paired_ms, 100 * f.paired, f.alone_ms, 100 * f.alone)
        table.add_row(f.method, *(f"{value:.2f}" for value in numbers))
    console.print(table)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    record = {
        "settings": settings,
        "torch": torch.__version__,
        "step_ms": step,
        "figures": [asdict(f) for f in figures],
    }
    options.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    console.print(f"written to {options.out}")


if __name__ == "__main__":
    main()
