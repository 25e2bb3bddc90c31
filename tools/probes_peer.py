"""Torch-Pruning on the same one-op probes: ``python tools/probes_peer.py`` writes ``results/PROBES.md``.

From every probe whose channels may go, arbitrary channels of the layer before the operator are removed, three
times, by both tools.  What must come out is known: fxprune's slim model equals the dense one with these channels
zeroed (``tools/probes.py`` and the tests check that).  Torch-Pruning is *right* where its model gives the same,
*crashes* where building its graph, pruning or running the pruned model raises, and is *silently wrong* where another
result comes out.  Probes that fxprune itself refuses have no truth to compare with and are left out.  Needs the
``peers`` extra.
"""

from __future__ import annotations

import copy
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import torch
from machine_note import machine_note
from torch import nn

from fxprune.errors import PlanError
from fxprune.plan import plan_removal
from fxprune.slim import slim
from fxprune.trace import Trace, call_arguments

ROOT = Path(__file__).resolve().parent.parent
DRAWS = 3
SAME = 1e-4
"""Relative difference in float32 that rounding explains."""

LIMIT_S = 20
"""Seconds for one removal from a net of two layers; a graph that is not built by then counts as a crash."""

VERDICTS = ("right", "crashes", "silently wrong")


def _output(model: nn.Module, example: object) -> torch.Tensor:
    args, kwargs = call_arguments(example)  # type: ignore[arg-type]
    with torch.no_grad():
        result = model.eval()(*args, **kwargs)
    assert isinstance(result, torch.Tensor)
    return result


def _peer(traced: Trace, example: object, gone: Sequence[int]) -> torch.Tensor:
    """Torch-Pruning's result without these channels of the first layer."""
    import torch_pruning as tp

    model = copy.deepcopy(traced.model)
    first = model.get_submodule("first")
    prune = tp.prune_linear_out_channels if isinstance(first, nn.Linear) else tp.prune_conv_out_channels
    args, kwargs = call_arguments(example)  # type: ignore[arg-type]
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=kwargs or args)
    graph.get_pruning_group(first, prune, idxs=list(gone)).prune()
    return _output(model, example)


def _verdict(traced: Trace, example: object, removals: Sequence[Sequence[int]]) -> str | None:
    """What Torch-Pruning makes of a probe, the worst of its removals; None where fxprune refuses them all."""
    found = []
    for gone in removals:
        try:
            truth = _output(slim(traced, plan_removal(traced, {("first.weight", 0): list(gone)})), example)
        except PlanError:
            continue
        signal.alarm(LIMIT_S)
        try:
            given = _peer(traced, example, gone)
        except Exception:  # noqa: BLE001 - however it fails, it is no result
            found.append("crashes")
            break
        finally:
            signal.alarm(0)
        scale = float(truth.abs().max())
        same = given.shape == truth.shape and float((given - truth).abs().max()) <= SAME * scale
        found.append("right" if same else "silently wrong")
    return max(found, key=VERDICTS.index) if found else None


def _too_long(*_: object) -> None:
    raise TimeoutError


def main() -> int:
    """Try every probe and write the table."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, _too_long)
    sys.path.insert(0, str(ROOT / "tests"))
    probes, probing = import_module("engine.probe_nets").PROBES, import_module("engine.probing")
    rows: list[tuple[str, str]] = []
    for probe in probes:
        if probe.axis != ("first.weight", 0) or probe.verdict == "pinned":
            continue
        traced, example = probing.prepared(probe)
        verdict = _verdict(traced, example, [g.tolist() for g in probing.subsets(probe, traced, DRAWS, 0)])
        if verdict is not None:
            rows.append((probe.name, verdict))
            print(f"{probe.name:45} {verdict}", flush=True)
    counts = Counter(verdict for _, verdict in rows)
    summary = ", ".join(f"{counts[v]} {v}" for v in VERDICTS)
    lines = [
        "# One-op probes: Torch-Pruning",
        "",
        f"`python tools/probes_peer.py` wrote this: {machine_note()}.",
        "",
    ]
    lines += [f"Of {len(rows)} probes that fxprune does right, Torch-Pruning 1.6.1: {summary}.", ""]
    lines += [
        "| what stands between two layers | Torch-Pruning |",
        "|---|---|",
        *(f"| {n} | {v} |" for n, v in rows),
    ]
    out = ROOT / "results" / "PROBES.md"
    out.write_text("\n".join(lines) + "\n", "utf-8")
    print(f"{summary}; {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
