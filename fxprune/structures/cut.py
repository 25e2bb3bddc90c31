"""Cut structures out of a traced graph: what is left is a trace again, on which every stage works.

A sum loses an operand and becomes the other one.  A concatenation keeps its width for the moment: the
neighbour of the operand that goes is padded with zeros, so that indices into the consumers' weights mean what
they meant, and the padded units are then removed like any other channels.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace

import torch
from torch import fx
from torch.nn import functional as F

from fxprune.errors import PlanError, TraceError
from fxprune.graph.dataflow import aliased, mutates
from fxprune.graph.drafts import arguments_by_name, draft, shared
from fxprune.graph.trace import Trace
from fxprune.ops import overload, qualified_name
from fxprune.ops.named import PAD
from fxprune.structures.find import Structure, choose_structures
from fxprune.support.memo import once
from fxprune.support.source_lines import source_of

__all__ = ["cut", "cut_sources", "drop_gaps"]

GAP = "fxprune_gap"


def cut(trace: Trace, names: Sequence[str]) -> Trace:
    """The trace without some structures.

    Its model is a GraphModule that shares the parameters of the traced one, at full width.

    Args:
        trace: A traced model.
        names: Names of structures (``fxprune.structures.find.find_structures``).

    Returns:
        A trace of what is left, with ``cuts`` in the order of the graph; ``trace`` itself for no names.

    Raises:
        PlanError: A structure does not exist, cannot be removed, or all operands of a concatenation would go.

    Example:
        >>> import torch, fxprune
        >>> from torchvision.models import resnet18
        >>> dense = fxprune.trace(resnet18(), torch.zeros(1, 3, 32, 32))
        >>> small = cut(dense, ["layer1.0", "layer4.1"])
        >>> sum(p.numel() for p in dense.model.parameters()) - sum(p.numel() for p in small.model.parameters())
        4794624
    """
    if not names:
        return trace
    if trace.parent is not None:
        return trace if set(names) <= set(trace.cuts) else cut(trace.parent, (*trace.cuts, *names))
    chosen = choose_structures(trace, names)
    known = _cuts(trace)
    key = tuple(s.name for s in chosen)
    if key not in known or not _is_current(known[key]):
        known[key] = _cut(trace, chosen)
    return known[key]


@once
def _cuts(trace: Trace) -> dict[tuple[str, ...], Trace]:
    """What was cut out of a trace before."""
    return {}


def _is_current(known: Trace) -> bool:
    """The tensors are still those of the user's model."""
    assert known.parent is not None
    try:
        return all(known.tensor(name) is known.parent.tensor(name) for name in known.names)
    except TraceError:
        return False


def _cut(trace: Trace, chosen: Sequence[Structure]) -> Trace:
    rewritten = draft(trace)
    gone = {rewritten.copies[s.output] for s in chosen}
    dead = {rewritten.copies[n] for s in chosen for n in s.nodes}
    joins = dict.fromkeys((rewritten.copies[j], s.kind) for s in chosen for j in s.joins)
    for join, kind in joins:
        if kind == "residual":
            _bypass(join, gone)
        else:
            _fill(rewritten.graph, join, gone)
    _sweep(rewritten.graph, dead)
    graph = shared(trace, rewritten).root
    graph.graph = rewritten.graph
    names = tuple(s.name for s in chosen)
    # The graph first: the model is made from it.
    small = Trace(
        *(trace.model, trace.args, trace.kwargs, graph, trace.kind),
        *(trace.dynamic_batch, trace.batch, trace.why_static),
        parent=trace,
        cuts=names,
    )
    runnable = shared(trace, draft(small)).module(training=trace.model.training)
    return replace(small, model=runnable)


# --- sums --------------------------------------------------------------------------------------------


def _bypass(join: fx.Node, gone: Set[fx.Node]) -> None:
    """A sum becomes the operand that stays."""
    first, second = (*join.args, *join.kwargs.values())[:2]
    other = second if first in gone else first
    assert isinstance(other, fx.Node)
    readers = list(join.users)
    join.replace_all_uses_with(other)
    for reader in readers:
        _write_elsewhere(other, reader)


def _write_elsewhere(value: fx.Node, reader: fx.Node) -> None:
    """What wrote into the sum in place must not write into the operand, which others may read."""
    if aliased(reader, write=True) is value:
        assert isinstance(reader.target, torch._ops.OpOverload)
        reader.target = overload(qualified_name(reader.target), reader.target._overloadname)
    elif aliased(reader, write=False) is value:
        for further in list(reader.users):
            _write_elsewhere(reader, further)


# --- concatenations ----------------------------------------------------------------------------------


def _fill(graph: fx.Graph, join: fx.Node, gone: Set[fx.Node]) -> None:
    """Zeros in the place of the operands that go, as padding of the nearest one that stays."""
    operands = list(join.args[0])  # type: ignore[arg-type]
    rank = join.meta["val"].ndim
    dim = int(arguments_by_name(join).get("dim", 0)) % rank  # type: ignore[call-overload]
    staying = [k for k, operand in enumerate(operands) if operand not in gone]
    if not staying:
        raise PlanError(
            "nothing would be left of a concatenation",
            node=join.name,
            op=str(join.target),
            source=source_of(join),
            advice="keep at least one of its branches",
        )
    margins = {k: [0, 0] for k in staying}
    for k, operand in enumerate(operands):
        if operand in gone:
            nearest = max((s for s in staying if s < k), default=staying[0])
            margins[nearest][nearest < k] += int(operand.meta["val"].shape[dim])
    with graph.inserting_before(join):
        filled = [_padded(graph, operands[k], margins[k], rank - 1 - dim, join) for k in staying]
    join.args = (filled, *join.args[1:])


def _padded(graph: fx.Graph, operand: fx.Node, margins: list[int], behind: int, join: fx.Node) -> fx.Node:
    """The operand with zeros before and after it along the dimension that has ``behind`` others behind it."""
    if not any(margins):
        return operand
    amounts = [*[0] * (2 * behind), *margins]
    node = graph.call_function(overload(PAD), (operand, amounts))
    value = operand.meta["val"]
    with value.fake_mode:
        node.meta = {**join.meta, "val": F.pad(value, amounts), GAP: True}
    return node


def drop_gaps(graph: fx.Graph) -> None:
    """Take out paddings of cut branches that pad nothing any more."""
    for node in list(graph.nodes):
        if not node.meta.get(GAP):
            continue
        amounts = arguments_by_name(node)["pad"]
        if isinstance(amounts, (list, tuple)) and not any(amounts):
            node.replace_all_uses_with(node.all_input_nodes[0])
            graph.erase_node(node)


# --- what is left ------------------------------------------------------------------------------------


def _sweep(graph: fx.Graph, dead: set[fx.Node]) -> None:
    """Erase what nobody reads, in-place calls and checks of the structures included."""
    for node in reversed(graph.nodes):
        if node.users or node.op in ("placeholder", "output"):
            continue
        inside = node in dead or any(source in dead for source in node.all_input_nodes)
        if inside or node.op == "get_attr" or not (mutates(node) or node.is_impure()):
            graph.erase_node(node)
    graph.lint()


def cut_sources(trace: Trace) -> tuple[str, ...]:
    """The user's source lines of the joins that lost an operand."""
    if trace.parent is None:
        return ()
    chosen = choose_structures(trace.parent, trace.cuts)
    return tuple(dict.fromkeys(line for s in chosen for j in s.joins if (line := source_of(j))))
