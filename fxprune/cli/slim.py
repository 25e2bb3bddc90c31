"""``fxprune slim``."""

from __future__ import annotations

import json
from dataclasses import asdict

from fxprune.cli import options as o
from fxprune.cli.common import opened_model, say, show, steps, traced_model
from fxprune.cli.early import check_model, check_plan, check_writable
from fxprune.cli.overwriting import refuse

__all__ = ["EXAMPLES", "slim"]

EXAMPLES = (
    "Example:\n\n  fxprune slim torchvision:resnet50@pretrained --plan plan.json --out slim.safetensors"
)


def slim(
    model: o.Model,
    plan_file: o.PlanFile,
    out: o.SlimOut,
    weights: o.Weights = None,
    inputs: o.Inputs = None,
    allow_pickle: o.AllowPickle = False,
    check: o.Check = True,
    force: o.Force = False,
    as_json: o.Json = False,
) -> None:
    """Apply a plan: write the slim weights, after proving them right.

    The file holds the plan, too: wherever MODEL is given, it makes the model slim as --weights.
    """
    check_plan(plan_file)
    check_model(model, weights, inputs)
    check_writable(out)
    refuse(out, "weights", force=force)
    from fxprune.planning.reading import read_plan
    from fxprune.proof.verify import verify
    from fxprune.report.sheets import cost_sheet
    from fxprune.slimming.recount import recounted
    from fxprune.slimming.slim import save
    from fxprune.slimming.slim import slim as apply

    plan = read_plan(plan_file)
    opened = opened_model(model, weights, inputs, allow_pickle)
    refuse(out, "weights", (opened.plan or plan).fingerprint, force=force)
    traced = traced_model(opened)
    plan = recounted(traced, plan)
    with steps().step("slim") as ticks:
        small = apply(traced, plan)
        ticks.note(f"as a {small.fxprune_kind}")
    facts: dict[str, object] = {
        "file": str(out),
        "kind": small.fxprune_kind,
        "dense": asdict(plan.dense),
        "slim": asdict(plan.predicted),
        "proof": None,
    }
    if check:
        with steps().step("verify") as ticks:
            proof = verify(traced, plan, small)
            ticks.note(str(proof))
        facts["proof"] = json.loads(proof.to_json())
    save(small, plan, out)
    say(f"wrote {out}")
    show(cost_sheet(plan).rich(), facts, as_json)
