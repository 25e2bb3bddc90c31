"""What a convolution costs in onnxruntime on this machine, by its widths: ``python tools/runtime_facts.py``.

Chains of two and of six equal convolutions (ReLU behind each, weights of their own) are timed in turn, in CPU time of
one thread; a quarter of the difference is what one costs, without conversions of layout at the ends.  Written are
nanoseconds and the cost relative to the multiply-accumulates, where 1 is a 3x3 (or 1x1) convolution of 128 channels.
``fxprune/targets.py`` holds the facts that follow; this table is where they come from.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
from machine_note import machine_note
from onnx import TensorProto, helper, numpy_helper

from fxprune.onnx.memory_probe import session_options

RESULTS = Path(__file__).resolve().parent / "results"
SHORT, LONG = 2, 6

# kind: kernel, pixels along a side, widths as (channels, channels of a group)
KINDS: dict[str, tuple[int, int, list[tuple[int, int]]]] = {
    "3x3": (
        3,
        28,
        [(c, c) for c in (8, 12, 15, 16, 24, 28, 30, 32, 40, 48, 60, 62, 64, 96, 97, 98, 100, 112, 127, 128)],
    ),
    "1x1": (
        1,
        28,
        [(c, c) for c in (8, 12, 15, 16, 24, 30, 32, 48, 60, 62, 64, 96, 97, 98, 100, 112, 127, 128)],
    ),
    "depthwise 3x3": (
        3,
        56,
        [(c, 1) for c in (8, 12, 16, 24, 30, 32, 48, 60, 62, 64, 97, 98, 100, 112, 127, 128)],
    ),
    "grouped 3x3": (3, 28, [(192, g) for g in (2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 192)]),
}


def chain(channels: int, group: int, kernel: int, side: int, length: int) -> bytes:
    """A model of some equal convolutions, serialized."""
    random = np.random.default_rng(0)
    nodes, weights = [], []
    for k in range(length):
        shape = (channels, group, kernel, kernel)
        scale = 1 / np.sqrt(group * kernel**2)
        numbers = (random.standard_normal(shape) * scale).astype(np.float32)
        weights += [
            numpy_helper.from_array(numbers, f"w{k}"),
            numpy_helper.from_array(numbers[:, 0, 0, 0], f"b{k}"),
        ]
        convolution = helper.make_node(
            *("Conv", [f"x{k}", f"w{k}", f"b{k}"], [f"y{k}"]), group=channels // group, pads=[kernel // 2] * 4
        )
        nodes += [convolution, helper.make_node("Relu", [f"y{k}"], [f"x{k + 1}"])]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, side, side])
        for name in ("x0", f"x{length}")
    ]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


def runner(model: bytes, channels: int, side: int) -> Callable[[], float]:
    """Times one call, in seconds of this thread."""
    session = ort.InferenceSession(model, session_options(1), providers=["CPUExecutionProvider"])
    feed = {"x0": np.random.default_rng(1).standard_normal((1, channels, side, side)).astype(np.float32)}

    def run() -> float:
        began = time.thread_time()
        session.run(None, feed)
        return time.thread_time() - began

    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    for kind, (kernel, side, widths) in KINDS.items():
        runs = {
            (c, g, n): runner(chain(c, g, kernel, side, n), c, side) for c, g in widths for n in (SHORT, LONG)
        }
        times: dict[tuple[int, int, int], list[float]] = {key: [] for key in runs}
        for _ in range(options.rounds):
            for key, run in runs.items():
                times[key].append(run())
        best = {key: float(np.percentile(t, 25)) for key, t in times.items()}
        for c, g in widths:
            each = (best[c, g, LONG] - best[c, g, SHORT]) / (LONG - SHORT)
            macs = c * g * kernel**2 * side**2
            rows.append({"kind": kind, "channels": c, "group": g, "us": each * 1e6, "macs": macs})
            print(
                f"{kind:14} {c:4} in groups of {g:3}: {each * 1e6:8.1f} us, {macs / each / 1e9:6.1f} GMAC/s",
                flush=True,
            )
    (options.out / "runtime_facts.json").write_text(json.dumps(rows, indent=1) + "\n")
    (options.out / "RUNTIME.md").write_text(page(rows, options.rounds))


def page(rows: list[dict[str, object]], rounds: int) -> str:
    """The table."""
    lines = [
        "# What a convolution costs in onnxruntime by its widths",
        "",
        f"`python tools/runtime_facts.py` wrote this: lower quartile of {rounds} interleaved rounds, CPU time of one thread, "
        f"batch 1. {machine_note()}.",
        "",
        "| kind | channels | of a group | microseconds | GMAC/s |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        us, macs = float(str(row["us"])), float(str(row["macs"]))
        lines.append(
            f"| {row['kind']} | {row['channels']} | {row['group']} | {us:.1f} | {macs / us / 1e3:.1f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
