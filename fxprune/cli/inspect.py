"""``fxprune inspect``."""

from __future__ import annotations

import typer
from rich.console import Group

from fxprune.cli import options as o
from fxprune.cli.common import opened_model, say, show, traced_model

__all__ = ["EXAMPLES", "inspect"]

EXAMPLES = (
    "Examples:\n\n"
    "  fxprune inspect torchvision:resnet18\n\n"
    "  fxprune inspect torchvision:vit_b_16 --why encoder.ln.weight\n\n"
    "  fxprune inspect nets.py:make -i 1x3x32x32 --graph ties.dot --json > groups.json"
)


def inspect(
    model: o.Model,
    weights: o.Weights = None,
    inputs: o.Inputs = None,
    allow_pickle: o.AllowPickle = False,
    why: o.Why = None,
    dim: o.Dim = None,
    graph: o.Graph = None,
    everything: o.Everything = False,
    strict: o.Strict = False,
    as_json: o.Json = False,
) -> None:
    """Show which channels are tied to which, by which op, and why some cannot go."""
    from fxprune.coupling.couple import couple
    from fxprune.inspection.explain import dependency_graph, explain, group_table
    from fxprune.inspection.graph_files import check_graph_path, write_graph
    from fxprune.report.sheets import group_sheet, pin_sheet

    if dim is not None and why is None:
        raise typer.BadParameter("says which dimension of --why TENSOR: give that, too", param_hint="--dim")
    for path in graph or ():
        check_graph_path(path)  # before minutes of work, not after
    traced = traced_model(opened_model(model, weights, inputs, allow_pickle))
    couple(traced, strict=strict)
    for path in graph or ():
        say(f"wrote {write_graph(dependency_graph(traced), path)}")
    if why is not None:
        explanation = explain(traced, why, dim=dim or 0)
        show(str(explanation), explanation.as_json(), as_json)
    elif not graph or as_json:
        rows = group_table(traced)
        shown = (group_sheet(rows).rich(), pin_sheet(rows, everything=everything).rich())
        show(Group(*shown), {"model": model, "groups": [row.as_json() for row in rows]}, as_json)
