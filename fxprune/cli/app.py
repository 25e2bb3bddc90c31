"""The command line: one sub-command per stage.

Results go to stdout (tables, or JSON with ``--json``), progress and errors to stderr.  Exit codes:
0 done, 1 fxprune refused or failed, 2 the command line is wrong, 129, 130 and 143 ended by SIGHUP, SIGINT
and SIGTERM, after cleaning up.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn, TextIO

import typer
from rich.console import Console, Group, RenderableType
from typer.core import TyperGroup

from fxprune.cli import options as o
from fxprune.errors import FxpruneError
from fxprune.escaping import terminal
from fxprune.report.steps import Stderr, Steps, show_error

if TYPE_CHECKING:  # loading torch takes seconds, and --help must not
    from fxprune.graph.trace import Trace
    from fxprune.pipeline import Opened

__all__ = ["app", "main"]

FAILED_CODE = 1
SIGNAL_CODE = 128
"""Plus the number of the signal that ended the process, as shells have it."""

_PIPE_WIDTH = 160
# What a wrong command line raises; its base class has moved from click into typer.
_SAID: tuple[type[BaseException], ...] = (
    typer.Exit,
    typer.Abort,
    *(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException"),
)


class _Ended(BaseException):
    """A signal asks for the end: everything that is open is closed on the way out, as after Ctrl-C."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number)
        self.number = number


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    raise _Ended(signal.Signals(number))


class _Group(TyperGroup):
    """Turns what fxprune refuses into a panel and an exit code."""

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        """Run the sub-command."""
        try:
            result: object = super().invoke(ctx)
            sys.stdout.flush()  # what cannot be written is an error here, not at the end of the process
            return result
        except _SAID:
            raise  # the command line is wrong, or a command has said its last word
        except (KeyboardInterrupt, _Ended) as error:
            number = error.number if isinstance(error, _Ended) else signal.SIGINT
            _say(f"interrupted by {number.name}; no file was left half-written")
            raise typer.Exit(SIGNAL_CODE + number) from error
        except BrokenPipeError as error:  # the reader of stdout has gone, as in "| head"
            raise typer.Exit(FAILED_CODE) from error
        except OSError as error:
            if _debugging(ctx):
                raise
            show_error(_refused_by_system(error), _stderr())
            raise typer.Exit(FAILED_CODE) from error
        except Exception as error:
            if _debugging(ctx):
                raise
            show_error(error if isinstance(error, FxpruneError) else _unforeseen(error), _stderr())
            raise typer.Exit(FAILED_CODE) from error


def _unforeseen(error: Exception) -> FxpruneError:
    """An error that is not fxprune's own: of the model's code, or a bug."""
    from fxprune.support.source_lines import source_of

    text = " ".join(str(error).split())
    return FxpruneError(
        f"{type(error).__name__}: {text[:500]}",
        source=source_of(error),
        advice="fxprune --debug shows where it came from; if that is not the model's own code, please report it",
    )


def _debugging(ctx: typer.Context) -> bool:
    return bool(ctx.params.get("debug"))


app = typer.Typer(
    name="fxprune",
    cls=_Group,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Make a trained PyTorch model smaller and faster, prove it right, and measure it.",
    epilog="Start with [bold]fxprune demo[/], or [bold]fxprune compress torchvision:resnet18@pretrained --macs 0.5 --out out/[/]",
)


def main() -> None:
    """Run the command line."""
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup has SIGHUP ignored
            signal.signal(number, _end)
    _open_streams()
    code: object = 0
    try:
        app()
    except SystemExit as done:
        code = done.code
    except _Ended as error:  # before a command began, or after its end
        code = SIGNAL_CODE + error.number
    except BrokenPipeError:
        code = FAILED_CODE
    except OSError as error:
        show_error(_refused_by_system(error), _stderr())
        code = FAILED_CODE
    if not _settled(sys.stdout) and not code:
        code = FAILED_CODE
    _settled(sys.stderr)
    raise SystemExit(code)


