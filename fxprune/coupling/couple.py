"""Couple: analyse a trace, and hand out which channels stand and fall together."""

from __future__ import annotations

from fxprune.coupling.analysis import Analysis
from fxprune.coupling.closing import close_over
from fxprune.coupling.grouping import groups_of
from fxprune.coupling.groups import AtLeast, Coupling, Group, Groups
from fxprune.coupling.steering import pin_steering
from fxprune.coupling.walk import Walk
from fxprune.errors import TraceError, UnsupportedOp
from fxprune.graph.trace import Trace
from fxprune.support.memo import once
from fxprune.support.process import no_garbage
from fxprune.support.source_lines import source_of

__all__ = ["analyse", "couple"]


def couple(trace: Trace, *, strict: bool = False) -> tuple[Group, ...]:
    """Find which channels must live or die together.

    Args:
        trace: A traced model.
        strict: Raise instead of pinning where an operator has no rule.

    Returns:
        Every group that touches a parameter or buffer, pinned ones included, in the order of
        the model.

    Raises:
        UnsupportedOp: With ``strict``, an operator without a rule met prunable units.

    Example:
        >>> import torch, fxprune
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
        >>> for group in fxprune.couple(fxprune.trace(net, torch.zeros(1, 3, 9, 9))):
        ...     if not group.pinned:
        ...         print(group.name, group.width, group.members)
        0 8 (('0.weight', 0), ('0.bias', 0), ('2.weight', 1))

    References:
        Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023, names the problem; the
        label arrays used here replace its per-layer patterns.
    """
    analysis = analyse(trace)
    if strict and analysis.unsupported:
        node, why = analysis.unsupported[0]
        raise UnsupportedOp(
            why,
            node=node.name,
            op=str(node.target),
            source=source_of(node),
            advice="call couple without strict to pin what reaches it, or add an OpRule",
        )
    return analysis.coupling.groups


def analyse(trace: Trace) -> Analysis:
    """Everything the later stages need to know of a trace; computed once.

    Raises:
        TraceError: It is no trace.
    """
    if not isinstance(trace, Trace):
        raise TraceError(
            f"expected a Trace, got {type(trace).__name__}",
            advice="trace the model first: fxprune.trace(model, example_inputs)",
        )
    return _analysed(trace)


@once
@no_garbage()
def _analysed(trace: Trace) -> Analysis:
    walk = Walk(trace)
    walk.run(trace.graph, counting=True)
    for extra in trace.extras:
        walk.run(extra, counting=False)
    pin_steering(walk)
    walk.count_parameters()
    closed = close_over(walk)
    units = closed.units
    axes = {axis: units[labels] for axis, labels in walk.axes.items()}
    coupling = Coupling(
        groups=Groups(groups_of(walk, closed, axes)),
        blocks=tuple(closed.blocks),
        n_units=closed.n_units,
        pinned=closed.pin_of >= 0,
        axes=axes,
        cost=walk.costs.build(units, samples=trace.batch),
        fingerprint=trace.fingerprint,
        at_least=tuple(AtLeast(units[rows], count, node.name) for rows, count, node in walk.needs),
    )
    return Analysis(
        trace=trace,
        coupling=coupling,
        unit_of_label=units,
        labels=walk.axes,
        values=walk.values,
        calls=walk.calls,
        consumed=walk.consumed,
        restricted=walk.restricted,
        ties=walk.ties,
        virtual=walk.virtual,
        counted_at=walk.counted_at,
        unsupported=walk.unsupported,
        layouts=walk.layouts,
    )
