"""``fxprune compress``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fxprune.cli import options as o
from fxprune.cli.common import opened_model, remember_command, say, show, steps
from fxprune.cli.early import check_model, check_samples, check_there
from fxprune.cli.values import check_names, evidence, parse_budget, plan_options

if TYPE_CHECKING:
    from fxprune.models.inputs import Inputs

__all__ = ["EXAMPLES", "compress"]

EXAMPLES = (
    "Examples:\n\n"
    "  fxprune compress torchvision:resnet18@pretrained --macs 0.5 --out out/\n\n"
    "  fxprune compress nets.py:make -w trained.safetensors -i 1x3x32x32 --params 0.3 --calibrate pictures/ --out out/"
)


def compress(
    model: o.Model,
    out: o.OutFolder,
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
    calibrate: o.Calibrate = None,
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
    threads: o.Threads = 1,
    seconds: o.Seconds = None,
    force: o.Force = False,
    as_json: o.Json = False,
) -> None:
    """All of it: plan, slim, verify, recover, export, benchmark and report, into one folder."""
    from fxprune.support.delivery import Asked, check_folder, refuse_other

    budget = parse_budget(macs=macs, params=params, channels=channels, latency=latency, latency_ms=latency_ms)
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
    refuse_other(check_folder(out), Asked("", budget.given), force=force)  # before minutes of work, not after
    check_names(
        criterion, target, has_data=data is not None, has_samples=calibrate is not None or data is not None
    )
    from fxprune.models.samples import read_samples
    from fxprune.pipeline import compress as run
    from fxprune.report.sheets import result_view

    batches, loss = evidence(data)
    opened = opened_model(model, weights, inputs, allow_pickle)
    samples: list[Inputs] = [] if batches is None else [batch.inputs for batch in batches]
    if calibrate is not None:
        samples = read_samples(calibrate, opened.inputs, allow_pickle=allow_pickle)
    result = run(
        opened.model,
        opened.inputs,
        budget,
        out=out,
        criterion=criterion,
        **vars(options),
        threads=threads,
        seconds=seconds,
        data=batches,
        loss=loss,
        calibrate=samples,
        watcher=steps(),
        force=force,
    )
    show(result_view(result.plan, result.bench, result.why_no_onnx), result.as_json(), as_json)
    say(f"everything is in {out}: start with {result.paths.report}")
