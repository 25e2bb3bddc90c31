"""``fxprune calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fxprune.cli import options as o
from fxprune.cli.common import say, show, steps
from fxprune.cli.early import check_writable
from fxprune.cli.overwriting import refuse

__all__ = ["EXAMPLES", "calibrate"]

EXAMPLES = (
    "Example:\n\n  fxprune calibrate --out cpu.json     (on the machine that will run the model)\n\n"
    "  fxprune compress torchvision:resnet18@pretrained --latency 0.5 --target cpu.json --out out/"
)


def calibrate(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE.json", help="The file to write.", show_default=False)
    ],
    force: o.Force = False,
    as_json: o.Json = False,
) -> None:
    """Measure what layers cost in onnxruntime on this machine, for --target here or elsewhere.

    Takes about a minute on one core.
    """
    check_writable(out)  # before a minute of work, not after
    refuse(out, "target", force=force)
    import json
    from dataclasses import asdict

    from fxprune import targets
    from fxprune.onnx.calibrate import calibrate as measure
    from fxprune.onnx.session import machine
    from fxprune.pipeline import percent
    from fxprune.report.sheets import Sheet

    with steps().step("calibrate") as ticks:
        facts = measure(percent(ticks))
    where = machine()
    targets.save(
        facts, f"{where.cpu}, {where.capability}, {where.system}, onnxruntime {where.onnxruntime}", out
    )
    say(f"wrote {out}")
    units = {"block": "block, channels", "node": "node, microseconds"}
    rows = tuple((units.get(name, name), json.dumps(value)) for name, value in asdict(facts).items())
    show(
        Sheet("", ("fact", "billions a second, by channels"), rows).rich(),
        {"file": str(out), **asdict(facts)},
        as_json,
    )
