"""Importance criteria: one a file, all in one table."""

from __future__ import annotations

from fxprune.criteria.activation import Activation
from fxprune.criteria.base import Criterion, Evidence, Need, View
from fxprune.criteria.bn_scale import BnScale
from fxprune.criteria.chance import Random
from fxprune.criteria.fpgm import Fpgm
from fxprune.criteria.hessian import Hessian
from fxprune.criteria.l1 import L1
from fxprune.criteria.l2 import L2
from fxprune.criteria.taylor import Taylor

__all__ = [
    "CRITERIA",
    "FROM_SAMPLES",
    "L1",
    "L2",
    "Activation",
    "BnScale",
    "Criterion",
    "Evidence",
    "Fpgm",
    "Hessian",
    "Need",
    "Random",
    "Taylor",
    "View",
]

CRITERIA: tuple[Criterion, ...] = (
    L1(),
    L2(),
    BnScale(),
    Taylor(),
    Fpgm(),
    Hessian(),
    Activation(),
    Random(),
)
"""Every criterion with its default options."""

FROM_SAMPLES = ("reconstruction", "sensitivity")
"""Names of further ones, which the planner makes of what the model makes of samples (``fxprune.planning.ranking``)."""
