"""What is tried on one net: random plans, both kinds of slim model, both oracles, costs, training, files, batches.

Whatever the dense model cannot do itself (run in training, at another batch size) is not asked of a slim one.
"""

from __future__ import annotations

import copy
import random
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from fxprune.coupling.cost import measure
from fxprune.coupling.couple import analyse
from fxprune.errors import FxpruneError, VerificationError
from fxprune.graph.trace import Trace, trace
from fxprune.onnx.export import export_onnx
from fxprune.planning.atoms import Mode
from fxprune.planning.plan import plan, plan_units, remove
from fxprune.plans import Axis, Budget, Plan, Scope
from fxprune.proof.verify import verify
from fxprune.resizing.resolve import keep_mask, resolve
from fxprune.slimming.slim import load, save, slim
from fxprune.testing.nets.write import Inputs, Net, quiet

__all__ = ["Finding", "Removal", "Report", "Verdict", "check", "reason_of"]

Verdict = Literal["right", "refused", "wrong", "crashed"]
Removal = Mapping[Axis, Sequence[int]]
"""What a plan removes: positions by axis."""

EXACT = 1e-9
"""Largest relative difference in float64 that rounding explains in nets of this size."""

SHARED_ONNX = 50
"""Every so many nets one is exported."""

IN_GRAPHS = ("graph", "another batch", "training")

TURNS = (IN_GRAPHS, ("save and load",), IN_GRAPHS, ("second slim",), IN_GRAPHS, ("save and load",))
"""What is tried beside proof and cost on the first plan of a net, by its seed: each costs as much as the rest."""

STEERED = ("spectral_norm", "F.dropout")
"""Code that does something else in training: not held by a graph, or random numbers laid out another way."""


class Wrong(Exception):
    """The slim model is not what it should be."""


@dataclass(frozen=True)
class Finding:
    """One thing that did not end well.

    Attributes:
        stage: What was tried.
        how: How the plan was made.
        verdict: ``"refused"``, ``"wrong"`` or ``"crashed"``.
        what: The headline, without names and numbers.
        said: The complete message.
        removal: What the plan removes, if there was one.
    """

    stage: str
    how: str
    verdict: Verdict
    what: str
    said: str
    removal: Removal | None = None


