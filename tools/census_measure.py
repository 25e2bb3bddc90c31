"""Everything the census says of one model: ``python tools/census_measure.py resnet18`` prints one line of JSON."""

from __future__ import annotations

import argparse
import json
import math
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from census_models import BATCHES, Case, Inputs, case
from torch import nn
from torch.utils import _pytree as pytree

import fxprune
from fxprune.coupling.cost import measure as measured_cost
from fxprune.coupling.couple import analyse
from fxprune.coupling.groups import Coupling
from fxprune.graph.live import liven
from fxprune.graph.trace import Trace, evaluating
from fxprune.onnx.export import export_onnx
from fxprune.planning.atoms import make_atoms
from fxprune.planning.plan import plan_units
from fxprune.plans import Axis, Plan
from fxprune.proof.compare import OracleName

__all__ = ["Row", "measure"]

Row = dict[str, object]
Result = TypeVar("Result")

TOLERANCE = 1e-4  # relative; what a proof in float64 leaves is 1e-15 to 1e-11
PARITY = 1e-4  # relative, float32 in onnxruntime against float32 in torch
SHARE = 0.6  # of the parameters, at most, after a uniform plan that keeps half the channels
EFFECT = 0.01  # relative, at least: where a removal changes nothing, nothing is proved
REMOVED = 0.25  # of each exact group's units in the second plan
FEW = 3  # tensors named where much is left


