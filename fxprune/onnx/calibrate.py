"""Calibration: what layers cost in onnxruntime on this machine, measured, as facts to plan by.

Chains of a few and of some more equal layers are timed in turn, in processor time of one thread; the difference is what
one layer costs, without what happens at the ends (conversions of layout, copies).  A minute in all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper

from fxprune.onnx.memory_probe import session_options
from fxprune.targets import Curve, Facts

__all__ = ["Layer", "calibrate", "layer_seconds", "measured_layers"]

SHORT, LONG = 2, 6
"""Layers of the two chains whose difference is taken."""

ROUNDS = 50

LEAST = 0.1
"""Microseconds: what a busy machine cannot tell from nothing."""

SMALL = ("Sigmoid", "Transpose", "Softmax", "Neg", "Gelu", "Abs", "Tanh", "Exp")
"""Run on sixteen entries after a product whose weights fill the caches: what one of them takes is what it takes to begin one."""

BEGUN = len(SMALL) + 3
"""Operators with the slice before them, and what brings their result into the next product."""


@dataclass(frozen=True)
class Layer:
    """A layer that keeps the shape of what it reads.

    Attributes:
        kind: ``"conv"``, ``"gemm"``, ``"gemm, small"`` (with ``SMALL`` after it), ``"add"``, or a layer norm
            of a sum: ``"Add, norm"``, which the runtime fuses, and ``"Sum, norm"``, which it does not.
        width: Channels, or entries of a row.
        group: Channels of a group of a convolution.
        kernel: Pixels along a side of its kernel.
        points: Pixels along a side of its image, or rows.
    """

    kind: str
    width: int
    group: int = 1
    kernel: int = 1
    points: int = 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates; of an addition, or a norm, its elements."""
        if self.kind.startswith("gemm"):
            return self.points * self.width**2
        if "norm" in self.kind:
            return self.points * self.width
        return self.width * self.group * self.kernel**2 * self.points**2

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what it reads and makes."""
        if self.kind in ("conv", "add"):
            return 1, self.width, self.points, self.points
        return (self.points, self.width) if self.kind.startswith("gemm") else (1, self.points, self.width)


def _chain(layer: Layer, length: int) -> bytes:
    """A model of some equal layers with weights of their own, serialized."""
    random = np.random.default_rng(0)
    nodes, weights = [], []

    def constant(name: str, shape: tuple[int, ...], scale: float) -> str:
        numbers = (random.standard_normal(shape) * scale).astype(np.float32)
        weights.append(numpy_helper.from_array(numbers, name))
        return name

    for k in range(length):
        before, after = f"x{k}", f"x{k + 1}"
        if layer.kind == "conv":
            shape = (layer.width, layer.group, layer.kernel, layer.kernel)
            weight = constant(f"w{k}", shape, 1 / np.sqrt(layer.group * layer.kernel**2))
            bias = constant(f"b{k}", (layer.width,), 1.0)
            groups, pads = layer.width // layer.group, [layer.kernel // 2] * 4
            nodes += [helper.make_node("Conv", [before, weight, bias], [f"y{k}"], group=groups, pads=pads)]
            nodes += [helper.make_node("Relu", [f"y{k}"], [after])]
        elif layer.kind.startswith("gemm"):
            weight = constant(f"w{k}", (layer.width, layer.width), 1 / np.sqrt(layer.width))
            bias = constant(f"b{k}", (layer.width,), 1.0)
            product = f"y{k}" if "small" in layer.kind else after
            nodes += [helper.make_node("Gemm", [before, weight, bias], [product])]
            nodes += _small(product, after) if "small" in layer.kind else []
        elif layer.kind == "add":
            nodes += [helper.make_node("Add", [before, "x0"], [after])]
        else:
            scale, shift = (constant(f"{name}{k}", (layer.width,), 1.0) for name in "wb")
            nodes += [helper.make_node(layer.kind.partition(",")[0], [before, "x0"], [f"y{k}"])]
            nodes += [helper.make_node("LayerNormalization", [f"y{k}", scale, shift], [after])]
    if "small" in layer.kind:
        for name, number in (("first", 0), ("end", 16), ("axis", 1)):
            weights.append(numpy_helper.from_array(np.array([number]), name))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, list(layer.shape))
        for name in ("x0", f"x{length}")
    ]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    model: onnx.ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9
    )
    return bytes(model.SerializeToString())


def _small(product: str, after: str) -> list[onnx.NodeProto]:
    """The first entries of a product through operators that hardly do anything; their mean is added to all of it."""
    names = [f"{product}_{n}" for n in range(len(SMALL) + 1)]
    nodes = [helper.make_node("Slice", [product, "first", "end", "axis"], names[:1])]
    nodes += [
        helper.make_node(op, [one], [other]) for op, (one, other) in zip(SMALL, pairwise(names), strict=True)
    ]
    nodes += [helper.make_node("ReduceMean", names[-1:], [f"{product}_mean"], keepdims=1)]
    return [*nodes, helper.make_node("Add", [product, f"{product}_mean"], [after])]


def _runner(layer: Layer, length: int) -> Callable[[], float]:
    """Times one call, in seconds of this thread."""
    session = ort.InferenceSession(
        _chain(layer, length), session_options(1), providers=["CPUExecutionProvider"]
    )
    feed = {"x0": np.random.default_rng(1).standard_normal(layer.shape).astype(np.float32)}

    def run() -> float:
        began = time.thread_time()
        session.run(None, feed)
        return time.thread_time() - began

    return run


def layer_seconds(layers: Sequence[Layer], rounds: int = ROUNDS) -> list[float]:
    """Seconds of processor time that each layer takes, measured in turn.

    Args:
        layers: Which.
        rounds: Samples of each; the lower quartile counts.
    """
    runs = [[_runner(layer, length) for length in (SHORT, LONG)] for layer in layers]
    times = np.array([[[run() for run in pair] for pair in runs] for _ in range(rounds)])
    quartile = np.percentile(times, 25, axis=0)
    return [float(max(t, 1e-9)) for t in (quartile[:, 1] - quartile[:, 0]) / (LONG - SHORT)]


def _convs(widths: Sequence[int], kernel: int) -> list[Layer]:
    # Narrow layers on more pixels: what takes microseconds cannot be timed.
    return [Layer("conv", w, w, kernel, 28 if w >= 32 else 84) for w in widths]


OFF = (8, 12, 15, 30, 62, 97, 127)
NARROW = (2, 4, 8, 12, 24, 48)


def measured_layers(block: int) -> dict[str, list[Layer]]:
    """What is measured for every fact."""
    return {
        "blocked": _convs([block, 2 * block, 3 * block, 8 * block], 3),
        "plain": _convs(OFF, 3),
        "pointwise": _convs(OFF, 1),
        "narrow": [Layer("conv", 192, g, 3, 28) for g in NARROW if g % block],
        "depthwise": [Layer("conv", w, 1, 3, 56) for w in (64, 62)],
        "matrix": [Layer("gemm", 1024, points=197)],
        "weights": [Layer("gemm", 2048, points=1)],
        "elements": [Layer("add", 96, points=56)],
        "node": [Layer(kind, 1024) for kind in ("gemm", "gemm, small")],
    }


def calibrate(tell: Callable[[float, str], None] | None = None, *, rounds: int | None = None) -> Facts:
    """Measure the facts about onnxruntime on this machine, on one thread.

    Args:
        tell: Told how much is done, from 0 to 1, and what is measured.
        rounds: Samples of every layer, 50 by default.

    Example:
        >>> facts = calibrate(rounds=2)
        >>> facts.block in (8, 16), facts.matrix > 0
        (True, True)
    """
    block = 16 if torch.backends.cpu.get_cpu_capability().startswith("AVX512") else 8
    table = measured_layers(block)
    seconds: dict[str, list[float]] = {}
    for number, (fact, layers) in enumerate(table.items()):
        if tell is not None:
            tell(number / len(table), fact)
        seconds[fact] = layer_seconds(layers, rounds or ROUNDS)
    speeds = {
        fact: [layer.macs / s / 1e9 for layer, s in zip(layers, seconds[fact], strict=True)]
        for fact, layers in table.items()
    }
    product, followed = seconds["node"]

    def curve(fact: str) -> Curve:
        own = [layer.group for layer in table[fact]]
        return tuple((float(w), round(speed, 2)) for w, speed in zip(own, speeds[fact], strict=True))

    return Facts(
        block=block,
        blocked=curve("blocked"),
        plain=curve("plain"),
        pointwise=curve("pointwise"),
        narrow=curve("narrow"),
        depthwise=(round(speeds["depthwise"][0], 2), round(speeds["depthwise"][1], 2)),
        matrix=round(speeds["matrix"][0], 2),
        weights=round(4 * speeds["weights"][0], 2),
        elements=round(speeds["elements"][0], 2),
        node=round(max((followed - product) / BEGUN * 1e6, LEAST), 2),
    )
