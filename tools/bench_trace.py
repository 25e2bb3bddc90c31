"""Where the time of ``fxprune.trace`` goes, and what would change it.

    python tools/bench_trace.py                            # tools/results/TRACE.md and trace.json
    python tools/bench_trace.py --models resnet50 --turns 5

Processor time of one thread.  *Parts*: the stack is looked at a thousand times a second (of those that the system grants)
while a warm trace runs, and each look counts for the first part of ``PARTS`` that has a frame in the stack; so shape
arithmetic that an operator asks for on fake tensors is symbolic sizes, and a stack formatted for a node is source lines.
*Tried*: everything in turn, the order turning round each time, and the ratio to fxprune's own way within each turn.
A way that gives another kind of graph, or one of another length, is named with what it gives; one that takes 2.5 times as
long is taken once.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import logging
import signal
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType

import torch
from machine_note import machine_note
from torch import fx, nn

from fxprune.graph import torch_export
from fxprune.graph import trace as tracing

MODELS = ("resnet50", "mobilenet_v3_large", "vit_b_16", "densenet121")
ROOT = Path(__file__).resolve().parent.parent

PARTS: Mapping[str, Callable[[str, str], bool]] = {
    "source lines": lambda file, name: file.endswith("_traceback.py") or name == "_from_forward_on",
    "code written and compiled": lambda file, name: name == "recompile" and file.endswith("graph_module.py"),
    "symbolic sizes": lambda file, _: file.endswith(("symbolic_shapes.py", "sym_node.py")) or "sympy" in file,
    "shapes on fake tensors": lambda file, _: "torch/_subclasses/" in file,
    "nodes and what they note": lambda _, name: name in ("create_node", "create_proxy", "track_tensor_tree"),
    "modes, dispatch, the model's own code": lambda _, name: name == "dispatch_trace",
    "program made a module": lambda _, name: name == "_as_module",
    "passes and checks of torch.export": lambda file, _: "torch/export/" in file or "torch/_export/" in file,
    "fxprune": lambda *_: True,
}
"""Parts in the order in which they are asked, each by file and function of a frame."""

Way = Callable[[], contextlib.AbstractContextManager[object]]


@contextlib.contextmanager
def _put(owner: object, name: str, value: object) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _export_with(**options: object) -> Way:
    export = torch.export.export
    return lambda: _put(torch.export, "export", lambda *a, **given: export(*a, **{**given, **options}))


def _draft() -> contextlib.AbstractContextManager[object]:
    def export(*args: object, dynamic_shapes: object, strict: bool) -> object:
        return torch.export.draft_export(*args, dynamic_shapes=dynamic_shapes, strict=strict)  # type: ignore[arg-type]

    return _put(torch.export, "export", export)


def _named_batch() -> contextlib.AbstractContextManager[object]:
    automatic = torch_export._shapes
    batch = torch.export.Dim("batch", min=2)

    def shapes(*args: object) -> object:
        return {name: None if row is None else {0: batch} for name, row in automatic(*args).items()}  # type: ignore[arg-type]

    return _put(torch_export, "_shapes", shapes)


def _lazily() -> contextlib.AbstractContextManager[object]:
    from torch.fx._lazy_graph_module import _use_lazy_graph_module

    return _use_lazy_graph_module(True)


def _no_code() -> contextlib.AbstractContextManager[object]:
    """No graph is ever run: what all the writing of code costs, not a way to trace."""

    def recompile(module: fx.GraphModule) -> None:
        module._code, module._lineno_map, module._prologue_start = "", {}, 0
        if hasattr(module._graph._codegen, "pytree_info"):
            module._in_spec = module._graph._codegen.pytree_info.in_spec
            module._out_spec = module._graph._codegen.pytree_info.out_spec

    return _put(fx.GraphModule, "recompile", recompile)


def _no_cache() -> contextlib.AbstractContextManager[object]:
    import torch._dynamo

    return _put(torch._dynamo.config, "fake_tensor_cache_enabled", False)


OWN = "as fxprune does"
SLOW = 2.5
"""A way that takes so many times as long is taken once."""

WAYS: Mapping[str, Way] = {
    OWN: contextlib.nullcontext,
    "without the shortcuts of `graph/shortcuts.py`": lambda: _put(
        tracing, "shortcuts", contextlib.nullcontext
    ),
    "a fixed batch": lambda: _put(tracing, "_dynamic", lambda *_: "not tried"),
    "`strict=True`": _export_with(strict=True),
    "`draft_export`": _draft,
    "`prefer_deferred_runtime_asserts_over_guards`": _export_with(
        prefer_deferred_runtime_asserts_over_guards=True
    ),
    "`Dim('batch')` in place of `Dim.AUTO`": _named_batch,
    "no source lines at all (`fx.config.do_not_emit_stack_traces`)": lambda: _put(
        fx.config, "do_not_emit_stack_traces", True
    ),
    "`_use_lazy_graph_module`": _lazily,
    "no code written at all (a bound)": _no_code,
    "under `torch.no_grad()`": torch.no_grad,
    "without torch's cache of fake results": _no_cache,
}


def _seconds(run: Callable[[], object]) -> float:
    gc.collect()
    start = time.process_time()
    run()
    return time.process_time() - start


def _parts(model: nn.Module, x: torch.Tensor, turns: int) -> dict[str, float]:
    """The share of each part of the looks at some warm traces."""
    looks: Counter[str] = Counter()

    def look(_number: int, frame: FrameType | None) -> None:
        stack = []
        while frame is not None:
            stack.append((frame.f_code.co_filename, frame.f_code.co_name))
            frame = frame.f_back
        looks[next(part for part, of in PARTS.items() if any(of(*place) for place in stack))] += 1

    before = signal.signal(signal.SIGPROF, look)
    try:
        for _ in range(turns):
            gc.collect()
            signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)
            tracing.trace(model, x)
            signal.setitimer(signal.ITIMER_PROF, 0)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    return {part: looks[part] / looks.total() for part in PARTS}


def _exports(model: nn.Module, x: torch.Tensor) -> int:
    """How often one trace asks torch.export."""
    count = 0
    export = torch.export.export

    def counted(*args: object, **options: object) -> object:
        nonlocal count
        count += 1
        return export(*args, **options)  # type: ignore[arg-type]

    with _put(torch.export, "export", counted):
        tracing.trace(model, x)
    return count


def _tried(model: nn.Module, x: torch.Tensor, turns: int) -> dict[str, dict[str, object]]:
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    gives: dict[str, str] = {}
    length = len(tracing.trace(model, x).graph.graph.nodes)
    for turn in range(turns):
        for name in sorted(WAYS, key=list(WAYS).index, reverse=bool(turn % 2)):
            slow = turn and seconds[name] and seconds[name][0] > SLOW * seconds[OWN][0]
            if slow or (name in gives and not seconds[name]):
                continue
            try:
                with WAYS[name]():
                    made: list[tracing.Trace] = []
                    taken = _seconds(lambda: made.append(tracing.trace(model, x)))  # noqa: B023  called at once
            except Exception as error:  # noqa: BLE001  a way that fails is a row of the table
                gives[name] = (
                    f"{type(error).__name__}: {str(error).splitlines()[0][:60] if str(error) else ''}"
                )
                continue
            seconds[name].append(taken)
            nodes = len(made[0].graph.graph.nodes)
            usual = made[0].kind == "export" and made[0].dynamic_batch and nodes == length
            gives[name] = (
                ""
                if usual
                else f"{made[0].kind}, batch {'free' if made[0].dynamic_batch else 'fixed'}, {nodes} nodes"
            )
    return {name: {"seconds": seconds[name], "gives": gives[name]} for name in WAYS}


def _stored(model: nn.Module, x: torch.Tensor, turns: int) -> dict[str, list[float]]:
    """Seconds to write and to read torch's own file of the program, without weights, and to make it a module."""
    from fxprune.models.copies import on_meta

    bare, shapes = on_meta(model), torch_export._shapes(model, (x,), {})
    program = torch.export.export(
        bare, (x.repeat(2, 1, 1, 1).to("meta"),), dynamic_shapes=shapes, strict=False
    )
    rows: dict[str, list[float]] = {"save": [], "load": []}
    for _ in range(turns):
        file = io.BytesIO()
        rows["save"].append(_seconds(lambda: torch.export.save(program, file)))  # noqa: B023  called at once
        file.seek(0)
        rows["load"].append(_seconds(lambda: torch.export.load(file).module(check_guards=False)))  # noqa: B023
    return rows