def measure(name: str, *, onnx: bool = False, seed: int = 0) -> Row:
    """Trace, couple, plan, slim, verify and run one model.

    Args:
        name: torchvision's name of it.
        onnx: Export the slim model and compare it in onnxruntime.
        seed: Of weights and plans.

    Returns:
        Plain data; ``problems`` is empty if everything held.
    """
    the_case = case(name)
    row: Row = {"model": name, "kind": the_case.kind, "problems": []}
    census = _Census(the_case, row, seed)
    try:
        census.run(onnx=onnx)
    except Exception as error:  # noqa: BLE001  a row must come out whatever goes wrong
        frames = traceback.extract_tb(error.__traceback__)
        at = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"
        census.problem(
            f"{type(error).__name__} while {census.stage}: {' | '.join(str(error).splitlines()[:8])[:700]} ({at})"
        )
    row["peak_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    return row


class _Census:
    """One model on its way through the stages; every finding goes into the row."""

    def __init__(self, the_case: Case, row: Row, seed: int) -> None:
        self.case = the_case
        self.row = row
        self.seed = seed
        self.stage = "building"

    def problem(self, text: str) -> None:
        """Note what did not hold."""
        problems = self.row["problems"]
        assert isinstance(problems, list)
        problems.append(text)

    def timed(self, stage: str, work: Callable[[], Result]) -> Result:
        """Run a stage and note its seconds."""
        self.stage = stage
        started = time.perf_counter()
        result = work()
        self.row[f"{stage}_s"] = round(time.perf_counter() - started, 3)
        return result

    def run(self, *, onnx: bool) -> None:
        """All stages in order."""
        torch.manual_seed(self.seed)
        example = self.case.example
        fxprune.couple(fxprune.trace(nn.Linear(2, 2), torch.zeros(1, 2)))  # what is loaded late is not timed
        model = self.timed("building", self.case.build)
        self.timed("livening", lambda: liven(model, example, seed=self.seed))
        trace = self.timed("trace", lambda: fxprune.trace(model, example))
        found = self.timed("couple", lambda: analyse(trace).coupling)
        self._describe(trace, found)
        plan = self.timed(
            "plan",
            lambda: fxprune.plan(
                trace, fxprune.Budget(channels=0.5), scope="local", criterion="l1", align=1, seed=self.seed
            ),
        )
        slim = self.timed("slim", lambda: fxprune.slim(trace, plan))
        self._sizes(trace, found, plan, slim)
        self._shapes(trace, slim)
        self._prove(trace, plan, slim, "uniform")
        if onnx and self.case.kind == "classification":
            self._onnx(slim)
        del slim
        self._exact(trace, found)

    # --- what the engine says --------------------------------------------------------------------

    def _describe(self, trace: Trace, found: Coupling) -> None:
        groups = found.groups
        free = [g for g in groups if g.pinned is None]
        self.row.update(
            trace_kind=trace.kind,
            dynamic_batch=trace.dynamic_batch,
            why_static=trace.why_static,
            nodes=len(trace.graph.graph.nodes),
            groups=len(groups),
            free_groups=len(free),
            inexact_groups=sum(not g.exact for g in free),
            blocks=len(found.blocks),
            free_units=sum(g.width for g in free),
            pinned_units=sum(g.width for g in groups if g.pinned is not None),
        )
        pins: dict[tuple[str, str, str], dict[str, object]] = {}
        for group in groups:
            if group.pinned is None:
                continue
            pin = group.pinned
            entry = pins.setdefault(
                (pin.kind, pin.reason, pin.op),
                {
                    "kind": pin.kind,
                    "reason": pin.reason,
                    "op": pin.op,
                    "groups": 0,
                    "units": 0,
                    "first": group.name,
                }
                | {"node": pin.node, "source": pin.source},
            )
            entry["groups"] = int(str(entry["groups"])) + 1
            entry["units"] = int(str(entry["units"])) + group.width
        self.row["pins"] = list(pins.values())
        for kind, reason, op in pins:
            if kind == "unknown":
                self.problem(f"unexplained pin: {reason} [{op}]")
        if self.row["couple_s"] >= self.row["trace_s"]:  # type: ignore[operator]
            self.problem("couple took longer than the trace")

    # --- the slim model --------------------------------------------------------------------------

    def _sizes(self, trace: Trace, found: Coupling, plan: Plan, slim: nn.Module) -> None:
        self.stage = "counting"
        # Per sample at the trace's own batch: what is computed once a run is shared by its samples.
        args = trace.args if trace.batch == self.case.batch else _arguments_of(self.case.inputs(trace.batch))
        # What a detector computes depends on what it has found: its MACs are no function of widths alone.
        steered = trace.kind == "recorded"
        with evaluating(trace.model), evaluating(slim):
            dense_cost = measured_cost(trace.model, args)
            slim_cost = measured_cost(slim, args)
        for which, predicted, real in (
            ("dense", found.cost.dense, dense_cost),
            ("slim", plan.predicted, slim_cost),
        ):
            if predicted.params != real.params:
                self.problem(f"{which} parameters: {predicted.params} predicted, {real.params} real")
            if predicted.macs != real.macs and not steered:
                self.problem(f"{which} MACs: {predicted.macs} predicted, {real.macs} real")
        share = slim_cost.params / dense_cost.params
        self.row.update(
            slim_kind=str(getattr(slim, "fxprune_kind", "")),
            slim_sources=list(getattr(slim, "fxprune_sources", ())),
            params=dense_cost.params,
            macs=dense_cost.macs,
            params_left=round(share, 4),
            macs_left=round(slim_cost.macs / max(dense_cost.macs, 1), 4),
            macs_predicted_left=round(plan.predicted.macs / max(plan.dense.macs, 1), 4),
            notes=list(plan.notes),
        )
        if share > SHARE:
            self.row["why_left"] = _what_is_left(trace, found, plan)

    def _shapes(self, trace: Trace, slim: nn.Module) -> None:
        """Run dense and slim at other batch sizes and compare the shapes of what comes out."""
        self.stage = "running at other batch sizes"
        ran = []
        for batch in BATCHES:
            args = _arguments_of(self.case.inputs(batch))
            with torch.no_grad(), evaluating(slim), evaluating(trace.model):
                try:
                    small = _described(slim(*args))
                except Exception as error:  # noqa: BLE001  the model may be static
                    if trace.kind == "recorded" or trace.dynamic_batch:
                        self.problem(
                            f"slim fails at batch {batch}: {type(error).__name__}: {str(error)[:300]}"
                        )
                    continue
                dense = _described(trace.model(*args))
            if trace.kind == "recorded":
                dense, small = ([_trailing(s) for s in d] for d in (dense, small))
            if dense != small:
                self.problem(f"outputs at batch {batch}: {small} instead of {dense}")
            ran.append(batch)
        self.row["batches"] = ran

    def _prove(self, trace: Trace, plan: Plan, slim: nn.Module, which: str, *, exact: bool = False) -> None:
        # The second plan is about zeros alone, which is what the graph oracle looks at.
        oracles: tuple[OracleName, ...] = ("graph",) if exact else ("graph", "masks")
        proof = self.timed(
            f"verify_{which}", lambda: fxprune.verify(trace, plan, slim, tolerance=math.inf, oracles=oracles)
        )
        self.row[which] = {
            "error": proof.error,
            "effect": proof.effect,
            "zeroing": proof.inexact_difference,
            "units": proof.units,
            "inexact": proof.inexact,
            "dtype": proof.dtype,
            "livened": proof.livened,
            "judged": {oracle: round(share, 4) for oracle, share in proof.judged.items()},
            "unjudged": proof.unjudged,
        }
        if not proof.error <= TOLERANCE:
            self.problem(f"{which} plan: slim and zeroed differ by {proof.error:.2g}")
        if not proof.effect > EFFECT:
            self.problem(f"{which} plan: the removal changes the output by {proof.effect:.2g} only")
        if exact and (proof.inexact or not proof.inexact_difference <= TOLERANCE):
            self.problem(f"{which} plan: zeroing exact units alone differs by {proof.inexact_difference:.2g}")

    def _exact(self, trace: Trace, found: Coupling) -> None:
        """Random units of every exact group: here plain zeroing must equal slicing."""
        self.stage = "planning the exact groups"
        plan, groups = _exact_plan(trace, found, self.seed)
        if plan is None:
            self.row["exact_groups"] = 0
            return
        self.row["exact_groups"] = groups
        slim = fxprune.slim(trace, plan)
        try:
            self._prove(trace, plan, slim, "exact", exact=True)
        except fxprune.VerificationError as error:
            if "could be judged" not in error.what:
                raise
            # The first plan was judged by the masks, so this is a doubt about zeros, not about the model.
            self.row["exact_unjudged"] = error.what

    def _onnx(self, slim: nn.Module) -> None:
        def export() -> Row:
            with tempfile.TemporaryDirectory() as folder:
                report = export_onnx(slim, self.case.example, Path(folder) / "slim.onnx", tolerance=PARITY)
            errors = [e for e in (report.max_error_inputs, report.max_error_random) if e is not None]
            return {"error": max(errors), "batches": list(report.batches), "dynamic": report.dynamic_batch}

        self.row["onnx"] = self.timed("onnx", export)


def _arguments_of(inputs: Inputs) -> tuple[object, ...]:
    return inputs if isinstance(inputs, tuple) else (inputs,)


def _described(outputs: object) -> list[tuple[str, tuple[int, ...]]]:
    """Path and shape of every tensor that comes out."""
    leaves, _ = pytree.tree_flatten_with_path(outputs)
    return [(pytree.keystr(path), tuple(t.shape)) for path, t in leaves if isinstance(t, torch.Tensor)]


def _trailing(entry: tuple[str, tuple[int, ...]]) -> tuple[str, tuple[int, ...]]:
    """A detector finds as many objects as it finds: only the other dimensions count."""
    return entry[0], entry[1][1:]


def _exact_plan(trace: Trace, found: Coupling, seed: int) -> tuple[Plan | None, int]:
    """A plan that removes a share of every exact group, at least one atom where it has two, and their number."""
    random = np.random.default_rng(seed)
    frozen = found.pinned.copy()
    for group in found.groups:
        if not group.exact:
            frozen[group.units] = True
    scores = np.where(frozen, np.nan, random.random(found.n_units))
    atoms = make_atoms(found, scores, frozen)
    keep = np.ones(found.n_units, bool)
    for stream in range(atoms.n_streams):
        its = np.flatnonzero(atoms.stream == stream)
        if len(its) > 1:
            gone = random.choice(its, max(1, int(len(its) * REMOVED)), replace=False)
            keep[np.isin(atoms.of_unit, gone)] = False
    if keep.all():
        return None, 0
    touched = sum(bool((~keep[g.units]).any()) for g in found.groups)
    return plan_units(trace, keep), touched


def _what_is_left(trace: Trace, found: Coupling, plan: Plan) -> list[str]:
    """The tensors in which most of the parameters are left, and what holds their axes."""
    total = sum(p.numel() for p in trace.model.parameters())
    sizes: list[tuple[int, str, tuple[int, ...]]] = []
    for name, parameter in trace.model.named_parameters():
        left = [len(plan.kept.get((name, d), range(n))) for d, n in enumerate(parameter.shape)]
        sizes.append((math.prod(left), name, tuple(parameter.shape)))
    sizes.sort(reverse=True)
    holders = _holders(found)
    lines = []
    for count, name, shape in sizes[:FEW]:
        whole = [d for d, n in enumerate(shape) if n > 1 and (name, d) not in plan.kept]
        reasons = [f"axis {d} ({shape[d]}): {holders.get((name, d), 'kept by the plan')}" for d in whole]
        lines.append(f"{name} {count / total:.0%} of all: {'; '.join(reasons) or 'halved on every axis'}")
    return lines


def _holders(found: Coupling) -> dict[Axis, str]:
    """Why an axis stays whole, for those that a pinned group occupies."""
    return {
        axis: group.pinned.reason
        for group in found.groups
        if group.pinned is not None
        for axis in group.members
    }


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument(
        "--onnx", action="store_true", help="export the slim model and compare it in onnxruntime"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(given)


def main(given: Iterable[str] | None = None) -> int:
    """Print the row of one model as the last line."""
    options = _arguments(None if given is None else list(given))
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    row = measure(options.model, onnx=options.onnx, seed=options.seed)
    print(json.dumps(row))
    return int(bool(row["problems"]))


if __name__ == "__main__":
    sys.exit(main())
