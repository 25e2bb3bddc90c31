"""What each method adds to a training step, side by side with Torch-Pruning's group-norm regulariser.

    python tools/bench_regularizers.py                       # ResNet-50, batch 32, into tools/results/
    python tools/bench_regularizers.py --batch 2 --repeats 3 --methods ssr dwgl
    python tools/bench_regularizers.py --threads 1 --clock cpu --alone   # on a machine that others use

Two figures for each method, both as a share of the plain step (forward, loss, backward, SGD with momentum):

*paired*: the median over rounds of (step with the method - plain step), both of one round, in turn.
*alone*: the time of what the method does, by itself: ``penalty()``, its backward pass, ``step()``, averaged over
its own period (SSR renews F every 200 steps).  It is the sharper figure on a machine whose step time
varies by more than the overhead.

GAL learns from the dense model instead of labels, so its step has that model's forward pass besides: a row of its own,
``gal_teacher``.  The row ``gal`` is the discriminator and the masks, read off the method's own (wall) clock in whole
steps.

With one thread ``--clock cpu`` counts the processor time of this process, which is what the wall clock would show
if nobody else were there.

Everything runs in one process on one model.  Torch-Pruning adds to the gradients between backward pass and
optimizer, which is what is timed; it needs the ``peers`` extra.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from torch import nn

import fxprune
from fxprune import regularizers
from fxprune.models.loading import load_model
from fxprune.onnx.session import machine
from fxprune.regularizers import Regularizer
from fxprune.report.sheets import Sheet
from fxprune.support.files import write_text

PERIOD = 200
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of repeated measurements, milliseconds."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """From at least one value."""
        low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else 3 * [values[0]]
        return Spread(middle, low, high)


@dataclass(frozen=True)
class Figure:
    """What a method costs.

    Attributes:
        method: Its name.
        paired: Milliseconds, None where only ``alone`` was measured.
        alone: Milliseconds.
        share: ``alone`` as a share of the plain step.
    """

    method: str
    paired: Spread | None
    alone: Spread
    share: float


class Method:
    """Hooks around a training step."""

    def loss(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """What the model is trained on."""
        return nn.functional.cross_entropy(model(x), y)

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


class Game(Ours):
    """GAL, whose loss takes the place of the labels'."""

    reg: regularizers.GAL

    def loss(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Against the dense model and the discriminator."""
        return self.reg.loss(x)

    @property
    def spent(self) -> float:
        """Milliseconds until now in discriminator and masks."""
        return self.reg.report().overhead_ms * self.reg.steps


class Teacher(Method):
    """The forward pass of the dense model, alone."""

    def __init__(self, model: nn.Module, x: torch.Tensor) -> None:
        self._teacher, self._x = copy.deepcopy(model).eval(), x

    @torch.no_grad()
    def before(self) -> None:
        """Between backward pass and optimizer."""
        self._teacher(self._x)


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
    model: nn.Module, optimizer: torch.optim.Optimizer, example: torch.Tensor, x: torch.Tensor
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
    made["gal"] = lambda: Game(
        regularizers.GAL(model, groups, on=("block", "channel"), lam=1e-9, lr=optimizer, mask_step=1)
    )
    made["gal_teacher"] = lambda: Teacher(model, x)
    made["torch_pruning"] = lambda: Peer(model, example)
    return made


class Bench:
    """One model, one batch, one optimizer."""

    def __init__(self, name: str, batch: int, size: int, device: torch.device, clock: str) -> None:
        self.device = device
        self.clock = time.process_time if clock == "cpu" else time.perf_counter
        self.model = load_model(f"torchvision:{name}").model.to(device).train()
        self.example = torch.randn(1, 3, size, size, device=device)
        self.x = torch.randn(batch, 3, size, size, device=device)
        self.y = torch.randint(1000, (batch,), device=device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-4, momentum=0.9)

    def now(self) -> float:
        """A clock that waits for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.clock()

    def step(self, method: Method) -> float:
        """One training step, milliseconds."""
        start = self.now()
        self.optimizer.zero_grad()
        loss = method.loss(self.model, self.x, self.y)
        penalty = method.penalty()
        (loss if penalty is None else loss + penalty).backward()
        method.before()
        self.optimizer.step()
        method.after()
        return 1e3 * (self.now() - start)

    def alone(self, method: Method, repeats: int) -> list[float]:
        """What the method adds, by itself, milliseconds a step."""
        if isinstance(method, Game):
            return [self._game(method) for _ in range(repeats)]
        self._part(method)  # warms up
        parts = [self._part(method) for _ in range(repeats)]
        if isinstance(method, Ours) and method.reg.name == "ssr" and method.reg.period > 1:
            update = self._update(method)
            return [((PERIOD - 1) * part + update) / PERIOD for part in parts]
        return parts

    def _part(self, method: Method) -> float:
        start = self.now()
        penalty = method.penalty()
        if penalty is not None and penalty.requires_grad:
            penalty.backward()
        method.before()
        method.after()
        return 1e3 * (self.now() - start)

    def _game(self, method: Game) -> float:
        """Discriminator and masks in one whole step."""
        before = method.spent
        self.step(method)
        return method.spent - before

    def _update(self, method: Ours) -> float:
        """A step in which F and the multipliers are renewed."""
        taken = []
        for _ in range(3):
            method.reg.steps = PERIOD - 1  # type: ignore[attr-defined]
            taken.append(self._part(method))
        method.reg.steps = 0  # type: ignore[attr-defined]
        return statistics.median(taken)


def measure(
    bench: Bench, chosen: dict[str, Method], rounds: int, *, paired: bool, console: Console
) -> tuple[Spread, list[Figure]]:
    """Time everything in turn.

    Args:
        bench: Model and data.
        chosen: Methods by name.
        rounds: Repetitions.
        paired: Also whole steps with each method; otherwise whole steps are plain ones.
        console: Where progress is shown.

    Returns:
        The plain step, and a figure for each method.
    """
    plain: list[float] = []
    gaps: dict[str, list[float]] = {name: [] for name in chosen}
    with Progress(console=console, transient=True) as progress:
        whole = chosen if paired else {}
        task = progress.add_task("steps", total=(rounds + 1) * (len(whole) + 1))
        for number in range(rounds + 1):
            base = bench.step(Method())
            progress.advance(task)
            if number:  # the first round warms up
                plain.append(base)
            for name, method in whole.items():
                taken = bench.step(method)
                progress.advance(task)
                if number:
                    gaps[name].append(taken - base)
    step = Spread.of(plain)
    figures = []
    for name, method in chosen.items():
        alone = Spread.of(bench.alone(method, max(7, rounds)))
        gap = Spread.of(gaps[name]) if paired else None
        figures.append(Figure(name, gap, alone, alone.median / step.median))
    return step, figures


def render(step: Spread, figures: Sequence[Figure], settings: dict[str, object], threads: int) -> str:
    """The page."""
    paired = any(f.paired for f in figures)
    rows = tuple(
        (
            f.method,
            _span(f.alone),
            f"{100 * f.share:.2f} %",
            *((_span(f.paired), f"{100 * f.paired.median / step.median:.1f} %") if f.paired else ()),
        )
        for f in figures
    )
    whole = ("in a whole step, ms>", "share>") if paired else ()
    sheet = Sheet(
        f"{settings['model']}, batch {settings['batch']}: a plain step takes {_span(step)} ms",
        ("method", "what it does, ms>", "share of the step>", *whole),
        rows,
        footer="median (quartiles); what it does: penalty, its gradient and what follows the optimizer's step, averaged "
        "over the method's own period",
    )
    here = machine()
    clock = "processor time of one process" if settings["clock"] == "cpu" else "wall time"
    about = (
        f"{here.cpu}, {here.cores} cores, {here.capability}, {settings['device']}, {threads} threads; torch {here.torch}; "
        f"{clock}, {settings['repeats']} whole steps and at least 7 repeats of each method after warming up"
        + ("; the machine was shared" if settings["shared"] else "")
    )
    return (
        "# What sparse training adds to a step\n\n"
        "Made by `python tools/bench_regularizers.py`.  `torch_pruning` is the group-norm regulariser of Torch-Pruning, "
        "in the same process on the same model.  `gal` is the discriminator and the masks; GAL learns from the dense model "
        "instead of labels, so its step has that model's forward pass besides, `gal_teacher`.\n\n"
        f"{sheet.markdown()}\n\n- {about}.\n"
    )


def _span(spread: Spread) -> str:
    digits = 0 if spread.median >= 1000 else 1
    return f"{spread.median:.{digits}f} ({spread.low:.{digits}f}–{spread.high:.{digits}f})"


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
    parser.add_argument("--alone", action="store_true", help="whole steps are only timed without a method")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: only with one thread")
    parser.add_argument("--shared", action="store_true", help="say that others used the machine")
    parser.add_argument("--out", type=Path, default=ROOT / "tools" / "results" / "regularizers.json")
    options = parser.parse_args()
    if options.clock == "cpu" and (options.threads > 1 or options.device != "cpu"):
        parser.error("--clock cpu adds up threads and does not see a GPU: it needs --threads 1 --device cpu")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    console = Console()
    bench = Bench(options.model, options.batch, options.size, torch.device(options.device), options.clock)
    makers = _methods(bench.model, bench.optimizer, bench.example, bench.x)
    chosen: dict[str, Method] = {}
    for name, make in makers.items():
        if not options.methods or name in options.methods:
            try:
                chosen[name] = make()
            except ImportError as error:
                console.print(f"{name} is left out: {error}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    step, figures = measure(bench, chosen, options.repeats, paired=not options.alone, console=console)
    settings = {key: value for key, value in vars(options).items() if key != "out"}
    page = render(step, figures, settings, options.threads)
    console.print(page, markup=False, highlight=False)
    record = {
        "settings": settings,
        "machine": vars(machine()),
        "step": asdict(step),
        "figures": [asdict(f) for f in figures],
    }
    write_text(options.out, json.dumps(record, indent=2) + "\n")
    write_text(options.out.parent / "REGULARIZERS.md", page)
    console.print(f"written to {options.out}")


if __name__ == "__main__":
    main()
