"""The engine's speed beside that of an earlier commit: both run in turn, and ratios are taken within each turn.

    python tools/bench_engine.py --against COMMIT                 # models, table into tools/results/ENGINE.md

The package of the commit is unpacked beside the present one.  Each of the two answers in a process of its own that
stays alive for a model; they take turns, the one that begins alternates, and the ratio of a step is taken between
the two runs of a turn, so that what else the machine does weighs on both.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["MODELS", "compared", "section"]

MODELS = (
    *("resnet50", "vit_b_16", "densenet121", "swin_t", "convnext_tiny", "efficientnet_b0"),
    *("residual:200", "dense:32"),
)
STEPS = ("couple", "plan", "slim", "total")
TOOLS = Path(__file__).resolve().parent
ROOT = TOOLS.parent

Turn = Mapping[str, Mapping[str, float]]
"""Seconds by step, of ``new`` and of ``old``."""


def compared(commit: str, models: Sequence[str], turns: int) -> Iterator[dict[str, object]]:
    """The seconds of every turn, a model at a time.

    Args:
        commit: What git knows the earlier state by.
        models: Names as ``bench_engine`` takes them.
        turns: How often each is measured.
    """
    with tempfile.TemporaryDirectory() as folder:
        packed = subprocess.run(
            ["git", "archive", commit, "fxprune"], cwd=ROOT, capture_output=True, check=True
        ).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")
        for model in models:
            with _engine(ROOT, model) as new, _engine(Path(folder), model) as old:
                yield {"model": model, "turns": [_turn({"new": new, "old": old}, k) for k in range(turns)]}


@contextmanager
def _engine(package: Path, model: str) -> Iterator[subprocess.Popen[str]]:
    """A process that measures this package whenever it is asked, warm."""
    # What the tools themselves import must not bring the other package along.
    path = {"PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(TOOLS / "bench_engine.py"), "--answer", model]
    with subprocess.Popen(
        command, env={**os.environ, **path}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _turn(engines: Mapping[str, subprocess.Popen[str]], number: int) -> Turn:
    order = sorted(engines, reverse=bool(number % 2))
    taken = {name: _ask(engines[name]) for name in order}
    return {name: taken[name] for name in sorted(taken)}


def _ask(engine: subprocess.Popen[str]) -> dict[str, float]:
    assert engine.stdin is not None and engine.stdout is not None
    engine.stdin.write("\n")
    engine.stdin.flush()
    answer = engine.stdout.readline()
    if not answer:
        raise RuntimeError(f"an engine ended with code {engine.wait()}")
    return dict(json.loads(answer))


def section(commit: str, note: str, records: Sequence[Mapping[str, object]]) -> str:
    """What was measured as a section of a page.

    Args:
        commit: The earlier state.
        note: On what it was measured.
        records: As ``compared`` yields them.
    """
    lines = [
        f"## Against {commit}",
        "",
        f"`python tools/bench_engine.py --against {commit}` wrote this section. {note}",
        "Seconds now and then, and the ratio within each turn: above 1 the engine is slower than it was.",
        "",
        "| model | " + " | ".join(f"{s} s, now / then | ratio" for s in STEPS) + " |",
        "|" + "---|" * (1 + 2 * len(STEPS)),
    ]
    for record in records:
        turns = record["turns"]
        assert isinstance(turns, list)
        lines.append(f"| {record['model']} | " + " | ".join(_cells(turns, step) for step in STEPS) + " |")
    return "\n".join(lines) + "\n"


def _cells(turns: Sequence[Turn], step: str) -> str:
    new, old = ([turn[name][step] for turn in turns] for name in ("new", "old"))
    ratios = sorted(a / b for a, b in zip(new, old, strict=True))
    middle = statistics.median(ratios)
    seconds = f"{statistics.median(new):.3f} / {statistics.median(old):.3f}"
    return f"{seconds} | {middle:.2f} ({ratios[0]:.2f}..{ratios[-1]:.2f})"
