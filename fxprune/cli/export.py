"""``fxprune export``."""

from __future__ import annotations

from fxprune.cli import options as o
from fxprune.cli.common import opened_model, say, show, steps
from fxprune.cli.early import check_model, check_writable
from fxprune.cli.overwriting import refuse
from fxprune.cli.values import parse_passes

__all__ = ["EXAMPLES", "export"]

EXAMPLES = (
    "Examples:\n\n"
    "  fxprune export torchvision:resnet50@pretrained --out dense.onnx\n\n"
    "  fxprune export torchvision:resnet50 --weights slim.safetensors --out slim.onnx"
)


def export(
    model: o.Model,
    out: o.OnnxOut,
    weights: o.Weights = None,
    inputs: o.Inputs = None,
    allow_pickle: o.AllowPickle = False,
    opset: o.Opset = 20,
    static_batch: o.StaticBatch = False,
    passes: o.Passes = "all",
    target: o.FileTarget = "onnxruntime-cpu",
    check: o.Check = True,
    force: o.Force = False,
    as_json: o.Json = False,
) -> None:
    """Write a model as an ONNX file, after comparing it with torch in onnxruntime."""
    from fxprune import targets
    from fxprune.onnx.opsets import check_opset

    check_model(model, weights, inputs)
    check_writable(out)
    refuse(out, "onnx", force=force)
    check_opset(opset)
    targets.check(target)
    if chosen := parse_passes(passes):
        from fxprune.onnx.passes import check_passes

        check_passes(chosen)
    from fxprune.onnx.export import export_onnx
    from fxprune.report.sheets import export_json, export_sheet
    from fxprune.report.words import describe_export

    opened = opened_model(model, weights, inputs, allow_pickle)
    refuse(out, "onnx", type(opened.model).__name__, force=force)
    with steps().step("export") as ticks:
        report = export_onnx(
            opened.model,
            opened.inputs,
            out,
            opset=opset,
            dynamic_batch=not static_batch,
            verify=check,
            target=target,
            passes=chosen,
        )
        ticks.note(describe_export(report))
    say(f"wrote {report.path}")
    show(export_sheet(report).rich(), export_json(report), as_json)
