"""One operator between two layers, arbitrary channels removed: exact, or refused with a reason; never wrong."""

from __future__ import annotations

import pytest

from fxprune.coupling.couple import analyse
from fxprune.errors import PlanError
from fxprune.planning.plan import plan, remove
from fxprune.plans import Budget
from fxprune.proof.verify import verify
from fxprune.slimming.slim import slim
from fxprune.testing.probes import PROBES
from fxprune.testing.probes.base import Probe
from fxprune.testing.probes.examine import EXACT, disagreement, examine, prepared


def test_probe_names_are_unique() -> None:
    assert len({p.name for p in PROBES}) == len(PROBES)


@pytest.mark.parametrize("probe", PROBES, ids=lambda p: p.name)
def test_arbitrary_channels(probe: Probe) -> None:
    assert not disagreement(probe, examine(probe))


@pytest.mark.parametrize("probe", PROBES, ids=lambda p: p.name)
def test_half_of_the_channels_by_budget(probe: Probe) -> None:
    """What the planner makes of the same network is exact too, and costs what it says."""
    traced, _ = prepared(probe)
    if all(group.pinned for group in analyse(traced).coupling.groups):
        with pytest.raises(PlanError, match="may go"):
            plan(traced, Budget(channels=0.5), align=1)
        return
    made = plan(traced, Budget(channels=0.5), align=1)
    small = slim(traced, made)
    assert verify(traced, made, small, tolerance=EXACT).units > 0
    assert sum(p.numel() for p in small.parameters()) == made.predicted.params < made.dense.params


SEEDED = [
    p for p in PROBES if p.name in {"channel shuffle, -1", "x[:, ::2]", "split, swapped cat, uneven", "roll"}
]


@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("probe", SEEDED, ids=lambda p: p.name)
def test_more_draws(probe: Probe, seed: int) -> None:
    outcome = examine(probe, draws=6, seed=seed)
    assert outcome.verdict == probe.verdict
    assert outcome.error <= EXACT


PICKY = [p for p in PROBES if p.name.startswith(("index", "repeat", "flip", "roll", "x[:, ::2]"))]


@pytest.mark.parametrize("probe", [p for p in PICKY if p.verdict == "exact"], ids=lambda p: p.name)
def test_a_single_channel(probe: Probe) -> None:
    """Labels do not vary along an axis of one position: what is picked from it by number must follow all the same."""
    traced, _ = prepared(probe)
    units = analyse(traced).coupling.axes[probe.axis]
    done = 0
    for left in range(0, len(units), 4):
        gone = [k for k in range(len(units)) if units[k] != units[left]]
        try:
            made = remove(traced, {probe.axis: gone})
        except PlanError:  # some channels are not picked at all
            continue
        done += 1
        assert verify(traced, made, slim(traced, made), tolerance=EXACT).units == len(gone)
    assert done
