"""The report of a compression as a Markdown file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fxprune.escaping import markdown
from fxprune.plans import Plan
from fxprune.report.sheets import Sheet, bench_sheet, cost_sheet, width_sheet
from fxprune.report.words import describe_export, say_no_gain

if TYPE_CHECKING:  # a report shows what all stages made and imports none of them
    from fxprune.bench.table import BenchTable
    from fxprune.inspection.explain import WidthRow
    from fxprune.onnx.export import ExportReport
    from fxprune.proof.evidence import Proof
    from fxprune.recovery.recover import Recovery

__all__ = ["report_markdown"]


def report_markdown(
    title: str,
    *,
    plan: Plan,
    proof: Proof,
    widths: Sequence[WidthRow],
    table: BenchTable,
    exports: Mapping[str, ExportReport],
    why_no_onnx: str = "",
    why_no_pictures: str = "",
    recovery: Recovery | None = None,
    accuracy: Mapping[str, float] | None = None,
    first: Sequence[str] = (),
) -> str:
    """The report of a compression as Markdown text.

    Args:
        title: Heading.
        plan: What was kept.
        proof: Of the slim model before fine-tuning.
        widths: From ``width_table``.
        table: From ``benchmark``.
        exports: From ``export_onnx``, by the name of the model.
        why_no_onnx: Why there are none, if so.
        why_no_pictures: Why there are no plots, if so.
        recovery: From ``recover``, if there were data for it.
        accuracy: What the user's metric said, by moment.
        first: Paragraphs to begin with.
    """
    m = table.machine
    threads = f"{table.threads} thread{'s' * (table.threads > 1)}"
    parts = [
        f"# {markdown(title)}",
        *first,
        "## Cost",
        cost_sheet(plan).markdown(),
        *(f"- {markdown(note)}" for note in plan.notes),
        *([_scores(accuracy)] if accuracy else []),
        "## Proof",
        f"{markdown(str(proof))}."
        + (" This was the model as it was sliced, before recovery changed its weights." if recovery else ""),
        *(_recovery(recovery) if recovery else []),
        *(f"`{report.path.name}`: {markdown(describe_export(report))}." for report in exports.values()),
        *([f"No ONNX files: {why_no_onnx}."] if why_no_onnx else []),
        "## Latency",
        bench_sheet(table).markdown(),
        f"{m.cpu}, {m.cores} cores ({m.logical_cores} logical), {m.capability}; onnxruntime {m.onnxruntime}, torch {m.torch}; "
        f"{threads}, batch {table.batch or 1}, {table.rounds} rounds interleaved after {table.warmup} warm-up calls. "
        + (f"{table.session}." if exports else "Run in torch, in evaluation and inference mode."),
        *(f"**{note[0].upper()}{note[1:]}.**" for note in [say_no_gain(table)] if note),
        f"No pictures: {why_no_pictures}." if why_no_pictures else "![latency](latency.png)",
        "## Widths",
        *([] if why_no_pictures else ["![widths](widths.png)"]),
        width_sheet(widths).markdown(),
    ]
    return "\n\n".join(parts) + "\n"


def _scores(accuracy: Mapping[str, float]) -> str:
    sheet = Sheet(
        "", tuple(f"{moment}>" for moment in accuracy), (tuple(f"{v:.4g}" for v in accuracy.values()),)
    )
    return f"## Metric\n\n{sheet.markdown()}"


def _recovery(recovery: Recovery) -> list[str]:
    """What was solved for, and the layers that keep their slice."""
    kept = [(layer.name, layer.kept) for layer in recovery.layers if layer.kept]
    reasons = dict.fromkeys(why for _, why in kept)
    return [
        "## Recovery",
        f"{markdown(str(recovery))}.",
        *(f"- {markdown(note)}" for note in recovery.notes),
        *(
            f"- {markdown(why)}: {', '.join(markdown(name) for name, its in kept if its == why)}"
            for why in reasons
        ),
    ]
