"""``fxprune plan``."""

from __future__ import annotations

import typer

from fxprune.cli import options as o
from fxprune.cli.common import opened_model, remember_command, show, steps, traced_model, write
from fxprune.cli.early import check_model, check_samples, check_there, check_writable
from fxprune.cli.overwriting import refuse
from fxprune.cli.values import check_names, evidence, parse_budget, plan_options

__all__ = ["EXAMPLES", "plan"]

EXAMPLES = (
    "Examples:\n\n"
    "  fxprune plan torchvision:resnet50@pretrained --macs 0.5 --out plan.json\n\n"
    "  fxprune plan nets.py:make -i 1x3x32x32 --params 0.3 --protect 'head*' --ratio 'layer1.*=0.75'\n\n"
    "  fxprune plan nets.py:make -w trained.safetensors -i 1x3x32x32 --accuracy 0.9 --calibrate pictures/ --data labelled.npz"
)


def plan(
    model: o.Model,
    weights: o.Weights = None,
    inputs: o.Inputs = None,
    allow_pickle: o.AllowPickle = False,
    macs: o.Macs = None,
    params: o.Params = None,
    channels: o.Channels = None,
    latency: o.Latency = None,
    latency_ms: o.LatencyMs = None,
    accuracy: o.Accuracy = None,
    calibrate: o.Calibrate = None,
    trials: o.Trials = None,
    criterion: o.Criterion = "l1",
    data: o.Data = None,
    scope: o.Scope = o.ScopeName.everywhere,
    align: o.Align = "auto",
    keep_at_least: o.KeepAtLeast = 1,
    protect: o.Protect = None,
    only: o.Only = None,
    ratio: o.Ratio = None,
    target: o.Target = "onnxruntime-cpu",
    blocks: o.Blocks = o.BlocksName.auto,
    keep_class: o.KeepClass = False,
    seed: o.PlanSeed = 0,
    out: o.PlanOut = None,
    force: o.Force = False,
    as_json: o.Json = False,
) -> None:
    """Decide which channels go so that a budget is met, or so that the model stays good enough."""
    from fxprune.criteria import FROM_SAMPLES

    budget = None
    quantities = {
        "macs": macs,
        "params": params,
        "channels": channels,
        "latency": latency,
        "latency_ms": latency_ms,
    }
    if accuracy is None:
        if trials is not None or (calibrate is not None and criterion not in FROM_SAMPLES):
            raise typer.BadParameter(
                "belongs to --accuracy, and --calibrate to criteria that look at samples, too",
                param_hint="--calibrate, --trials",
            )
        budget = parse_budget(**quantities)
    elif calibrate is None or any(value is not None for value in quantities.values()):
        raise typer.BadParameter(
            "stands in the place of a budget, and wants samples from --calibrate", param_hint="--accuracy"
        )
    remember_command()
    check_model(model, weights, inputs)
    check_there(data)
    check_samples(calibrate)
    options = plan_options(
        scope=scope,
        align=align,
        keep_at_least=keep_at_least,
        protect=protect,
        only=only,
        ratio=ratio,
        target=target,
        blocks=blocks,
        keep_class=keep_class,
        seed=seed,
    )
    check_writable(out)  # before minutes of work, not after
    check_writable(trials)
    refuse(out, "plan", force=force)
    check_names(criterion, target, has_data=data is not None, has_samples=calibrate is not None)
    from fxprune.inspection.explain import width_table
    from fxprune.models.inputs import Labelled
    from fxprune.models.samples import read_samples
    from fxprune.planning.plan import plan as decide
    from fxprune.report.sheets import plan_view

    batches, loss = evidence(data)
    labelled = None if batches is None else list(batches)
    opened = opened_model(model, weights, inputs, allow_pickle)
    samples = None if calibrate is None else read_samples(calibrate, opened.inputs, allow_pickle=allow_pickle)
    traced = traced_model(opened)
    refuse(out, "plan", traced.fingerprint, force=force)
    with steps().step("plan") as ticks:
        planned = decide(
            traced,
            budget,
            accuracy=accuracy,
            criterion=criterion,
            **vars(options),
            data=labelled,
            loss=loss,
            calibrate=samples,
            metric=None if labelled is None else lambda model: Labelled.accuracy(model, labelled),
            trials=trials,
            progress=ticks.tick,
        )
    if out is not None:
        write(out, planned.to_json())
    show(plan_view(planned, width_table(traced, planned)), planned.to_json(), as_json)
