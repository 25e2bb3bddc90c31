"""Networks on which seeded faults are looked for: every sample, every probe, nets whose branches are cut or folded."""

from __future__ import annotations

import contextlib
from functools import cache, partial

import torch
from testing.faults.branch_nets import cuts, folds, traced, trains
from torch.utils._pytree import tree_map_only

from fxprune.errors import PlanError
from fxprune.slimming.slim import slim
from fxprune.testing.challenge import makers
from fxprune.testing.mutation.verdict import Subject, subject_of
from fxprune.testing.probes import PROBES
from fxprune.testing.probes.base import Probe
from fxprune.testing.probes.examine import disagreement, examine, prepared
from fxprune.testing.samples import SAMPLES
from fxprune.testing.samples.square import SQUARE


@cache
def subjects() -> tuple[Subject, ...]:
    """All of them, single operators first."""
    small = [subject_of(s, f"{s.op}-{k}", square=s in SQUARE) for k, s in enumerate(SAMPLES) if not s.chance]
    branched = [
        Subject(f"cut: {name}", partial(traced, name), partial(_fold_law, name), plans=cuts)
        for name in ("cifar", "inception", "vit", "factors")
    ]
    auxiliary = Subject("auxiliary head", partial(traced, "auxiliary head"), _trains_law)
    return (*small, *map(_of_probe, PROBES), *branched, auxiliary)


def _of_probe(probe: Probe) -> Subject:
    # With the seed, as ``examine`` asks for it: the cache would make another trace without.
    return Subject(probe.name, lambda: prepared(probe, 0)[0], partial(_probe_law, probe))


def _probe_law(probe: Probe) -> str:
    wrong = disagreement(probe, examine(probe))
    if not wrong:
        _runs_at_another_batch(_of_probe(probe))
    return wrong


def _runs_at_another_batch(subject: Subject) -> None:
    """A graph made of a trace for any batch size runs at another one than that of the example."""
    found = subject.trace()
    if not found.dynamic_batch:
        return
    inputs = tree_map_only(torch.Tensor, lambda t: torch.cat([t, t]), (found.args, dict(found.kwargs)))
    for make, _ in makers(found):
        with contextlib.suppress(PlanError), torch.no_grad():
            slim(found, make(), kind="graph").eval()(*inputs[0], **inputs[1])
            return


def _fold_law(name: str) -> str:
    if name != "inception":  # none of its branches is added
        folds(traced(name))
    return ""


def _trains_law() -> str:
    trains(traced("auxiliary head"))
    return ""
