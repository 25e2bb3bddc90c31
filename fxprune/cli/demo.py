"""``fxprune demo``."""

from __future__ import annotations

from pathlib import Path

from fxprune.cli import options as o
from fxprune.cli.common import say, show, steps

__all__ = ["EXAMPLES", "demo"]

EXAMPLES = "Example:\n\n  fxprune demo --out out/demo"


def demo(
    out: o.OutFolder = Path("out/demo"),
    seed: o.Seed = 0,
    force: o.Force = False,
    as_json: o.Json = False,
) -> None:
    """Train, prune, fine-tune, export and measure a small network on real handwritten digits.

    Takes one to three minutes on two cores.
    """
    from fxprune.support.delivery import check_folder
    from fxprune.support.extras import need

    need("the demo", "sklearn", "matplotlib")
    check_folder(out)
    from fxprune.demo import demo_view, run_demo

    result = run_demo(out, seed=seed, watcher=steps(), force=force)
    show(demo_view(result), result.as_json(), as_json)
    say(
        f"{result.seconds:.0f} s; everything is in {out}: start with {result.picture} and {result.result.paths.report}"
    )
