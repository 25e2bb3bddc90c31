"""Prints what becomes of one-op probes: ``python tools/probes.py [PART OF A NAME]``.

Each probe is a small network with one operator between two layers, of which arbitrary channels are
removed.  Exit code 1 if any is wrong, or differs from what ``fxprune.testing.probes`` expects.
"""

from __future__ import annotations

import sys

import torch

from fxprune.testing.probes import PROBES
from fxprune.testing.probes.examine import disagreement, examine


def main(part: str) -> int:
    """Try every probe whose name contains ``part`` and print a table."""
    torch.set_num_threads(1)
    counts: dict[str, int] = {}
    bad = 0
    print(f"{'probe':45} {'verdict':8} {'free':>4} {'units':>5} {'error':>8}  reason")
    for probe in PROBES:
        if part not in probe.name:
            continue
        found = examine(probe)
        wrong = disagreement(probe, found)
        bad += bool(wrong)
        counts[found.verdict] = counts.get(found.verdict, 0) + 1
        why = found.whys[0].splitlines()[0] if found.whys else ""
        note = f"  <- {wrong}" if wrong else ""
        print(
            f"{probe.name:45} {found.verdict:8} {found.free:4} {found.units:5} {found.error:8.0e}  {why[:90]}{note}"
        )
    print(", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())))
    return int(bad > 0 or counts.get("wrong", 0) > 0)


if __name__ == "__main__":
    sys.exit(main(" ".join(sys.argv[1:])))
