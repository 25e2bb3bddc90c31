"""Time the engine on one core, side by side with its peers, and how all grow with depth.

    python tools/bench_engine.py                 # models, growth, table and plot into tools/results/
    python tools/bench_engine.py --models resnet50 vit_b_16 --repeats 3
    python tools/bench_engine.py --against COMMIT --repeats 9      # beside an earlier state of itself

What is timed.  fxprune: ``couple`` + ``plan`` (l1, half of the channels, uniform) + ``slim``; the time
of ``torch.export`` itself stands apart.  The peers (``peer_tools.py``): building their
graph, finding what may go, and pruning half of the channels by magnitude.  All run in one process, in turn,
on one thread, and processor time is counted, so that what else the machine does is not; the figure is the
median of the repeats, its spread their range.  A run that has not ended after 90 such seconds is given up.  Needs the ``peers`` extra for the comparison.

Growth is given as the slope of log(seconds) over log(edges of the graph): 1 is linear.  A dense block of n
layers has some n * n / 2 edges, for every layer reads all before it.
"""

from __future__ import annotations

import argparse
import gc
import json
import signal
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from engine_against import MODELS as COMPARED
from engine_against import compared, section
from torch import nn

MODELS = (
    *("resnet50", "resnet152", "vit_b_16", "convnext_base", "efficientnet_b7"),
    *("densenet121", "densenet201", "maxvit_t"),
)
LIMIT = 90
NAMES = {"fxprune": "fxprune", "torch_pruning": "Torch-Pruning", "kirigami": "torch-kirigami"}
TOOLS = tuple(NAMES)
SECTION = "## Against "
ROOT = Path(__file__).resolve().parent.parent


