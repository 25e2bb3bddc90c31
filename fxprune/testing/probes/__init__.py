"""One-op probes: small networks with one interesting operator between two layers.

``PROBES`` is a table: what the network is, from which axis arbitrary channels are to be removed, and what must come
of it.  ``examine`` tries one.
"""

from __future__ import annotations

from fxprune.testing.probes.base import Probe
from fxprune.testing.probes.factors import FACTORS, NORMS
from fxprune.testing.probes.movement import MOVEMENT
from fxprune.testing.probes.reduction import REDUCTION
from fxprune.testing.probes.sharing import ATTENTION, SHARING

__all__ = ["PROBES"]

PROBES: tuple[Probe, ...] = (*MOVEMENT, *REDUCTION, *FACTORS, *NORMS, *SHARING, *ATTENTION)