def _measured(name: str, turns: int) -> dict[str, object]:
    import torchvision

    model, x = torchvision.models.get_model(name).eval(), torch.randn(1, 3, 224, 224)
    first = _seconds(lambda: tracing.trace(model, x))
    return {
        "model": name,
        "first": first,
        "exports": _exports(model, x),
        "parts": _parts(model, x, turns),
        "tried": _tried(model, x, turns),
        "stored": _stored(model, x, turns),
    }


def _median(record: Mapping[str, object], way: str) -> float:
    return float(statistics.median(record["tried"][way]["seconds"]))  # type: ignore[index]


def _parts_table(records: list[dict[str, object]]) -> str:
    lines = [
        "| model | warm trace s | exports a trace | " + " | ".join(PARTS) + " |",
        "|" + "---|" * (3 + len(PARTS)),
    ]
    for record in records:
        total = _median(record, OWN)
        parts = record["parts"]
        assert isinstance(parts, dict)
        cells = (f"{total * parts[part]:.2f} ({parts[part]:.0%})" for part in PARTS)
        lines.append(f"| {record['model']} | {total:.2f} | {record['exports']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _tried_table(records: list[dict[str, object]]) -> str:
    names = [str(record["model"]) for record in records]
    lines = ["| way | " + " | ".join(names) + " | what it gives otherwise |", "|" + "---|" * (2 + len(names))]
    for way in WAYS:
        cells, gives = [], []
        for record in records:
            rows = record["tried"]
            assert isinstance(rows, dict)
            row, own = rows[way], rows[OWN]["seconds"]
            gives += [row["gives"]] if row["gives"] else []
            ratios = sorted(a / b for a, b in zip(row["seconds"], own, strict=False))
            cells.append(
                f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}..{ratios[-1]:.2f})" if ratios else "fails"
            )
        lines.append(f"| {way} | " + " | ".join([*cells, "; ".join(dict.fromkeys(gives))]) + " |")
    return "\n".join(lines)