class _Residual(nn.Module):
    """A plain residual net of a given number of convolutions, 16 channels wide."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                *(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
                *(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)),
            )
            for _ in range(layers // 2)
        )
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = torch.relu(x + block(x))
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits


class _Dense(nn.Module):
    """One dense block: every layer reads the concatenation of all before it."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(16 + 8 * k), nn.ReLU(), nn.Conv2d(16 + 8 * k, 8, 3, padding=1))
            for k in range(layers)
        )
        self.head = nn.Linear(16 + 8 * layers, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = [self.stem(x)]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        logits: torch.Tensor = self.head(torch.cat(features, 1).mean((2, 3)))
        return logits


def _build(name: str) -> tuple[nn.Module, torch.Tensor]:
    kind, _, size = name.partition(":")
    if kind == "residual":
        return _Residual(int(size)).eval(), torch.randn(1, 3, 8, 8)
    if kind == "dense":
        return _Dense(int(size)).eval(), torch.randn(1, 3, 8, 8)
    import torchvision

    return torchvision.models.get_model(name).eval(), torch.randn(1, 3, 224, 224)


def _fxprune(model: nn.Module, x: torch.Tensor) -> dict[str, float]:
    import fxprune

    start = time.process_time()
    trace = fxprune.trace(model, x)
    exported = time.process_time()
    gc.collect()  # what torch.export leaves behind is not to be swept while another step is timed
    traced = time.process_time()
    fxprune.couple(trace)
    coupled = time.process_time()
    plan = fxprune.plan(trace, fxprune.Budget(channels=0.5), criterion="l1", scope="local", align=1)
    planned = time.process_time()
    fxprune.slim(trace, plan)
    done = time.process_time()
    return {
        "edges": float(sum(len(node.all_input_nodes) for node in trace.graph.graph.nodes)),
        "export": exported - start,
        "couple": coupled - traced,
        "plan": planned - coupled,
        "slim": done - planned,
        "total": done - traced,
    }


def _peer(number: int, model: nn.Module, x: torch.Tensor) -> dict[str, float]:
    from peer_tools import PEERS, Call

    layers = model.named_modules()
    outputs = [n for n, m in layers if isinstance(m, nn.Linear) and m.out_features in (10, 1000)]
    start = time.process_time()
    PEERS[number].halve(Call(model, (x,), {}, outputs))
    return {"total": time.process_time() - start}


class _TooLong(Exception):
    pass


def _give_up(*_: object) -> None:
    raise _TooLong


def _timed(run: Callable[[nn.Module, torch.Tensor], dict[str, float]], name: str) -> dict[str, float] | str:
    model, x = _build(name)
    signal.signal(signal.SIGPROF, _give_up)
    signal.setitimer(signal.ITIMER_PROF, LIMIT)
    try:
        return run(model, x)
    except _TooLong:
        return f"no answer in {LIMIT} s"
    except Exception as error:  # noqa: BLE001 - the peer's failures are part of the table
        return f"{type(error).__name__}: {str(error).splitlines()[0][:80] if str(error) else ''}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _measure(name: str, repeats: int, peers: bool) -> dict[str, object]:
    """All tools in turn in this process."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    tools: dict[str, Callable[[nn.Module, torch.Tensor], dict[str, float]]] = {
        "fxprune": _fxprune,
        **({t: partial(_peer, k) for k, t in enumerate(TOOLS[1:])} if peers else {}),
    }
    runs: dict[str, list[dict[str, float]]] = {t: [] for t in tools}
    failed: dict[str, str] = {}
    _timed(_fxprune, "residual:2")  # imports and first-call costs stay out of the figures
    for _ in range(repeats):
        for tool, run in tools.items():
            if tool in failed:
                continue
            result = _timed(run, name)
            if isinstance(result, str):
                failed[tool] = result
            else:
                runs[tool].append(result)
    record: dict[str, object] = {"model": name, "repeats": repeats}
    for tool, results in runs.items():
        if results:
            record[tool] = {
                part: {
                    "median": statistics.median(r[part] for r in results),
                    "all": [r[part] for r in results],
                }
                for part in results[0]
            }
        if tool in failed:
            record[f"{tool}_failed"] = failed[tool]
    return record


def _answer(name: str) -> None:
    """Measure the package on this path whenever a line comes in, a first time for nothing."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model, x = _build(name)
    _fxprune(model, x)
    for _ in sys.stdin:
        print(json.dumps(_fxprune(model, x)), flush=True)


def _against(commit: str, names: list[str], turns: int, out: Path) -> None:
    """The section of the page that compares with an earlier commit, written anew after each model."""
    from machine_note import machine_note  # reads the present package: ``_answer`` may run on an earlier one

    records: list[dict[str, object]] = []
    for record in compared(commit, names, turns):
        records.append(record)
        note = f"{machine_note()}; seconds of processor time, one thread, medians of {turns} turns and the range of the ratios."
        text = section(commit, note, records)
        print(text.splitlines()[-1], flush=True)
        data = {"commit": commit, "note": note, "records": records}
        (out / "engine_against.json").write_text(json.dumps(data, indent=1) + "\n")
        page = out / "ENGINE.md"
        above = page.read_text().partition(SECTION)[0].rstrip() if page.exists() else "# Speed of the engine"
        page.write_text(f"{above}\n\n{text}")


def _in_child(name: str, repeats: int, peers: bool) -> dict[str, object]:
    command = [sys.executable, __file__, "--child", name, "--repeats", str(repeats)]
    done = subprocess.run(
        command + ([] if peers else ["--alone"]), capture_output=True, text=True, check=False
    )
    if done.returncode:
        return {
            "model": name,
            "fxprune_failed": done.stderr.strip().splitlines()[-1] if done.stderr else "killed",
        }
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def _median(record: dict[str, object], tool: str, part: str = "total") -> float | None:
    found = record.get(tool)
    return float(found[part]["median"]) if isinstance(found, dict) else None


def _spread(record: dict[str, object], tool: str) -> str:
    """Median and range of a tool's time, or why there is none."""
    found = record.get(tool)
    if not isinstance(found, dict):
        return str(record.get(f"{tool}_failed", "not run"))
    values = found["total"]["all"]
    return f"{statistics.median(values):.2f} ({min(values):.2f}..{max(values):.2f})"


def _table(records: list[dict[str, object]]) -> str:
    lines = [
        "| model | edges | torch.export s | couple s | plan s | slim s | fxprune s | with export s | Torch-Pruning s | ratio | ratio, with export | torch-kirigami s |",
        "|" + "---|" * 12,
    ]
    for r in records:
        edges, *own = (
            _median(r, "fxprune", p) for p in ("edges", "export", "couple", "plan", "slim", "total")
        )
        if any(v is None for v in own):
            lines.append(f"| {r['model']} | {r.get('fxprune_failed')} |")
            continue
        export, couple, plan, slim, total = (v or 0.0 for v in own)
        peer = _median(r, "torch_pruning")
        ratios = ("", "") if peer is None else (f"{peer / total:.1f}x", f"{peer / (export + total):.2f}x")
        cells = (
            *(
                str(r["model"]),
                f"{edges or 0:.0f}",
                f"{export:.2f}",
                f"{couple:.2f}",
                f"{plan:.2f}",
                f"{slim:.2f}",
            ),
            *(
                _spread(r, "fxprune"),
                f"{export + total:.2f}",
                _spread(r, "torch_pruning"),
                *ratios,
                _spread(r, "kirigami"),
            ),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _growth(records: list[dict[str, object]]) -> list[str]:
    """Slopes in the log-log plane over the edges, of nets with at least a hundred of them."""
    found = []
    for kind in ("residual", "dense"):
        rows = [r for r in records if str(r["model"]).startswith(kind + ":")]
        for tool, name in NAMES.items():
            points = [(_median(r, "fxprune", "edges"), _median(r, tool)) for r in rows]
            points = [(e, t) for e, t in points if e is not None and t is not None and e >= 100]
            if len(points) > 1:
                x, y = np.log(np.array(points, float)).T
                slope = np.polyfit(x, y, 1)[0]
                found.append(f"{kind} nets: {name} grows with the {slope:.2f}th power of the number of edges")
    return found


def _plot(records: list[dict[str, object]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from machine_note import machine_note
    from matplotlib import pyplot as plt

    from fxprune.report.palette import LINES  # the present package's, like ``machine_note`` in ``_against``

    figure, axes = plt.subplots(1, 2, figsize=(10, 4))
    for axis, kind in zip(axes, ("residual", "dense"), strict=True):
        rows = [r for r in records if str(r["model"]).startswith(kind + ":")]
        for (tool, label), colour in zip(NAMES.items(), LINES):
            points = [(int(str(r["model"]).split(":")[1]), _median(r, tool)) for r in rows]
            points = [(n, t) for n, t in points if t is not None]
            if points:
                axis.loglog(*zip(*points, strict=True), marker="o", label=label, color=colour)
        axis.set_title(f"{kind} net")
        axis.set_xlabel("layers")
        axis.set_ylabel("seconds of processor time, one core")
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend()
    figure.supxlabel(machine_note(), fontsize=6)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*")
    parser.add_argument("--growth", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--alone", action="store_true", help="leave the peers out")
    parser.add_argument("--out", type=Path, default=ROOT / "tools" / "results")
    parser.add_argument(
        "--against", metavar="COMMIT", help="compare with the package of a commit instead of the peers"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--answer", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(_measure(options.child, options.repeats, not options.alone)))
        return
    if options.answer:
        _answer(options.answer)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    if options.against:
        _against(options.against, options.models or list(COMPARED), options.repeats, options.out)
        return
    names = list(options.models or MODELS)
    if options.growth:
        names += [f"residual:{n}" for n in (50, 100, 200, 400, 800, 1600)]
        names += [f"dense:{n}" for n in (8, 16, 32, 64, 128)]
    records: list[dict[str, object]] = []
    for name in names:
        repeats = options.repeats if ":" not in name else min(options.repeats, 3)
        records.append(_in_child(name, repeats, not options.alone))
        print(_table(records[-1:]).splitlines()[-1], flush=True)
        _write(records, options.out, options.repeats)  # each time: a run that is stopped keeps what it has


def _write(records: list[dict[str, object]], out: Path, repeats: int) -> None:
    """Records, table and plot of what was measured so far."""
    from machine_note import machine_note

    note = f"{machine_note()}; seconds of processor time, one thread, median of {repeats} (growth: 3) and their range."
    (out / "engine.json").write_text(json.dumps({"note": note, "records": records}, indent=1))
    parts = [
        f"# Speed of the engine\n\n`python tools/bench_engine.py` wrote this. {note}",
        "*fxprune s* is couple + plan + slim; the peers' time is their graph, what they find in it, and pruning.",
        _table(records),
        *(f"* {line}" for line in _growth(records)),
        "![growth with depth](engine_growth.png)",
    ]
    page = out / "ENGINE.md"
    below = "".join(page.read_text().partition(SECTION)[1:]) if page.exists() else ""
    page.write_text("\n\n".join([*parts, below]).rstrip() + "\n")
    _plot(records, out / "engine_growth.png")


if __name__ == "__main__":
    main()
