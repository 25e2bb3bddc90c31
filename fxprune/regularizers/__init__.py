"""Methods that make whole coupling groups sparse while the user's model trains.

All follow one protocol (``Regularizer``)::

    reg = regularizers.SSR(model, groups, norm="l2,1")
    loss = task_loss + reg.penalty(); loss.backward(); optimizer.step(); reg.step()
    plan = reg.plan()

``reg.finish()`` takes the decisions for good and starts masked fine-tuning; ``reg.report()`` says what to watch;
``reg.state_dict()`` continues bit-equal.
"""

from __future__ import annotations

from fxprune.plans import Crop
from fxprune.regularizers.base import GroupRegularizer
from fxprune.regularizers.compose import Compose
from fxprune.regularizers.dwgl import DWGL
from fxprune.regularizers.gal.method import GAL
from fxprune.regularizers.greg import GReg
from fxprune.regularizers.group_lasso import GroupLasso
from fxprune.regularizers.increg import IncReg
from fxprune.regularizers.network_slimming import NetworkSlimming
from fxprune.regularizers.oneshot import Magnitude, Uniform
from fxprune.regularizers.protocol import Regularizer, Report
from fxprune.regularizers.reorder import reorder_
from fxprune.regularizers.ssr import SSR
from fxprune.regularizers.terms.columns import Masked
from fxprune.regularizers.terms.view import energy

__all__ = [
    "DWGL",
    "GAL",
    "REGULARIZERS",
    "SSR",
    "Compose",
    "Crop",
    "GReg",
    "GroupLasso",
    "GroupRegularizer",
    "IncReg",
    "Magnitude",
    "Masked",
    "NetworkSlimming",
    "Regularizer",
    "Report",
    "Uniform",
    "energy",
    "reorder_",
]

REGULARIZERS: tuple[type[Regularizer], ...] = (
    SSR,
    DWGL,
    IncReg,
    GroupLasso,
    NetworkSlimming,
    GReg,
    Magnitude,
    Uniform,
    GAL,
)
"""Every method by itself; a recipe names it by its ``name`` or by that of its class."""