def _stored_table(records: list[dict[str, object]]) -> str:
    lines = ["| model | warm trace s | write s | read and make a module s | read / trace |", "|" + "---|" * 5]
    for record in records:
        stored = record["stored"]
        assert isinstance(stored, dict)
        own, save, load = _median(record, OWN), *(statistics.median(stored[k]) for k in ("save", "load"))
        lines.append(f"| {record['model']} | {own:.2f} | {save:.2f} | {load:.2f} | {load / own:.2f} |")
    return "\n".join(lines)


NO_CACHE = """There is no cache of traces. Torch's own file of a program takes about as long to read as the model takes to trace (the table);
a form of our own would have to make torch's symbolic sizes again by its private parts. And a key that never hits wrongly cannot be made of the
classes of the modules alone: what `forward` calls and reads (helpers in other files, globals, patched functions, the environment) decides about
the graph as well. Who plans one model many times in a process keeps its `Trace`."""


def _page(records: list[dict[str, object]], turns: int) -> str:
    command = (
        f"python tools/bench_trace.py --models {' '.join(str(r['model']) for r in records)} --turns {turns}"
    )
    note = f"{machine_note()}; seconds of processor time, one thread, medians of {turns} turns and the range of ratios."
    parts = [
        f"# Where the time of a trace goes\n\n`{command}` wrote this. {note} 224 px, warm.",
        "## Parts",
        _parts_table(records),
        "## Tried",
        "Time of `trace` by other ways, over fxprune's own in the same turn: below 1 the way is faster. What takes 2.5 times as long is taken once.",
        _tried_table(records),
        "## A cache on disk",
        _stored_table(records),
        NO_CACHE,
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "tools" / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    options.out.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, object]] = []
    for name in options.models:
        records.append(_measured(name, options.turns))
        print(_parts_table(records).splitlines()[-1], flush=True)
        (options.out / "trace.json").write_text(json.dumps(records, indent=1) + "\n")
        (options.out / "TRACE.md").write_text(_page(records, options.turns))


if __name__ == "__main__":
    main()