@dataclass
class Report:
    """What came of one net.

    Attributes:
        seed: Of the net.
        kinds: Kinds of its statements.
        plans: Plans that were carried out.
        modules: Slim models that are copies of the user's module.
        units: Units of the coupling, the points of kernels apart.
        free: Units that may go.
        pinned: Units by the reason for which they may not.
        judged: Share of the outputs that the rule-free oracle judged, for each slim model.
        findings: Everything that was not right.
    """

    seed: int
    kinds: tuple[str, ...]
    plans: int = 0
    modules: int = 0
    units: int = 0
    free: int = 0
    pinned: Counter[str] = field(default_factory=Counter)
    judged: list[float] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        """The worst that happened; refused where no plan was carried out."""
        verdicts = {finding.verdict for finding in self.findings}
        bad: tuple[Verdict, ...] = ("crashed", "wrong")
        return next((v for v in bad if v in verdicts), "right" if self.plans else "refused")

    @contextmanager
    def trying(self, stage: str, how: str = "", removal: Removal | None = None) -> Iterator[None]:
        """Note what a stage raises."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever comes out is what this is about
            verdict: Verdict = "crashed"
            if isinstance(error, (VerificationError, Wrong)):
                verdict = "wrong"
            elif isinstance(error, FxpruneError):
                verdict = "refused"
            said = f"{type(error).__name__}: {error}"
            self.findings.append(Finding(stage, how, verdict, reason_of(error), said, removal))


def reason_of(error: BaseException) -> str:
    """What an error says, without names and numbers, so that equal reasons are counted together."""
    text = (str(error).strip().splitlines() or [""])[0]
    text = re.sub(r"; the first pin: ([^\[]*).*", r": \1", text)
    text = re.sub(r"'[^']*'|\"[^\"]*\"", "...", text)
    text = re.sub(r"-?\d[\d.,e+-]*", "#", text)
    text = re.sub(r"#(?: #)+", "#", text)
    own = isinstance(error, (FxpruneError, Wrong))
    return text[:160] if own else f"{type(error).__name__}: {text[:140]}"


def check(
    net: Net, *, removal: Removal | None = None, only: Finding | None = None, onnx: bool | None = None
) -> Report:
    """Try everything on a net.

    Args:
        net: The net.
        removal: Remove exactly this instead of what random plans remove.
        only: Try only what led to this finding.
        onnx: Export too; by default every fiftieth seed.

    Returns:
        What came of it; nothing is raised.

    Example:
        >>> from fxprune.testing import check, random_net
        >>> report = check(random_net(7))
        >>> report.verdict, report.plans > 0
        ('right', True)
    """
    report = Report(net.seed, net.kinds)
    with quiet(), torch.random.fork_rng(devices=[]), report.trying("trace"):
        torch.manual_seed(net.seed)
        trial = _Trial(net, report, only, onnx=net.seed % SHARED_ONNX == 0 if onnx is None else onnx)
        trial.run(removal)
    return report


class _Trial:
    """One net, traced once."""

    def __init__(self, net: Net, report: Report, only: Finding | None, *, onnx: bool) -> None:
        self.net, self.report, self.only, self.onnx = net, report, only, onnx
        self.model, self.inputs = net.build()
        self.trace = trace(self.model, self.inputs)
        self.found = analyse(self.trace).coupling
        self.other = net.inputs(self.trace.batch + 1) if self.trace.dynamic_batch else None

    @cached_property
    def counted(self) -> bool:
        """Torch's counter sees every product of the dense model."""
        return measure(self.model, self._batched(self.trace)) == self.found.cost.dense

    @cached_property
    def unread(self) -> bool:
        """The code makes something that nobody reads."""
        nodes = self.trace.graph.graph.nodes
        return any(n.op == "call_function" and not n.users for n in nodes)

    def _batched(self, traced: Trace) -> Inputs:
        return self.net.inputs(traced.batch) if traced.dynamic_batch else self.inputs

    def run(self, removal: Removal | None) -> None:
        """Every plan; what costs another trace is tried on the first one only."""
        self._count()
        plans = self._plans() if removal is None else self._removed(removal)
        for number, (how, planned) in enumerate(plans):
            self._carry_out(planned, how, first=number == 0)

    def _count(self) -> None:
        for group in self.found.groups:
            reason = group.pinned.reason if group.pinned is not None else ""
            if "kernel" in reason:
                continue
            self.report.units += group.width
            if group.pinned is None:
                self.report.free += group.width
            else:
                self.report.pinned[reason_of(FxpruneError(reason))] += group.width

    # --- plans ---------------------------------------------------------------------------------

    def _removed(self, removal: Removal) -> Iterator[tuple[str, Plan]]:
        with self.report.trying("plan", "given removal", removal):
            yield "given removal", remove(self.trace, removal)

    def _plans(self) -> Iterator[tuple[str, Plan]]:
        """Distinct random plans: one of a budget in every block mode, and two of random units."""
        seen: set[object] = set()
        for how, make in _ASKS.items():
            if self.only is not None and self.only.how != how:
                continue
            with self.report.trying("plan", how):
                planned = make(self.trace, random.Random(f"{self.net.seed}/{how}"))
                key = frozenset(planned.kept.items()) if planned is not None else frozenset()
                if planned is not None and key and key not in seen:
                    seen.add(key)
                    yield how, planned

    # --- one plan ------------------------------------------------------------------------------

    def _carry_out(self, planned: Plan, how: str, *, first: bool) -> None:
        removal = {
            (name, dim): sorted({*range(self.trace.tensor(name).shape[dim])} - {*kept})
            for (name, dim), kept in planned.kept.items()
        }
        smalls: list[nn.Module] = []
        with self.report.trying("slim", how, removal):
            smalls.append(slim(self.trace, planned))
        if not smalls:
            return
        self.report.plans += 1
        self.report.modules += smalls[0].fxprune_kind == "module"
        for stage, run in self._stages(planned, smalls, first=first).items():
            if self.only is None or stage in (self.only.stage, *BEFORE.get(self.only.stage, ())):
                with self.report.trying(stage, how, removal):
                    run()

    def _stages(
        self, planned: Plan, smalls: list[nn.Module], *, first: bool
    ) -> dict[str, Callable[[], object]]:
        """What is tried on a slim model: proof and cost on each, what takes further traces on one a net, by turns."""
        stages: dict[str, Callable[[], object]] = {
            "verify": lambda: self._verified(planned, smalls[0]),
            "cost": lambda: self._costs(planned, smalls[0]),
        }
        further: dict[str, Callable[[], object]] = {
            "graph": lambda: self._graph(planned, smalls),
            "another batch": lambda: self._other_batch(smalls),
            "training": lambda: self._trains(smalls),
            "save and load": lambda: self._file(planned, smalls[0]),
            "second slim": lambda: self._again(smalls[0]),
        }
        if self.only is not None:
            stages |= further
        elif first:
            stages |= {name: further[name] for name in TURNS[self.net.seed % len(TURNS)]}
        if self.onnx and (first or self.only is not None):
            stages["onnx"] = lambda: self._exported(smalls[0])
        return stages

    def _verified(self, planned: Plan, small: nn.Module) -> None:
        """Both oracles, on the example and on random inputs, at another batch size where the model has one."""
        proof = verify(self.trace, planned, small)
        self.report.judged.append(proof.judged.get("masks", 0.0))

    def _graph(self, planned: Plan, smalls: list[nn.Module]) -> None:
        """The other kind of slim model gives the same as the copy of the module, which is what was proved."""
        if smalls[0].fxprune_kind == "module":
            smalls.append(slim(self.trace, planned, kind="graph"))
            _equal("from the graph", *(_outputs(small.eval(), self.inputs) for small in smalls))

    def _costs(self, planned: Plan, small: nn.Module) -> None:
        cost = measure(small.eval(), self._batched(self.trace))
        if cost.params != planned.predicted.params:
            raise Wrong(f"{cost.params} parameters, predicted {planned.predicted.params}")
        hidden = self._multiplied(planned)
        # A graph leaves out what nobody reads, and a module may do less of it.
        hidden |= self.unread and cost.macs < planned.predicted.macs
        if self.counted and not hidden and cost.macs != planned.predicted.macs:
            raise Wrong(f"{cost.macs} multiply-accumulates, predicted {planned.predicted.macs}")

    def _multiplied(self, planned: Plan) -> bool:
        """An einsum may be left with one position to sum over: torch multiplies then, and its counter sees sums only."""
        analysis = analyse(self.trace)
        left = resolve(analysis, keep_mask(analysis, planned)).values
        pairs = ((tree_leaves(value), tree_leaves(analysis.values[node])) for node, value in left.items())
        return "einsum" in self.net.source and any(
            n == 1 < before
            for slim, dense in pairs
            for one, other in zip(slim, dense, strict=True)
            for n, before in zip(one.shape, other.shape, strict=True)
        )

    def _other_batch(self, smalls: Sequence[nn.Module]) -> None:
        """Verify compares the first kind at another size; both must agree there."""
        if self.other is not None and len(smalls) > 1 and _runs(self.model, self.other):
            _equal("at another batch size", *(_outputs(small.eval(), self.other) for small in smalls))

    def _trains(self, smalls: Sequence[nn.Module]) -> None:
        if _trained(self.model, self.inputs) is None:
            return
        results = [_trained(small, self.inputs) for small in smalls]
        if any(result is None for result in results):
            _trained(smalls[0], self.inputs, strict=True)
            raise Wrong("a slim model does not train where the dense one does")
        if not any(name in self.net.source for name in STEERED):
            _equal("in training", *(result for result in results if result is not None))

    def _file(self, planned: Plan, small: nn.Module) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "slim.safetensors"
            save(small, planned, path)
            again = load(self.net.fresh(), path, self.inputs)
        _equal(
            "after save and load", _outputs(small.eval(), self.inputs), _outputs(again.eval(), self.inputs)
        )

    def _again(self, small: nn.Module) -> None:
        """The slim model is a model like any other."""
        traced = trace(small, self.inputs)
        if not any(g.pinned is None and g.width > 1 for g in analyse(traced).coupling.groups):
            return
        planned = plan(traced, Budget(channels=0.7), criterion="random", align=1, seed=self.net.seed)
        smaller = slim(traced, planned)
        verify(traced, planned, smaller)
        cost = measure(smaller.eval(), self._batched(traced))
        if cost.params != planned.predicted.params:
            raise Wrong(f"{cost.params} parameters after a second slim, predicted {planned.predicted.params}")

    def _exported(self, small: nn.Module) -> None:
        single = copy.deepcopy(small).float()
        inputs = tuple(t.float() if t.is_floating_point() else t for t in self.inputs)
        if not _runs(single, inputs):
            return
        with tempfile.TemporaryDirectory() as folder:
            export_onnx(single, inputs, Path(folder) / "slim.onnx")


