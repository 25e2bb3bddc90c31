"""Figures and results in a few words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a report shows what all stages made and imports none of them
    from fxprune.bench.table import BenchTable
    from fxprune.graph.trace import Trace
    from fxprune.onnx.export import ExportReport
    from fxprune.plans import Plan

__all__ = [
    "count",
    "describe_export",
    "describe_plan",
    "describe_trace",
    "say_no_gain",
    "say_passes",
    "share",
]

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def count(number: float, unit: str = "") -> str:
    """A number in three digits, with a decimal prefix.

    Example:
        >>> count(11_689_512), count(999), count(46_830_571, "B")
        ('11.7 M', '999', '46.8 MB')
    """
    for factor, prefix in _PREFIXES:
        if abs(number) >= factor:
            value = number / factor
            digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
            return f"{value:.{digits}f} {prefix}{unit}"
    return f"{number:.0f} {unit}".rstrip()


def share(fraction: float) -> str:
    """A percentage with as many digits as matter.

    Example:
        >>> share(0.123), share(0.0004), share(0)
        ('12.3 %', '0.04 %', '0 %')
    """
    percent = 100 * fraction
    if percent == 0:
        return "0 %"
    return f"{percent:.1f} %" if percent >= 0.1 else f"{percent:.1g} %"


def describe_trace(trace: Trace) -> str:
    """How a model was traced, in a few words."""
    ops = sum(node.op == "call_function" for node in trace.graph.graph.nodes)
    how = "any batch size"
    if trace.kind == "recorded":
        how = f"for analysis: {trace.why_static}"
    elif not trace.dynamic_batch:
        how = f"fixed batch size: {trace.why_static}" if trace.why_static else "fixed batch size"
    return f"{count(ops)} ops, {how}"


def describe_plan(plan: Plan) -> str:
    """What a plan keeps, in a few words."""
    dense, slim = plan.dense, plan.predicted
    return (
        f"keeps {share(slim.macs / max(dense.macs, 1))} of {count(dense.macs)} MACs, "
        f"{share(slim.params / max(dense.params, 1))} of {count(dense.params)} parameters"
    )


def describe_export(report: ExportReport) -> str:
    """What was exported, in a few words."""
    errors = [e for e in (report.max_error_inputs, report.max_error_random) if e is not None]
    parity = f", equal to torch within {max(errors):.0e}" if errors else ", not compared with torch"
    batch = "any batch size" if report.dynamic_batch else "fixed batch size"
    faster = f", {say_passes(report)}" if report.passes else ""
    notes = "".join(f"; {note}" for note in report.notes)
    return f"{count(report.size_bytes, 'B')}, opset {report.opset}{faster}, {batch}{parity}{notes}"


def say_passes(report: ExportReport) -> str:
    """What passes changed in an exported graph."""
    return ", ".join(f"{count} x {name}" for name, count in report.passes.items())


def say_no_gain(table: BenchTable) -> str:
    """What to say if the slim model is not clearly faster than the dense one."""
    slim = table["slim"]
    if slim.speedup_low > 1:
        return ""
    if slim.speedup_high < 1:
        return f"the slim model is slower than the dense one here, {slim.speedup:.2f} times its speed"
    return "the slim model is not measurably faster than the dense one here; measure longer (--seconds, seconds=)"
