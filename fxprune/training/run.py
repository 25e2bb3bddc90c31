"""``fxprune train``: a recipe from the dense model to the record of the slim one.

Phases: sparse training under a method, pruning (plan, slim, verify), fine-tuning, export, benchmark.  Each step
is the same for one process and several; a run that is killed goes on from its last checkpoint.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils import _pytree as pytree

from fxprune.bench.benchmark import benchmark
from fxprune.coupling.couple import couple
from fxprune.coupling.groups import Group
from fxprune.errors import FxpruneError
from fxprune.graph.trace import Trace, trace
from fxprune.models.inputs import Inputs
from fxprune.onnx.export import export_onnx
from fxprune.onnx.session import machine
from fxprune.pipeline import percent
from fxprune.plans import Plan
from fxprune.proof.verify import verify
from fxprune.regularizers import REGULARIZERS, Regularizer
from fxprune.regularizers.registry import make_method
from fxprune.report.steps import SILENT, Watcher
from fxprune.report.words import describe_plan
from fxprune.slimming.slim import save, slim
from fxprune.support.delivery import check_folder
from fxprune.support.files import write_text
from fxprune.training.average import running_average
from fxprune.training.checkpoint import Checkpoint, Running, load_model_state, model_state, set_random_state
from fxprune.training.decide import check_patterns, dead_channels, decide, own_share
from fxprune.training.loop import Job, evaluate, run_steps
from fxprune.training.recipe.file import read_recipe
from fxprune.training.recipe.schema import Phase, Sparse
from fxprune.training.record import Record, method_figures
from fxprune.training.renewal import fresh, recalibrate, recovered
from fxprune.training.schedule import make_optimizer
from fxprune.training.session import (
    RunSession,
    finished,
    open_session,
    owned,
    plain_recipe,
    seed_everything,
)
from fxprune.training.steering import Steering
from fxprune.training.team import computes_bf16, inner, team

__all__ = ["train"]

SPARSE, FINETUNE = 1, 2
_SLOW_BF16 = "this device has no instructions for bf16, so float32 (mixed_precision: no) would be faster"
_NAMES: dict[int, Literal["sparse", "finetune"]] = {SPARSE: "sparse", FINETUNE: "finetune"}


def train(
    path: str | Path,
    *,
    out: str | Path | None = None,
    changes: Sequence[str] = (),
    resume: bool = False,
    allow_pickle: bool = False,
    watcher: Watcher = SILENT,
) -> Record:
    """Run a recipe.

    Args:
        path: The recipe, see ``fxprune.training.recipe.schema``.
        out: Folder for everything that is written; by default ``runs/NAME``.
        changes: ``key=value`` texts that win over the recipe.
        resume: Go on from the last checkpoint in the folder, if there is one; of a finished run of this
            recipe the record is returned.
        allow_pickle: Read a model from a ``.pt2`` file, and weights that have to be unpickled; both can run code.
        watcher: Is told about each step.

    Returns:
        What came out; the same is in ``record.json``.

    Raises:
        RecipeError: The recipe is wrong, or not the one that the folder's run was started with; nothing
            was started.
        FxpruneError: Another process works in the folder, or a step failed; checkpoints stay as they are.
    """
    file = read_recipe(path, changes)
    folder = check_folder(out if out is not None else Path("runs") / file.name)
    if resume and (record := finished(file, folder)) is not None:
        return record
    recipe = file.recipe
    with (
        team(device=recipe.device, mixed_precision=recipe.mixed_precision, parallel=recipe.parallel) as crew,
        owned(folder, crew),
    ):
        told = watcher if crew.main else SILENT
        with told.step("open") as ticks:
            session = open_session(file, crew, folder, resume=resume, allow_pickle=allow_pickle)
            slow = crew.precision == "bf16" and not computes_bf16(crew.device.type)
            if slow:
                session.ledger.note(_SLOW_BF16)
            ticks.note(_describe(session) + (f"; {_SLOW_BF16}" if slow else ""))
        run = _Run(session, told)
        plan, small = run.slim_model()
        small = run.finetune(plan, small)
        record = run.deliver(plan, small)
        crew.wait()
        return record


def _describe(session: RunSession) -> str:
    data, saved = session.data, session.saved
    words = f"{len(data.train.labels)} images for training, {len(data.test.labels)} to evaluate on"
    words += ", held out of the training images" if data.held_out else ""
    if saved is not None:
        words += f"; going on from step {saved.step} of the {_NAMES[saved.phase]} phase"
    return words


class _Run:
    """The phases of one session."""

    def __init__(self, session: RunSession, watcher: Watcher) -> None:
        self.session = session
        self.watcher = watcher
        self.ledger = session.ledger

    # --- the phases --------------------------------------------------------------------------

    def slim_model(self) -> tuple[Plan, nn.Module]:
        """Sparse training and pruning, or their result from a checkpoint; the slim model on the CPU."""
        saved = self.session.saved
        if saved is not None and saved.phase == FINETUNE:
            plan = Plan.from_json(str(saved.facts["plan"]))
            kind: Literal["module", "graph"] = "graph" if saved.facts["kind"] == "graph" else "module"
            return plan, slim(self._trace_dense(), plan, kind=kind)
        return self._prune(*self._sparse())

    def _sparse(self) -> tuple[nn.Module, Regularizer | None]:
        """Train under the method; returns the model on its device and the method."""
        session, recipe = self.session, self.session.recipe
        model = session.on_device(copy.deepcopy(session.dense))
        steps = recipe.steps_of("sparse", session.training().per_epoch)
        groups: tuple[Group, ...] = ()
        if recipe.method or steps:
            with self.watcher.step("trace"):
                traced = trace(model, _on(session.example, session.team.device))
                check_patterns(session, traced)
                groups = tuple(couple(traced))
        spread = session.team.spread(model)
        optimizer = session.team.optimizer(make_optimizer(spread, recipe.sparse))
        method = _method(session, spread, groups, optimizer)
        # The test images are first looked at when nothing can be wrong any more.
        self._measure("dense", session.teacher())
        if steps:
            self._train(SPARSE, recipe.sparse, spread, optimizer, method, steps, {})
            spread.eval()  # a method's own masked student follows the model's mode
            student = None if method is None else method.student
            self._measure("sparse", spread if student is None else student)
        return spread, method

    def _prune(self, model: nn.Module, method: Regularizer | None) -> tuple[Plan, nn.Module]:
        """Plan, slim and verify on the CPU, the same on every process."""
        session = self.session
        work = copy.deepcopy(session.dense)
        with self.ledger.timed("prune"):
            load_model_state(work, model_state(inner(model)))
            traced = trace(work, session.example)
            budget = session.recipe.budget
            # Where there is a share already, steering has looked before it spent the budget.
            if method is not None and self.ledger.decided is None:
                self.ledger.decided = own_share(method, None if budget is None else budget.budget())
            with self.watcher.step("plan") as ticks:
                plan = decide(session, traced, method)
                ticks.note(describe_plan(plan))
            if budget is None:
                self.ledger.decided = plan.predicted.macs / max(plan.dense.macs, 1)
            # Taking a decision may have changed the weights: masks are folded into them.
            load_model_state(work, model_state(inner(model)))
            small = slim(traced, plan)
            if session.team.main:
                with self.watcher.step("verify") as ticks:
                    proof = verify(traced, plan, small)
                    ticks.note("; ".join(filter(None, (str(proof), dead_channels(small, session.dense)))))
                self.ledger.proof = str(proof)
            self.ledger.proof = str(session.team.each(self.ledger.proof)[0])
        warning = dead_channels(small, session.dense)
        for note in (*plan.notes, *([warning] if warning else [])):
            self.ledger.note(note)
        if session.recipe.finetune.start == "scratch":
            small = fresh(session, plan, small)
        elif session.recipe.finetune.recover:
            self._measure("sliced", session.on_device(copy.deepcopy(small)))
            with self.ledger.timed("recover"):
                recovery = recovered(session, traced, plan, small, self.watcher)
            for note in (str(recovery), *recovery.notes):
                self.ledger.note(note)
        return plan, small

    def finetune(self, plan: Plan, small: nn.Module) -> nn.Module:
        """Train the slim model; returns it on the CPU, in evaluation mode."""
        session, phase = self.session, self.session.recipe.finetune
        model = session.on_device(small)
        if session.saved is None or session.saved.phase != FINETUNE:
            if phase.recalibrate:
                recalibrate(session, model, phase.recalibrate)
            self._measure("pruned", model)
        steps = session.recipe.steps_of("finetune", session.training().per_epoch)
        if steps:
            kind = str(getattr(small, "fxprune_kind", "module"))
            spread = session.team.spread(model)
            optimizer = session.team.optimizer(make_optimizer(spread, phase))
            facts: dict[str, object] = {"plan": plan.to_json(), "kind": kind}
            average = None if phase.ema is None else running_average(inner(spread), phase.ema)
            self._train(FINETUNE, phase, spread, optimizer, None, steps, facts, average)
            result = spread if average is None else average.module
            self._measure("finetuned", result)
            finetuned = slim(self._trace_dense(), plan, kind="graph" if kind == "graph" else "module")
            load_model_state(finetuned, model_state(inner(result)))
            return finetuned.eval()
        self.ledger.accuracy["finetuned"] = self.ledger.accuracy["pruned"]
        return model.cpu().to(memory_format=torch.contiguous_format).eval()

    def _train(
        self,
        number: int,
        phase: Phase,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        method: Regularizer | None,
        steps: int,
        facts: dict[str, object],
        average: AveragedModel | None = None,
    ) -> None:
        """Run the steps of a phase that are not done yet."""
        session, name = self.session, _NAMES[number]
        running = Running(inner(model), optimizer, method, average)
        seed_everything(session.recipe.seed, number, session.team.rank)
        first = _restore(running, session.saved, number, session, steps)
        batches = session.training()
        job = Job(
            name,
            number,
            session.team,
            model,
            optimizer,
            phase,
            batches,
            session.recipe.data.augment,
            steps,
            method,
            session.teacher() if phase.distill is not None else None,
            _steering(session, phase, method, steps)
            if average is None
            else lambda _step: average.update_parameters(inner(model)),
            session.checkpoints.advice,
        )
        recipe = plain_recipe(session.file)
        # Not where parameters are sharded: a report would have to gather them.
        reporting = None if session.team.sharded else method
        earlier = dict(self.ledger.method)

        def look(step: int) -> None:
            if reporting is not None:
                self.ledger.method = method_figures(reporting, earlier, step - first)

        def keep(step: int) -> None:
            look(step)
            everything = {**facts, "recipe": recipe, "ledger": self.ledger.as_json(), "steps": steps}
            session.checkpoints.save(running, number, step, everything)

        every = session.recipe.checkpoints.every or batches.per_epoch
        with self.ledger.timed(name), self.watcher.step(_TITLES[number]) as ticks:
            run_steps(job, first=first, save=keep, every=every, ticks=ticks)
            ticks.note(f"{session.recipe.epochs_of(name):g} epochs")
        look(steps)

    def _measure(self, moment: str, model: nn.Module) -> None:
        """Evaluate once."""
        if moment in self.ledger.accuracy:
            return
        with self.ledger.timed("evaluate"), self.watcher.step(f"accuracy, {moment}") as ticks:
            value = evaluate(model, self.session.testing(), self.session.team)
            self.ledger.accuracy[moment] = value
            ticks.note(f"{100 * value:.2f} %")

    def _trace_dense(self) -> Trace:
        return trace(self.session.dense, self.session.example)

    # --- the files ---------------------------------------------------------------------------

    def deliver(self, plan: Plan, small: nn.Module) -> Record:
        """Write plan, weights, ONNX files and the record; the record is the last."""
        session, recipe = self.session, self.session.recipe
        bench: dict[str, object] | None = None
        latency: dict[str, float] = {}
        if session.team.main:
            write_text(session.out / "plan.json", plan.to_json())
            save(small, plan, session.out / "slim.safetensors")
            files = self._export(small)
            if recipe.bench is not None:
                bench, latency = self._bench(files)
        record = Record(
            name=session.file.name,
            recipe=plain_recipe(session.file),
            accuracy=dict(self.ledger.accuracy),
            evaluated_on="holdout" if session.data.held_out else "test",
            dense=plan.dense,
            slim=plan.predicted,
            decided=self.ledger.decided,
            epochs={name: recipe.epochs_of(name) for name in _NAMES.values()},
            seconds=dict(self.ledger.seconds),
            method=dict(self.ledger.method),
            latency_ms=latency,
            bench=bench,
            machine=vars(machine()),
            device=_device(session),
            proof=self.ledger.proof,
            notes=tuple(self.ledger.notes),
            resumed=self.ledger.resumed,
        )
        if session.team.main:
            write_text(session.out / "record.json", record.to_json())
        return record

    def _export(self, small: nn.Module) -> dict[str, Path]:
        options = self.session.recipe.export
        files: dict[str, Path] = {}
        for name, model in (("dense", self.session.dense), ("slim", small)) if options else ():
            assert options is not None
            with self.ledger.timed("export"), self.watcher.step(f"export {name}"):
                path = self.session.out / f"{name}.onnx"
                files[name] = export_onnx(
                    model,
                    self.session.example,
                    path,
                    opset=options.opset,
                    target=self.session.recipe.plan.target,
                ).path
        return files

    def _bench(self, files: dict[str, Path]) -> tuple[dict[str, object], dict[str, float]]:
        options = self.session.recipe.bench
        assert options is not None
        with self.ledger.timed("bench"), self.watcher.step("benchmark") as ticks:
            table = benchmark(
                files,
                self.session.example,
                threads=options.threads,
                seconds=options.seconds,
                batch=options.batch,
                memory=options.memory,
                progress=percent(ticks),
            )
            ticks.note(f"×{table['slim'].speedup:.2f}")
        return json.loads(table.to_json()), {row.name: row.median_ms for row in table.rows}


_TITLES = {SPARSE: "sparse training", FINETUNE: "fine-tune"}


def _method(
    session: RunSession, model: nn.Module, groups: Sequence[Group], optimizer: torch.optim.Optimizer
) -> Regularizer | None:
    """The regularizer of the recipe, if it names one."""
    recipe = session.recipe
    if not recipe.method:
        return None
    chosen = [(method.name, method.options) for method in recipe.method]
    budget = None if recipe.budget is None else recipe.budget.budget()
    try:
        method = make_method(chosen, model, groups, optimizer=optimizer, budget=budget)
    except FxpruneError as error:
        # Constructors begin their complaints with "option=value".
        option = error.what.partition("=")[0]
        raise session.file.error(f"method.{option}", error.what, advice=error.advice) from error
    other = {part.quantity for part in budget.parts} - method.spends if budget is not None else set()
    if other:
        raise session.file.error(
            "budget",
            f"{method.name} cannot spend a budget of {min(other)}",
            advice=f"give one of {', '.join(sorted(method.spends))}",
        )
    if recipe.sparse.steer is not None and not method.steerable:
        raise session.file.error(
            "sparse.steer",
            f"{method.name} cannot be steered to a budget: its decision follows no strength",
            advice=f"name one of {', '.join(kind.name for kind in REGULARIZERS if kind.steerable)}",
        )
    return method


def _steering(
    session: RunSession, phase: Phase, method: Regularizer | None, steps: int
) -> Callable[[int], None]:
    """What is done after each step besides the step."""
    if not isinstance(phase, Sparse) or phase.steer is None:
        return lambda _step: None
    assert method is not None and session.recipe.budget is not None, "the recipe was checked"
    budget = session.recipe.budget.budget()

    def spend() -> Plan:
        return method.plan(budget, session.recipe.plan.options(session.recipe.seed))

    def told(step: int, kept: float) -> None:
        session.ledger.decided = kept
        session.ledger.note(f"the budget was spent after {step} of {steps} sparse steps")

    return Steering(method, budget, spend, phase.steer, steps, told).after


def _on(inputs: Inputs, device: torch.device) -> Inputs:
    """Example inputs on a device."""
    moved: Inputs = pytree.tree_map_only(torch.Tensor, lambda t: t.to(device), inputs)
    return moved


def _restore(running: Running, saved: Checkpoint | None, number: int, session: RunSession, steps: int) -> int:
    """Put back what a checkpoint of this phase holds; returns how many steps are done."""
    if saved is None or saved.phase != number:
        return 0
    if saved.step > steps:
        raise FxpruneError(
            f"{saved.path} is of step {saved.step}, but this phase has {steps}",
            advice="resume with the images the run was started with, or choose another folder (--out, out=)",
        )
    running.restore(saved)
    states = saved.facts["random"]
    assert isinstance(states, list)
    if len(states) == session.team.world:
        set_random_state(states[session.team.rank])
    return saved.step


def _device(session: RunSession) -> str:
    device = session.team.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    precision = session.team.precision
    words = [name, f"{torch.get_num_threads()} threads" if device.type == "cpu" else ""]
    words += [f"{session.team.world} processes" if session.team.world > 1 else ""]
    words += [precision if precision != "no" else ""]
    return ", ".join(word for word in words if word)