# --- random plans ------------------------------------------------------------------------------


def _by_budget(mode: Mode) -> Callable[[Trace, random.Random], Plan]:
    def make(traced: Trace, rng: random.Random) -> Plan:
        quantity = rng.choice(("channels", "macs", "params"))
        budget = Budget(**{quantity: rng.choice((0.4, 0.6, 0.8))})
        scope = rng.choice(get_args(Scope))
        seed = rng.randrange(2**31)
        return plan(traced, budget, criterion="random", scope=scope, blocks=mode, align=1, seed=seed)

    return make


def _by_units(traced: Trace, rng: random.Random) -> Plan | None:
    """Some units of some groups, whatever they are worth."""
    coupling = analyse(traced).coupling
    groups = [g for g in coupling.groups if g.pinned is None and g.width > 1]
    if not groups:
        return None
    keep = np.ones(coupling.n_units, bool)
    for group in rng.sample(groups, rng.randint(1, min(3, len(groups)))):
        keep[rng.sample(group.units.tolist(), rng.randint(1, group.width - 1))] = False
    return plan_units(traced, keep)


def _by_rows(traced: Trace, rng: random.Random) -> Plan | None:
    """Some rows or columns of a layout."""
    coupling = analyse(traced).coupling
    blocks = [b for b in coupling.blocks if not coupling.pinned[b.cells].any() and min(b.cells.shape) > 1]
    if not blocks:
        return None
    cells = rng.choice(blocks).cells
    cells = cells if rng.random() < 0.5 else cells.T
    keep = np.ones(coupling.n_units, bool)
    keep[cells[rng.sample(range(len(cells)), rng.randint(1, len(cells) - 1))]] = False
    return plan_units(traced, keep)


