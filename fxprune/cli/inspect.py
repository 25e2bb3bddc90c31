"""``fxprune inspect``."""

from __future__ import annotations

import typer
from rich.console import Group

from fxprune.cli import options as o
from fxprune.cli.common import opened_model, say, show, steps, traced_model
from fxprune.cli.early import check_model, check_samples

__all__ = ["EXAMPLES", "inspect"]

EXAMPLES = (
    "Examples:\n\n"
    "  fxprune inspect torchvision:resnet18\n\n"
    "  fxprune inspect torchvision:vit_b_16 --why encoder.ln\n\n"
    "  fxprune inspect nets.py:make -i 1x3x32x32 --graph ties.dot --json > groups.json\n\n"
    "  fxprune inspect nets.py:make -w trained.safetensors -i 1x3x32x32 --sensitivity --calibrate pictures/"
)


def inspect(
    model: o.Model,
    weights: o.Weights = None,
    inputs: o.Inputs = None,
    allow_pickle: o.AllowPickle = False,
    why: o.Why = None,
    dim: o.Dim = None,
    sensitivity: o.SensitivityTable = False,
    calibrate: o.Calibrate = None,
    graph: o.Graph = None,
    everything: o.Everything = False,
    strict: o.Strict = False,
    as_json: o.Json = False,
) -> None:
    """Show which channels are tied to which, by which op, and why some cannot go."""
    from fxprune.inspection.graph_files import check_graph_path, write_graph

    if dim is not None and why is None:
        raise typer.BadParameter("says which dimension of --why TENSOR: give that, too", param_hint="--dim")
    if sensitivity != (calibrate is not None) or (sensitivity and why is not None):
        raise typer.BadParameter(
            "--sensitivity wants samples from --calibrate, and nothing else does; --why is another question",
            param_hint="--sensitivity",
        )
    for path in graph or ():
        check_graph_path(path)  # before minutes of work, not after
    check_model(model, weights, inputs)
    check_samples(calibrate)
    from fxprune.coupling.couple import couple
    from fxprune.inspection.explain import dependency_graph, explain, group_table
    from fxprune.models.samples import read_samples
    from fxprune.planning.sensitivity import sensitivity as measure
    from fxprune.report.sheets import group_sheet, pin_sheet, sensitivity_sheet

    opened = opened_model(model, weights, inputs, allow_pickle)
    samples = None if calibrate is None else read_samples(calibrate, opened.inputs, allow_pickle=allow_pickle)
    traced = traced_model(opened)
    couple(traced, strict=strict)
    for path in graph or ():
        say(f"wrote {write_graph(dependency_graph(traced), path)}")
    if why is not None:
        explanation = explain(traced, why, dim=dim)
        show(str(explanation), explanation.as_json(), as_json)
    elif samples is not None:
        with steps().step("sensitivity") as ticks:
            table = measure(traced, samples, progress=ticks.tick)
            ticks.note(f"{len(table.probes)} slim models, {table.samples} samples")
        show(sensitivity_sheet(table).rich(), {"model": model, **table.as_json()}, as_json)
    elif not graph or as_json:
        rows = group_table(traced)
        shown = (group_sheet(rows).rich(), pin_sheet(rows, everything=everything).rich())
        how = {"kind": traced.kind, "dynamic_batch": traced.dynamic_batch, "why_static": traced.why_static}
        data = {"model": model, "trace": how, "groups": [row.as_json() for row in rows]}
        show(Group(*shown), data, as_json)