def _open_streams() -> None:
    """Give streams that were closed by the caller somewhere to go.

    Else the next file that is opened gets their number, and what libraries write to stderr lands in it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("r" if number == 0 else "w"))  # noqa: SIM115 - as long as the process


def _settled(stream: TextIO) -> bool:
    """Write what is left in a stream; where that fails it is dropped, so that Python does not try again."""
    try:
        stream.flush()
        return True
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return False


def _refused_by_system(error: OSError) -> FxpruneError:
    where = f" ({error.filename})" if error.filename else ""
    return FxpruneError(
        f"the system refused to read or write{where}: {error.strerror or error}",
        advice="check the space on the disk, permissions, and where the output goes",
    )


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"fxprune {version('fxprune')}")
        except PackageNotFoundError:
            print("fxprune (not installed)")
        raise typer.Exit


@app.callback()
def _global_options(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="FXPRUNE_DEBUG", help="Show the traceback of an error.")
    ] = False,
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    pass


# --- commands --------------------------------------------------------------------------------


@app.command(
    epilog="Examples:\n\n"
    "  fxprune inspect torchvision:resnet18\n\n"
    "  fxprune inspect torchvision:vit_b_16 --why encoder.ln.weight\n\n"
    "  fxprune inspect nets.py:make -i 1x3x32x32 --graph ties.dot --json > groups.json"
)
def inspect(
    model: o.Model,
    weights: o.Weights = None,
    inputs: o.Inputs = None,
    allow_pickle: o.AllowPickle = False,
    why: o.Why = None,
    dim: o.Dim = None,
    graph: o.Graph = None,
    everything: o.Everything = False,
    strict: o.Strict = False,
    as_json: o.Json = False,
) -> None:
    """Show which channels are tied to which, by which op, and why some cannot go."""
    from fxprune.coupling.couple import couple
    from fxprune.inspection.explain import dependency_graph, explain, group_table
    from fxprune.inspection.graph_files import check_graph_path, write_graph
    from fxprune.report.sheets import group_sheet, pin_sheet

    if dim is not None and why is None:
        raise typer.BadParameter("says which dimension of --why TENSOR: give that, too", param_hint="--dim")
    for path in graph or ():
        check_graph_path(path)  # before minutes of work, not after
    traced = _trace(_open(model, weights, inputs, allow_pickle))
    couple(traced, strict=strict)
    for path in graph or ():
        _say(f"wrote {write_graph(dependency_graph(traced), path)}")
    if why is not None:
        explanation = explain(traced, why, dim=dim or 0)
        _result(str(explanation), explanation.as_json(), as_json)
    elif not graph or as_json:
        rows = group_table(traced)
        shown = (group_sheet(rows).rich(), pin_sheet(rows, everything=everything).rich())
        _result(Group(*shown), {"model": model, "groups": [row.as_json() for row in rows]}, as_json)


@app.command(
    epilog="Examples:\n\n"
    "  fxprune plan torchvision:resnet50@pretrained --macs 0.5 --out plan.json\n\n"
    "  fxprune plan nets.py:make -i 1x3x32x32 --params 0.3 --protect 'head*' --ratio 'layer1.*=0.75'"
)
def plan(
    model: o.Model,
    weights: o.Weights = None,
    inputs: o.Inputs = None,
    allow_pickle: o.AllowPickle = False,
    macs: o.Macs = None,
    params: o.Params = None,
    channels: o.Channels = None,
    latency: o.Latency = None,
    criterion: o.Criterion = "l1",
    data: o.Data = None,
    scope: o.Scope = o.ScopeName.everywhere,
    align: o.Align = "auto",
    keep_at_least: o.KeepAtLeast = 1,
    protect: o.Protect = None,
    only: o.Only = None,
    ratio: o.Ratio = None,
    target: o.Target = "onnxruntime-cpu",
    blocks: o.Blocks = o.BlocksName.auto,
    seed: o.PlanSeed = 0,
    out: o.PlanOut = None,
    as_json: o.Json = False,
) -> None:
    """Decide which channels go so that a budget is met."""
    from fxprune.inspection.explain import width_table
    from fxprune.planning.plan import spend
    from fxprune.report.sheets import plan_view

    budget = o.parse_budget(macs=macs, params=params, channels=channels, latency=latency)
    options = o.plan_options(
        scope=scope,
        align=align,
        keep_at_least=keep_at_least,
        protect=protect,
        only=only,
        ratio=ratio,
        target=target,
        blocks=blocks,
        seed=seed,
    )
    o.check_names(criterion, target, has_data=data is not None)
    batches, loss = o.evidence(data)
    traced = _trace(_open(model, weights, inputs, allow_pickle, writes=out))
    with _steps().step("plan"):
        made = spend(traced, budget, options, criterion=criterion, data=batches, loss=loss)
    if out is not None:
        _write(out, made.to_json())
    _result(plan_view(made, width_table(traced, made)), made.to_json(), as_json)


@app.command(
    epilog="Example:\n\n  fxprune slim torchvision:resnet50@pretrained --plan plan.json --out slim.safetensors"
)
def slim(
    model: o.Model,
    plan_file: o.PlanFile,
    out: o.SlimOut,
    weights: o.Weights = None,
    inputs: o.Inputs = None,
    allow_pickle: o.AllowPickle = False,
    check: o.Check = True,
    as_json: o.Json = False,
) -> None:
    """Apply a plan: write the slim weights, after proving them right.

    The file holds the plan, too: wherever MODEL is given, it makes the model slim as --weights.
    """
    from fxprune.pipeline import read_plan
    from fxprune.proof.verify import verify
    from fxprune.report.sheets import cost_sheet
    from fxprune.slimming.recount import recounted
    from fxprune.slimming.slim import save
    from fxprune.slimming.slim import slim as apply

    made = read_plan(plan_file)
    opened = _open(model, weights, inputs, allow_pickle, writes=out)
    traced = _trace(opened)
    made = recounted(traced, made)
    with _steps().step("slim") as ticks:
        small = apply(traced, made)
        ticks.note(f"as a {small.fxprune_kind}")
    facts: dict[str, object] = {
        "file": str(out),
        "kind": small.fxprune_kind,
        "dense": asdict(made.dense),
        "slim": asdict(made.predicted),
        "proof": None,
    }
    if check:
        with _steps().step("verify") as ticks:
            proof = verify(traced, made, small)
            ticks.note(str(proof))
        facts["proof"] = json.loads(proof.to_json())
    save(small, opened.plan_from_dense(made), out)
    _say(f"wrote {out}")
    _result(cost_sheet(made).rich(), facts, as_json)


@app.command(
    epilog="Examples:\n\n"
    "  fxprune export torchvision:resnet50@pretrained --out dense.onnx\n\n"
    "  fxprune export torchvision:resnet50 --weights slim.safetensors --out slim.onnx"
)
def export(
    model: o.Model,
    out: o.OnnxOut,
    weights: o.Weights = None,
    inputs: o.Inputs = None,
    allow_pickle: o.AllowPickle = False,
    opset: o.Opset = 18,
    static_batch: o.StaticBatch = False,
    check: o.Check = True,
    as_json: o.Json = False,
) -> None:
    """Write a model as an ONNX file, after comparing it with torch in onnxruntime."""
    from fxprune.onnx.export import export_onnx
    from fxprune.report.sheets import export_json, export_sheet
    from fxprune.report.words import describe_export

    opened = _open(model, weights, inputs, allow_pickle, writes=out)
    with _steps().step("export") as ticks:
        report = export_onnx(
            opened.model, opened.inputs, out, opset=opset, dynamic_batch=not static_batch, verify=check
        )
        ticks.note(describe_export(report))
    _say(f"wrote {report.path}")
    _result(export_sheet(report).rich(), export_json(report), as_json)


@app.command(
    epilog="Examples:\n\n"
    "  fxprune bench dense.onnx slim.onnx --threads 2\n\n"
    "  fxprune bench before=a.onnx after=b.onnx -i 8x3x224x224 --seconds 20 --json > bench.json"
)
def bench(
    files: o.OnnxFiles,
    inputs: o.Inputs = None,
    threads: o.Threads = 1,
    repeats: o.Repeats = 50,
    seconds: o.Seconds = None,
    batch: o.BatchSize = None,
    memory: o.Memory = True,
    limit: o.Limit = 60.0,
    as_json: o.Json = False,
) -> None:
    """Measure ONNX files against the first of them, interleaved, in onnxruntime."""
    from fxprune.bench.benchmark import benchmark
    from fxprune.pipeline import onnx_inputs, percent

    named = o.parse_files(files)
    example = onnx_inputs(next(iter(named.values())), inputs or ())
    with _steps().step("benchmark") as ticks:
        table = benchmark(
            named,
            example,
            threads=threads,
            repeats=repeats,
            seconds=seconds,
            batch=batch,
            memory=memory,
            limit_s=limit,
            progress=percent(ticks),
        )
    _result(table, table.to_json(), as_json)


@app.command(
    epilog="Examples:\n\n"
    "  fxprune compress torchvision:resnet18@pretrained --macs 0.5 --out out/\n\n"
    "  fxprune compress nets.py:make -w trained.safetensors -i 1x3x32x32 --params 0.3 --out out/"
)
def compress(
    model: o.Model,
    out: o.OutFolder,
    weights: o.Weights = None,
    inputs: o.Inputs = None,
    allow_pickle: o.AllowPickle = False,
    macs: o.Macs = None,
    params: o.Params = None,
    channels: o.Channels = None,
    latency: o.Latency = None,
    criterion: o.Criterion = "l1",
    data: o.Data = None,
    scope: o.Scope = o.ScopeName.everywhere,
    align: o.Align = "auto",
    keep_at_least: o.KeepAtLeast = 1,
    protect: o.Protect = None,
    only: o.Only = None,
    ratio: o.Ratio = None,
    target: o.Target = "onnxruntime-cpu",
    blocks: o.Blocks = o.BlocksName.auto,
    seed: o.PlanSeed = 0,
    threads: o.Threads = 1,
    seconds: o.Seconds = None,
    as_json: o.Json = False,
) -> None:
    """All of it: plan, slim, verify, export, benchmark and report, into one folder."""
    from fxprune.pipeline import compress as run
    from fxprune.report.sheets import result_view
    from fxprune.support.delivery import check_folder

    budget = o.parse_budget(macs=macs, params=params, channels=channels, latency=latency)
    options = o.plan_options(
        scope=scope,
        align=align,
        keep_at_least=keep_at_least,
        protect=protect,
        only=only,
        ratio=ratio,
        target=target,
        blocks=blocks,
        seed=seed,
    )
    o.check_names(criterion, target, has_data=data is not None)
    batches, loss = o.evidence(data)
    check_folder(out)  # before minutes of work, not after
    opened = _open(model, weights, inputs, allow_pickle)
    result = run(
        opened.model,
        opened.inputs,
        budget,
        out=out,
        criterion=criterion,
        **vars(options),
        threads=threads,
        seconds=seconds,
        data=batches,
        loss=loss,
        watcher=_steps(),
        saved_plan=opened.plan_from_dense,  # so that the file makes the model slim that was named
    )
    _result(result_view(result.plan, result.bench, result.why_no_onnx), result.as_json(), as_json)
    _say(f"everything is in {out}: start with {result.paths.report}")


@app.command(epilog="Example:\n\n  fxprune demo --out out/demo")
def demo(
    out: o.OutFolder = Path("out/demo"),
    seed: o.Seed = 0,
    as_json: o.Json = False,
) -> None:
    """Train, prune, fine-tune, export and measure a small network on real handwritten digits.

    Takes one to three minutes on two cores.
    """
    from fxprune.demo import demo_view, run_demo

    result = run_demo(out, seed=seed, watcher=_steps())
    _result(demo_view(result), result.as_json(), as_json)
    _say(
        f"{result.seconds:.0f} s; everything is in {out}: start with {result.picture} and {result.result.paths.report}"
    )


@app.command(
    epilog="Examples:\n\n"
    "  fxprune train recipe.yaml\n\n"
    "  fxprune train recipe.yaml --out runs/trial --set sparse.lr=0.1 --set method.lam=1e-3\n\n"
    "  torchrun --nproc-per-node 2 -m fxprune train recipe.yaml --resume"
)
def train(
    recipe: o.RecipePath,
    out: o.RunFolder = None,
    resume: o.Resume = False,
    changes: o.Changes = None,
    allow_pickle: o.AllowPickle = False,
    as_json: o.Json = False,
) -> None:
    """Train a model sparse, prune it and fine-tune it, as a recipe says; one process or several."""
    from fxprune.report.steps import SILENT
    from fxprune.training.record import record_sheet
    from fxprune.training.run import train as run

    speaks = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started
    steps = _steps() if speaks else SILENT
    record = run(
        recipe, out=out, changes=changes or (), resume=resume, allow_pickle=allow_pickle, watcher=steps
    )
    if speaks:
        _result(record_sheet(record).rich(), record.to_json(), as_json)


# --- what the commands share -----------------------------------------------------------------


def _stderr() -> Console:
    return Stderr()


def _steps() -> Steps:
    return Steps(_stderr())


def _say(text: str) -> None:
    _stderr().print(terminal(text), markup=False, highlight=False, soft_wrap=True)


def _open(
    model: str,
    weights: Path | None,
    inputs: list[str] | None,
    allow_pickle: bool,
    *,
    writes: Path | None = None,
) -> Opened:
    with _steps().step(f"load {model}") as ticks:
        from fxprune.models.inputs import describe_inputs
        from fxprune.pipeline import open_model
        from fxprune.support.files import check_writable

        if writes is not None:
            check_writable(writes)  # before minutes of work, not after
        opened = open_model(model, weights=weights, inputs=inputs or (), allow_pickle=allow_pickle)
        ticks.note(f"weights {opened.weights}; input {describe_inputs(opened.inputs)}")
    return opened


def _trace(opened: Opened) -> Trace:
    with _steps().step("trace") as ticks:
        from fxprune.graph.trace import trace
        from fxprune.report.words import describe_trace

        traced = trace(opened.model, opened.inputs)
        ticks.note(describe_trace(traced))
    return traced


def _write(path: Path, text: str) -> None:
    from fxprune.support.files import write_text

    write_text(path, text)
    _say(f"wrote {path}")


def _result(shown: RenderableType, data: object, as_json: bool) -> None:
    """Print for a person, or for a script."""
    if as_json:
        print(data if isinstance(data, str) else json.dumps(data, indent=1))
    elif isinstance(shown, str):
        print(terminal(shown))
    else:
        # A pipe has no width of its own; names should not be folded for its sake.
        Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(shown)
