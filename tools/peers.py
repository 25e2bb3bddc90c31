"""fxprune beside its peers, from one command: ``python tools/peers.py`` (parts: ``probes``, ``nets``, ``speed``).

* ``probes`` writes ``tools/results/PROBES.md``: one operator between two layers, arbitrary channels of the first removed.
  What must come out is known: fxprune's slim model equals the dense one with these channels zeroed
  (``tools/probes.py`` and the tests check that).  Probes that fxprune refuses have no truth and are left out.
* ``nets`` writes ``tools/results/PEERS_NETS.md``: random nets, half of the channels.  What a tool kept is read off
  the weights of its model; the dense model under masks, which knows nothing but that, says what must come out.
* ``speed`` is ``tools/bench_engine.py``.

Every attempt runs in a process of its own and is given up after 90 s.  Verdicts: *right*; *refused*, the tool's own
error says so; *crash*, any other error, in the pruned model too; *silently wrong*; *no answer* in time; *nothing
pruned*; *not judged*, where the laws do not say all of what must come out.  Needs the ``peers`` extra, see ``tools/peer_tools.py``.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from machine_note import machine_note
from peer_tools import FXPRUNE, PEERS, Call, Tool
from torch import nn

from fxprune.coupling.couple import analyse
from fxprune.errors import FxpruneError
from fxprune.graph.trace import Trace, call_arguments, trace
from fxprune.planning.plan import remove
from fxprune.plans import Axis, Cost, Plan
from fxprune.proof.masks.masked import compare
from fxprune.slimming.slim import slim
from fxprune.testing import random_net
from fxprune.testing.probes import PROBES
from fxprune.testing.probes.examine import prepared, subsets

ROOT = Path(__file__).resolve().parent.parent
LIMIT_S = 90
DRAWS = 3
SAME = 1e-4
"""Relative difference in float32 that rounding explains."""

EXACT = 1e-9
"""The same in float64, relative to what the removal does."""

VERDICTS = ("right", "nothing pruned", "not judged", "refused", "no answer", "crash", "silently wrong")
"""From the best to the worst."""


def in_process(tool: Tool, attempt: Callable[[], str]) -> str:
    """The verdict of an attempt that runs in a process of its own, where it may hang or die."""
    mine, theirs = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_attempt, args=(tool, attempt, theirs))
    child.start()
    theirs.close()
    try:
        return str(mine.recv()) if mine.poll(LIMIT_S) else "no answer"
    except EOFError:
        return "crash"
    finally:
        child.kill()
        child.join()


def _attempt(tool: Tool, attempt: Callable[[], str], report: Connection) -> None:
    try:
        verdict = attempt()
    except Exception as error:  # noqa: BLE001 - however it fails, it is no result
        verdict = "refused" if tool.refuses(error) else "crash"
    report.send(verdict)


# --- probes --------------------------------------------------------------------------------------


def _output(model: nn.Module, example: object) -> torch.Tensor:
    args, kwargs = call_arguments(example)  # type: ignore[arg-type]
    with torch.no_grad():
        result = model.eval()(*args, **kwargs)
    assert isinstance(result, torch.Tensor)
    return result


def _truths(
    traced: Trace, example: object, removals: Sequence[list[int]]
) -> list[tuple[list[int], torch.Tensor]]:
    """What must come out, for every removal that fxprune does not refuse."""
    found = []
    for gone in removals:
        try:
            small = slim(traced, remove(traced, {("first.weight", 0): gone}))
        except FxpruneError:
            continue
        found.append((gone, _output(small, example)))
    return found


def _removed(tool: Tool, traced: Trace, example: object, gone: list[int], truth: torch.Tensor) -> str:
    args, kwargs = call_arguments(example)  # type: ignore[arg-type]
    model = copy.deepcopy(traced.model)
    whole = sum(p.numel() for p in model.parameters())
    small = tool.remove(Call(model, args, kwargs), "first", gone)
    if sum(p.numel() for p in small.parameters()) == whole:
        return "nothing pruned"
    given = _output(small, example)
    scale = float(truth.abs().max())
    same = given.shape == truth.shape and float((given - truth).abs().max()) <= SAME * scale
    return "right" if same else "silently wrong"


def probes() -> str:
    """Every probe by every peer, the worst of its removals."""
    rows: list[tuple[str, list[str]]] = []
    for probe in PROBES:
        if probe.axis != ("first.weight", 0):
            continue
        traced, example = prepared(probe)
        found = analyse(traced).coupling
        if found.pinned[found.axes[probe.axis]].all():
            continue
        drawn = [g.tolist() for g in subsets(probe, traced, DRAWS, 0)]
        truths = _truths(traced, example, drawn)
        if not truths:
            continue
        worst = []
        for tool in PEERS:
            tried = [
                in_process(tool, partial(_removed, tool, traced, example, gone, truth))
                for gone, truth in truths
            ]
            worst.append(max(tried, key=VERDICTS.index))
        rows.append((probe.name, worst))
        print(f"{probe.name:45} {'   '.join(worst)}", flush=True)
    head = (
        f"Arbitrary channels removed {DRAWS} times from each of {len(rows)} nets with one operator between two layers, "
        "which fxprune does right; the worst verdict counts."
    )
    return _page("One-op probes", head, "what stands between two layers", PEERS, rows)


# --- random nets -----------------------------------------------------------------------------------


def kept(dense: nn.Module, small: nn.Module) -> dict[Axis, tuple[int, ...]]:
    """What is left of every axis, read off the weights: a slice came from the one that holds all of its numbers.

    Raises:
        ValueError: A slice is of no dense one, or of several.
    """
    found: dict[Axis, tuple[int, ...]] = {}
    before = dict(dense.named_parameters())
    for name, now in small.named_parameters():
        old = before[name]
        for dim in range(old.ndim) if old.ndim == now.ndim else ():
            if old.shape[dim] == now.shape[dim]:
                continue
            slices = [old.select(dim, k).contiguous() for k in range(old.shape[dim])]
            held = [
                [
                    k
                    for k, one in enumerate(slices)
                    if bool(torch.isin(now.select(dim, j).contiguous(), one).all())
                ]
                for j in range(now.shape[dim])
            ]
            if any(len(ks) != 1 for ks in held):
                raise ValueError(f"{name} is no part of what it was")
            found[name, dim] = tuple(ks[0] for ks in held)
    return found


def _mark(model: nn.Module) -> None:
    """Give every number of the weights a value of its own, also where all are one (norms): they say where a slice came from."""
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.rand(parameter.shape, generator=torch.Generator().manual_seed(0))
            parameter.add_(1e-3 * noise.to(parameter))


def _halved(tool: Tool, model: nn.Module, inputs: tuple[torch.Tensor, ...], outputs: Sequence[str]) -> str:
    dense = copy.deepcopy(model)  # the tool may prune the model itself
    small = tool.halve(Call(model, inputs, {}, outputs)).eval()
    try:
        left = kept(dense, small)
    except ValueError:
        return "silently wrong"
    if not left:
        return "nothing pruned"
    with torch.no_grad():
        small(*(t.clone() for t in inputs))
    found = compare(dense, Plan(left, Cost(0, 0), Cost(0, 0), ""), small, inputs)
    if found.fault or found.error > EXACT:
        return "silently wrong"
    return "right" if found.judged == 1 else "not judged"


def _outputs(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> list[str]:
    """Layers of which no channel may go."""
    found = analyse(trace(model, inputs)).coupling
    pinned = {name for (name, dim), units in found.axes.items() if dim == 0 and found.pinned[units].all()}
    layers = (nn.Linear, nn.modules.conv._ConvNd)
    return [p for p, m in model.named_modules() if isinstance(m, layers) and f"{p}.weight" in pinned]


def nets(seeds: range) -> str:
    """Random nets by fxprune and every peer."""
    tools, rows = (FXPRUNE, *PEERS), list[tuple[str, list[str]]]()
    for seed in seeds:
        model, inputs = random_net(seed).build()
        _mark(model)
        try:
            outputs = _outputs(model, inputs)
        except FxpruneError:
            outputs = []
        verdicts = [in_process(t, partial(_halved, t, model, inputs, outputs)) for t in tools]
        rows.append((str(seed), verdicts))
        print(f"seed {seed:5} {'   '.join(verdicts)}", flush=True)
    head = f"Half of the channels of {len(rows)} random nets (`fxprune.testing`), by magnitude."
    return _page("Random nets, fxprune and its peers", head, "seed", tools, rows)


def _page(
    title: str, head: str, what: str, tools: Sequence[Tool], rows: Sequence[tuple[str, list[str]]]
) -> str:
    counts = [Counter(verdicts[k] for _, verdicts in rows) for k in range(len(tools))]
    names = [tool.name for tool in tools]
    lines = [f"# {title}", "", f"`python tools/peers.py` wrote this: {machine_note()}.", "", head, ""]
    lines += [f"| verdict | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    lines += [
        f"| {v} | {' | '.join(str(c[v]) for c in counts)} |" for v in VERDICTS if any(c[v] for c in counts)
    ]
    lines += ["", f"| {what} | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    lines += [f"| {name} | {' | '.join(verdicts)} |" for name, verdicts in rows]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=("probes", "nets", "speed", []), default=[])
    parser.add_argument("--seeds", type=int, default=100, help="random nets")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    parts = options.parts or ["probes", "nets", "speed"]
    if "probes" in parts:
        (ROOT / "tools" / "results" / "PROBES.md").write_text(probes(), "utf-8")
    if "nets" in parts:
        (ROOT / "tools" / "results" / "PEERS_NETS.md").write_text(nets(range(options.seeds)), "utf-8")
    if "speed" in parts:
        return subprocess.run([sys.executable, str(ROOT / "tools" / "bench_engine.py")]).returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
