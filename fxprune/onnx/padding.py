"""Widths off the block filled up with zeros, where the runtime is faster so.

A convolution whose channels do not fill blocks runs another kernel, or is converted to and fro.  A plan that was made
without steps (``align=1``, a regularizer's own decision) ends on such widths.  Channels that nobody reads give them back:
filters of zeros, read with weights of zero.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from fxprune.onnx.channels import Place, Stream, streams
from fxprune.onnx.graph_edits import constant, integer, replace_constant
from fxprune.targets import Target

__all__ = ["pad_channels"]


def pad_channels(model: ir.Model, target: Target) -> int:
    """Widen streams of channels where that is faster on the target, in place.

    Args:
        model: An ONNX graph; weights are constants.
        target: Where it is to run.

    Returns:
        How many streams were widened.
    """
    padded = 0
    for stream in streams(model.graph):
        width = _better(stream, target) if stream.free else stream.width
        if width > stream.width:
            _widen(stream, width)
            padded += 1
    return padded


def _better(stream: Stream, target: Target) -> int:
    """The width to have: the next whole block, if the layers around are faster with it."""
    unit = int(np.lcm.reduce([target.channel_step, *(place.group for place in stream.places)]))
    width = -(-stream.width // unit) * unit
    layers = {id(p.node): p for p in stream.places if p.node.op_type == "Conv" and p.position == 1}
    now, then = (sum(_time(p, w, target) for p in layers.values()) for w in (stream.width, width))
    return width if then < now else stream.width


def _time(place: Place, new: int, target: Target) -> float:
    """Of a convolution whose weight holds the stream, with the stream at a new width."""
    weight = constant(place.node.inputs[1])
    assert weight is not None
    groups = integer(place.node, "group", 1)
    outputs, inputs = weight.shape[:2]
    taps = int(np.prod(weight.shape[2:]))
    if groups > 1:
        groups = new // place.group
        together = target.groups_together(groups, place.group, place.group)  # as another pass will merge them
        return float(target.convolution(new, new, taps, groups // together))
    if place.dim == 0:
        outputs = new
    else:
        inputs = new
    # What is made at one width and read at another is the other stream's affair: taken as it would be padded.
    other = target.filled(inputs if place.dim == 0 else outputs)
    read, produced = (other, outputs) if place.dim == 0 else (inputs, other)
    return float(target.convolution(read, produced, taps))


def _widen(stream: Stream, width: int) -> None:
    more = width - stream.width
    for place in stream.places:
        numbers = constant(place.node.inputs[place.position])
        assert numbers is not None
        shape = list(numbers.shape)
        shape[place.dim] = more
        replace_constant(
            place.node, place.position, np.concatenate([numbers, np.zeros(shape, numbers.dtype)], place.dim)
        )
        if place.node.op_type == "Conv" and place.position == 1 and integer(place.node, "group", 1) > 1:
            place.node.attributes["group"] = ir.AttrInt64("group", width // place.group)
    for value in stream.values:
        assert value.shape is not None
        value.shape = ir.Shape([width if d == 1 else size for d, size in enumerate(value.shape)])
