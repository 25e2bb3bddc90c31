"""``fxprune plan``."""

from __future__ import annotations

from fxprune.cli import options as o
from fxprune.cli.common import opened_model, show, steps, traced_model, write
from fxprune.cli.values import check_names, evidence, parse_budget, plan_options

__all__ = ["EXAMPLES", "plan"]

EXAMPLES = (
    "Examples:\n\n"
    "  fxprune plan torchvision:resnet50@pretrained --macs 0.5 --out plan.json\n\n"
    "  fxprune plan nets.py:make -i 1x3x32x32 --params 0.3 --protect 'head*' --ratio 'layer1.*=0.75'"
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
    seed: o.PlanSeed = 0,
    out: o.PlanOut = None,
    as_json: o.Json = False,
) -> None:
    """Decide which channels go so that a budget is met."""
    from fxprune.inspection.explain import width_table
    from fxprune.planning.plan import spend
    from fxprune.report.sheets import plan_view

    budget = parse_budget(macs=macs, params=params, channels=channels, latency=latency, latency_ms=latency_ms)
    options = plan_options(
        scope=scope,
        align=align,
        keep_at_least=keep_at_least,
        protect=protect,
        only=only,
        ratio=ratio,
        target=target,
        blocks=blocks,
        seed=seed,
    )
    check_names(criterion, target, has_data=data is not None)
    batches, loss = evidence(data)
    traced = traced_model(opened_model(model, weights, inputs, allow_pickle, writes=out))
    with steps().step("plan"):
        planned = spend(traced, budget, options, criterion=criterion, data=batches, loss=loss)
    if out is not None:
        write(out, planned.to_json())
    show(plan_view(planned, width_table(traced, planned)), planned.to_json(), as_json)