_ASKS: Mapping[str, Callable[[Trace, random.Random], Plan | None]] = {
    **{f"blocks={mode}": _by_budget(mode) for mode in get_args(Mode)},
    "random units": _by_units,
    "random rows": _by_rows,
}
"""How plans are made: of a budget in every block mode, and of random units, whatever they are worth."""

BEFORE = {"another batch": ("graph",), "training": ("graph",)}
"""Stages that need the result of another one."""


# --- running -----------------------------------------------------------------------------------


def _outputs(model: nn.Module, inputs: Inputs) -> list[torch.Tensor]:
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        result = model(*(t.clone() for t in inputs))
    return [t for t in tree_leaves(result) if isinstance(t, torch.Tensor)]


def _runs(model: nn.Module, inputs: Inputs) -> bool:
    try:
        return all(bool(t.isfinite().all()) for t in _outputs(model, inputs))
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError):
        return False


def _trained(model: nn.Module, inputs: Inputs, *, strict: bool = False) -> list[torch.Tensor] | None:
    """Outputs in training mode of a copy, after a backward pass; None where it does not run."""
    clone = copy.deepcopy(model).train()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            result = clone(*(t.clone() for t in inputs))
        outputs = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor)]
        torch.stack([t.square().sum() for t in outputs]).sum().backward()
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError):
        if strict:
            raise
        return None
    gradients = [p.grad for p in clone.parameters() if p.grad is not None]
    finite = all(bool(t.isfinite().all()) for t in (*outputs, *gradients))
    return [t.detach() for t in outputs] if finite else None


def _equal(when: str, *runs: list[torch.Tensor]) -> None:
    """All runs give the same."""
    first, *others = runs
    for other in others:
        if len(first) != len(other):
            raise Wrong(f"{len(other)} outputs instead of {len(first)} {when}")
        for a, b in zip(first, other, strict=True):
            if a.shape != b.shape:
                raise Wrong(f"output of shape {tuple(b.shape)} instead of {tuple(a.shape)} {when}")
            gap, scale = float((a - b).abs().max()), float(a.abs().max())
            if not gap <= EXACT * max(scale, 1e-3):
                raise Wrong(f"outputs differ by {gap:.3g} where they reach {scale:.3g} {when}")
