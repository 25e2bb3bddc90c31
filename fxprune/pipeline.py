"""Where stages meet: a model opened from the words of a command line, and the whole chain in one call."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import nn

from fxprune.bench.benchmark import BenchTable, benchmark, check_options
from fxprune.criteria import Criterion
from fxprune.errors import FxpruneError, SliceError
from fxprune.graph.trace import ExampleInputs, Trace, trace
from fxprune.inspection.explain import WidthRow, group_table, width_table
from fxprune.models.calls import evaluating
from fxprune.models.heads import factory_advice, known_shapes, with_head_of
from fxprune.models.inputs import Inputs
from fxprune.models.inputs import example_inputs as find_inputs
from fxprune.models.loading import load_model
from fxprune.models.specs import Argument, Loaded, read_spec
from fxprune.models.weights import fill, named_alike, read_metadata, read_weights
from fxprune.onnx.export import ExportReport, export_onnx
from fxprune.onnx.session import OnnxModel, open_session
from fxprune.planning.atoms import Mode
from fxprune.planning.options import PlanOptions
from fxprune.planning.ranking import ranked
from fxprune.planning.reading import read_plan
from fxprune.planning.spend import spend
from fxprune.plans import Budget, Plan, Scope
from fxprune.proof.evidence import Proof
from fxprune.proof.verify import verify
from fxprune.recovery.calibration import kept
from fxprune.recovery.recover import Recovery, run_recovery
from fxprune.report.markdown import report_markdown
from fxprune.report.plots import plot_latency, plot_widths
from fxprune.report.sheets import export_json
from fxprune.report.steps import SILENT, Ticks, Watcher
from fxprune.report.words import describe_export, describe_plan, describe_trace
from fxprune.slimming.slim import load, save, slim
from fxprune.support.briefly import brief
from fxprune.support.delivery import (
    Asked,
    Delivery,
    Paths,
    begin_delivery,
    check_folder,
    occupied,
    refuse_other,
)
from fxprune.support.extras import installed, why_not
from fxprune.support.files import write_text

__all__ = [
    "Opened",
    "Result",
    "compress",
    "onnx_inputs",
    "open_model",
    "percent",
]

Batch = TypeVar("Batch")

_TORCH_SECONDS = 20.0  # a detector takes seconds a call in torch, and fifty rounds of it would take long
_NO_ONNX = (
    "torch.export refuses this model, mostly as where it goes depends on its data, which an ONNX graph cannot say. "
    "Weights, plan and proof are complete, and the latency is torch's"
)


# --- models by name --------------------------------------------------------------------------


@brief
@dataclass(frozen=True, eq=False)
class Opened:
    """A model ready to work on.

    Attributes:
        model: With its weights, in evaluation mode; a slim one if the weights were.
        inputs: Example inputs.
        weights: In words, where the weights come from.
        plan: By which the named model became this one, if the weights were slim.
        notes: What was done that the arguments do not say: a head read off the weights, say.
        arguments: With which ``load_model`` makes a model of these shapes by the same name.
    """

    model: nn.Module
    inputs: Inputs
    weights: str
    plan: Plan | None = None
    notes: tuple[str, ...] = ()
    arguments: Mapping[str, Argument] = field(default_factory=dict)


def open_model(
    spec: str,
    *,
    weights: Path | None = None,
    inputs: Sequence[str] = (),
    arguments: Mapping[str, Argument] | None = None,
    allow_pickle: bool = False,
) -> Opened:
    """Load a model by name, give it weights and find its example inputs.

    A head of another size than the model's own is read off the weights.

    Args:
        spec: As for ``load_model``.
        weights: A file of weights; one that ``save`` wrote holds a plan, by which the model is slimmed.
        inputs: As for ``example_inputs``.
        arguments: As for ``load_model``.
        allow_pickle: Unpickle files that need it.

    Raises:
        FxpruneError: The model, the weights or the inputs cannot be had.
    """

    def make(**more: Argument) -> Loaded:
        return load_model(spec, arguments={**(arguments or {}), **more}, allow_pickle=allow_pickle)

    loaded = make()
    if weights is None:
        example = find_inputs(loaded, inputs, allow_pickle=allow_pickle)
        return Opened(loaded.model, example, _origin(loaded), None, loaded.notes, arguments or {})
    given = read_weights(weights, allow_pickle=allow_pickle)
    plan = read_plan(weights) if read_metadata(weights).get("format") == "fxprune" else None
    plain, notes = named_alike(given, loaded.model.state_dict())
    shapes = known_shapes(plain, {} if plan is None else plan.kept)
    loaded = with_head_of(loaded, shapes, lambda classes: make(num_classes=classes))
    written = read_spec(spec).arguments
    extra = {name: value for name, value in loaded.arguments.items() if name not in written}
    example = find_inputs(loaded, inputs, allow_pickle=allow_pickle)
    if plan is not None:
        slim_one = load(loaded.model, weights, example).eval()
        return Opened(slim_one, example, f"slim, from {weights}", plan, loaded.notes, extra)
    try:
        fill(loaded.model, plain, weights)
    except SliceError as error:
        code = factory_advice(spec, loaded.model, plain)
        advice = f"{error.advice}; {code}" if code else error.advice
        raise SliceError(error.what, tensor=error.tensor, advice=advice) from error
    return Opened(loaded.model, example, f"from {weights}", None, (*loaded.notes, *notes), extra)


def _origin(loaded: Loaded) -> str:
    if loaded.spec.endswith(".pt2"):
        return "of the file"
    if loaded.pretrained:
        return "pretrained"
    random = {
        "torchvision": "random (append @pretrained, or pass --weights)",
        "timm": "random (append @pretrained, or pass --weights)",
        "hf": "random (the folder holds none)",
        "ultralytics": "random",
    }
    return random.get(loaded.spec.partition(":")[0], "as the factory made them")


def onnx_inputs(path: Path, specs: Sequence[str] = ()) -> Inputs:
    """Inputs for an ONNX file: those asked for, or random ones of its shapes with one sample.

    Raises:
        FxpruneError: The file or a text cannot be read.
    """
    nothing = Loaded(nn.Identity(), str(path))
    if specs:
        return find_inputs(nothing, specs)
    ports = open_session(path).inputs
    sizes = ("x".join(str(size) if isinstance(size, int) else "1" for size in port.shape) for port in ports)
    values = find_inputs(nothing, [f"{shape}:{port.dtype}" for shape, port in zip(sizes, ports)])
    assert isinstance(values, tuple)
    return dict(zip((port.name for port in ports), values, strict=True))


# --- the whole chain -------------------------------------------------------------------------


@brief
@dataclass(frozen=True, eq=False)
class Result:
    """What ``compress`` made.

    Attributes:
        slim: The slim model, fine-tuned if a ``finetune`` was given.
        plan: What was kept.
        proof: That the slim model computed what the dense one with zeroed units computes, before fine-tuning.
        widths: Units of every group before and after.
        exports: How the ``dense`` and the ``slim`` ONNX file were written; empty if the model can be none.
        bench: Both files, measured side by side; both modules in torch if there are no files.
        paths: The files.
        seconds: Wall time of each step.
        why_no_onnx: Why there are no ONNX files, if there are none.
        why_no_pictures: Why there are no plots, if there are none.
        recovery: What recovery without labels did, if there were data for it.
        accuracy: What ``metric`` said of the ``dense`` model, of the slim one as it was ``sliced``, ``recovered``,
            ``fine-tuned``, and of the slim ONNX file (``onnx``): of those that there are.
    """

    slim: nn.Module = field(repr=False)
    plan: Plan
    proof: Proof
    widths: tuple[WidthRow, ...]
    exports: Mapping[str, ExportReport]
    bench: BenchTable
    paths: Paths
    seconds: Mapping[str, float]
    why_no_onnx: str = ""
    recovery: Recovery | None = None
    accuracy: Mapping[str, float] = field(default_factory=dict)
    why_no_pictures: str = ""

    def markdown(self, title: str, *, first: Sequence[str] = ()) -> str:
        """The report as Markdown text, with some paragraphs to begin with."""
        return report_markdown(
            title,
            first=first,
            plan=self.plan,
            proof=self.proof,
            widths=self.widths,
            table=self.bench,
            exports=self.exports,
            why_no_onnx=self.why_no_onnx,
            why_no_pictures=self.why_no_pictures,
            recovery=self.recovery,
            accuracy=self.accuracy,
        )

    def as_json(self) -> dict[str, object]:
        """Plain values, for JSON."""
        absent = set() if self.exports else {"dense_onnx", "slim_onnx"}
        absent |= {"widths_plot", "latency_plot"} if self.why_no_pictures else set()
        return {
            "dense": asdict(self.plan.dense),
            "slim": asdict(self.plan.predicted),
            "notes": list(self.plan.notes),
            "proof": asdict(self.proof),
            "recovery": None if self.recovery is None else self.recovery.as_json(),
            "accuracy": dict(self.accuracy),
            "onnx": {name: export_json(report) for name, report in self.exports.items()},
            "why_no_onnx": self.why_no_onnx,
            "why_no_pictures": self.why_no_pictures,
            "bench": asdict(self.bench),
            "files": {name: str(path) for name, path in vars(self.paths).items() if name not in absent},
            "seconds": dict(self.seconds),
        }


def compress(
    model: nn.Module,
    example_inputs: ExampleInputs,
    budget: Budget,
    *,
    out: str | Path,
    criterion: str | Criterion = "l1",
    scope: Scope = "global",
    align: Literal["auto"] | int = "auto",
    keep_at_least: int = 1,
    protect: Sequence[str] = (),
    only: Sequence[str] = (),
    ratios: Mapping[str, float] | None = None,
    target: str = "onnxruntime-cpu",
    data: Iterable[Batch] | None = None,
    loss: Callable[[nn.Module, Batch], torch.Tensor] | None = None,
    blocks: Mode = "auto",
    keep_class: bool = False,
    seed: int = 0,
    calibrate: Iterable[object] | None = None,
    metric: Callable[[nn.Module], float] | None = None,
    finetune: Callable[[nn.Module], None] | None = None,
    threads: int = 1,
    seconds: float | None = None,
    watcher: Watcher = SILENT,
    force: bool = False,
) -> Result:
    """Everything in one call: trace, plan, slim, verify, recover, fine-tune, export, benchmark, report.

    The files take their places together at the end, those of an earlier run go just before; a folder with
    ``report.md`` is a finished one, whatever stops a run.  After a failure a folder that held no finished
    run has what was made before it (plan and weights); a finished run stays as it was, and weights that
    ``finetune`` has trained are then in ``fxprune-unfinished`` inside, until the next run.  One process at
    a time works in a folder.  A model whose control flow depends on its data (a detector) can be no ONNX
    graph: it gets everything else, and its latency is measured in torch.

    Args:
        model: The trained model; it is not changed.
        example_inputs: As for ``trace``.
        budget: What to keep.
        out: A folder, made if it is not there; files of an earlier run for the same model and budget are replaced, other
            files stay.
        criterion: As for ``plan``, like the options down to ``seed``.
        scope: See ``plan``.
        align: See ``plan``.
        keep_at_least: See ``plan``.
        protect: See ``plan``.
        only: See ``plan``.
        ratios: See ``plan``.
        target: See ``plan``.
        data: See ``plan``; the slim model is recovered on them, too (``fxprune.recover``), unless ``calibrate`` says otherwise.
        loss: See ``plan``.
        blocks: See ``plan``.
        keep_class: See ``plan``.
        seed: See ``plan``.
        calibrate: Batches for recovery, and for criteria that look at samples, without labels or with labels that are left aside;
            an empty list for no recovery.
        metric: Says how good a model is, its accuracy say; asked for the dense model, and for the slim one after each step.
        finetune: Trains the slim model in place; called once, after it was verified and recovered.
        threads: Of onnxruntime, in the benchmark.
        seconds: How long to measure, instead of the benchmark's own number of rounds.
        watcher: Is told about each step, ``fxprune.report.steps.Steps()`` for one.
        force: Replace a result of another model or budget in ``out``, too.

    Returns:
        The slim model, its plan and proof, the measurements, and where the files are.

    Raises:
        FxpruneError: A step failed, the message says which and what to do; or ``out`` holds the result of another model
            or budget.

    Example:
        >>> import torch, fxprune
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3), torch.nn.ReLU(), torch.nn.Conv2d(64, 8, 3))
        >>> result = fxprune.compress(net, torch.randn(1, 3, 16, 16), fxprune.Budget(macs=0.5), out="small")
        >>> result.slim[0].out_channels, result.paths.slim_onnx.name
        (32, 'slim.onnx')
    """
    clock = _Clock(watcher)
    options = PlanOptions(
        scope=scope,
        align=align,
        keep_at_least=keep_at_least,
        protect=protect,
        only=only,
        ratios=ratios or {},
        target=target,
        blocks=blocks,
        keep_class=keep_class,
        seed=seed,
    )
    check_options(threads=threads, seconds=seconds)
    folder = check_folder(out)
    with occupied(folder, "compress"):
        asked = Asked(type(model).__name__, budget.given)
        delivery = begin_delivery(folder, asked, force=force)
        with clock.step("trace") as ticks:
            traced = trace(model, example_inputs)
            asked = replace(asked, fingerprint=traced.fingerprint)
            refuse_other(folder, asked, force=force)
            ticks.note(describe_trace(traced) + ", there will be no ONNX files" * (traced.kind == "recorded"))
        with clock.step("plan") as ticks:
            samples = None if calibrate is None else kept(calibrate)
            chosen = ranked(traced, criterion, samples, seed=seed, progress=ticks.tick)
            plan = spend(traced, budget, options, criterion=chosen, data=data, loss=loss)
            ticks.note(describe_plan(plan))
        with clock.step("slim") as ticks:
            small = slim(traced, plan)
            ticks.note(f"as a {getattr(small, 'fxprune_kind', 'module')}")
        with clock.step("verify") as ticks:
            proof = verify(traced, plan, small)
            ticks.note(f"zeroed == slim within {proof.error:.1e}")
        scores = _Scores(metric, clock)
        scores.take("dense", traced.model)
        scores.take("sliced", small)
        recovery = _recovered(traced, plan, small, samples, data, clock)
        if recovery is not None:
            scores.take("recovered", small)
        if finetune is not None:
            finetune(small)
            small.eval()
            scores.take("fine-tuned", small)
        job = _Job(traced, example_inputs, plan, small, proof, clock, delivery, asked, recovery, scores)
        try:
            job.save()
            result = job.measured(job.exported(options.target), threads, seconds)
        except BaseException:
            delivery.give_up(keep=finetune is not None)
            raise
    return result


@dataclass(frozen=True, eq=False)
class _Job:
    """A slim model that is proved and has to be written and measured."""

    traced: Trace
    example_inputs: ExampleInputs
    plan: Plan
    small: nn.Module
    proof: Proof
    clock: _Clock
    delivery: Delivery
    asked: Asked
    recovery: Recovery | None
    scores: _Scores

    def save(self) -> None:
        """Write what survives if a later step fails."""
        paths = self.delivery.unfinished
        with self.clock.step("save") as ticks:
            self.delivery.begin()
            write_text(paths.plan, self.plan.to_json())
            write_text(paths.asked, self.asked.to_json())
            save(self.small, self.plan, paths.weights)
            groups = {"groups": [row.as_json() for row in group_table(self.traced)]}
            write_text(paths.groups, json.dumps(groups, indent=1))
            ticks.note(f"{paths.plan.name} and {paths.weights.name} for {self.delivery.out}")

    def exported(self, target: str) -> dict[str, ExportReport]:
        """Write the ONNX files, if the model can be one."""
        paths, reports = self.delivery.unfinished, {}
        models = (
            ("dense", self.traced.model, paths.dense_onnx),
            ("slim", self.small, paths.slim_onnx),
        )
        for name, module, path in () if self.traced.kind == "recorded" else models:
            with self.clock.step(f"export {name}") as ticks:
                reports[name] = export_onnx(module, self.example_inputs, path, target=target)
                ticks.note(describe_export(reports[name]))
        if "slim" in reports:
            self.scores.take("onnx", OnnxModel(reports["slim"].path))
        return reports

    def measured(self, exports: dict[str, ExportReport], threads: int, seconds: float | None) -> Result:
        """Measure, write the report, and put all files in their places."""
        in_torch, plan = not exports, self.plan
        filled = any({"padding", "groups"} & set(report.passes) for report in exports.values())
        rivals: dict[str, Path | nn.Module] = {"dense": self.traced.model, "slim": self.small}
        with self.clock.step("benchmark") as ticks:
            table = benchmark(
                rivals if in_torch else {name: report.path for name, report in exports.items()},
                self.example_inputs,
                threads=threads,
                seconds=_TORCH_SECONDS if in_torch and seconds is None else seconds,
                # Zeros that a pass put into a file are no parameters.
                costs={"dense": plan.dense, "slim": plan.predicted} if in_torch or filled else None,
                progress=percent(ticks),
            )
            ticks.note(f"×{table['slim'].speedup:.2f}" + " in torch" * in_torch)
        with self.clock.step("report") as ticks:
            places = self.delivery.paths
            moved = {n: replace(r, path=places.report.with_name(r.path.name)) for n, r in exports.items()}
            result = Result(
                self.small,
                plan,
                self.proof,
                width_table(self.traced, plan),
                moved,
                table,
                places,
                self.clock.seconds,
                f"{_NO_ONNX}. {self.traced.why_static}" if in_torch else "",
                self.recovery,
                self.scores.values,
                "" if installed("matplotlib") else "; ".join(why_not("matplotlib")),
            )
            _write_report(result, f"{type(self.traced.model).__name__}, compressed", self.delivery.unfinished)
            self.delivery.finish()
            without = f"no pictures: {result.why_no_pictures}" if result.why_no_pictures else ""
            ticks.note(", ".join(filter(None, (self.delivery.words, without))))
        return result


def _recovered(
    traced: Trace,
    plan: Plan,
    small: nn.Module,
    calibrate: Iterable[object] | None,
    data: Iterable[object] | None,
    clock: _Clock,
) -> Recovery | None:
    """Recover in place on the samples that were given for it, or on those that the criterion saw."""
    samples = data if calibrate is None else calibrate
    if samples is None or (isinstance(samples, Sequence) and not samples):
        return None
    with clock.step("recover") as ticks:
        try:
            recovery = run_recovery(traced, plan, small, samples, progress=ticks.tick)
        except FxpruneError as error:
            if calibrate is not None:
                raise
            # Batches that a loss understands need not be what the model is called with.
            ticks.note(f"not on these data: {error.what}")
            return None
        ticks.note(str(recovery))
    return recovery


@dataclass(frozen=True, eq=False)
class _Scores:
    """What the user's metric says, moment by moment."""

    metric: Callable[[nn.Module], float] | None
    clock: _Clock
    values: dict[str, float] = field(default_factory=dict)

    def take(self, moment: str, model: nn.Module) -> None:
        """Ask for a model, in evaluation mode and without gradients."""
        if self.metric is None:
            return
        with self.clock.step(f"metric, {moment}") as ticks, evaluating(model), torch.no_grad():
            self.values[moment] = float(self.metric(model))
            ticks.note(f"{self.values[moment]:.4g}")


def percent(ticks: Ticks) -> Callable[[float, str], None]:
    """A benchmark's progress as ticks."""
    return lambda done, what: ticks.tick(round(100 * done), 100, what)


def _write_report(result: Result, title: str, paths: Paths) -> None:
    write_text(paths.bench, result.bench.to_json())
    if not result.why_no_pictures:
        plot_latency(result.bench, paths.latency_plot)
        plot_widths(result.widths, paths.widths_plot)
    write_text(paths.report, result.markdown(title))


class _Clock:
    """Steps with their seconds."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, title: str) -> Iterator[Ticks]:
        started = time.monotonic()
        with self._watcher.step(title) as ticks:
            yield ticks
        self.seconds[title] = round(time.monotonic() - started, 3)
