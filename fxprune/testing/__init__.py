"""What fxprune is tested with, for whoever adds to it or compares with it: laws on samples, probes, faults, random nets.

* An operator of your own: ``register`` its rule, write a ``Sample``, and ``check_operator`` runs every law on it;
  ``unnoticed_faults`` says which slips in the rule your samples would not show.
* A sparse-training method of your own: ``check_method`` runs every law of the protocol on it.
* ``random_net`` writes a net nobody chose as module source, ``check`` prunes it in many ways and says what came of
  it, ``shrink`` makes a failing one small.
* ``fxprune.testing.samples`` has samples of all operators, ``fxprune.testing.probes`` small networks with one
  interesting operator each, ``fxprune.testing.mutation`` seeded faults and who notices them.

Nothing here needs pytest, and ``import fxprune`` does not load it.

Example:
    >>> net = random_net(3)
    >>> "class Net(nn.Module)" in net.source
    True
    >>> for source, model, inputs in random_nets(range(3, 4)):  # for another tool
    ...     print(type(model).__name__, source == net.source, len(inputs))
    Net True 1
"""

from __future__ import annotations

from fxprune.testing.methods import MethodReport, check_method
from fxprune.testing.nets.check import Finding, Report, check
from fxprune.testing.nets.shrink import Shrunk, shrink
from fxprune.testing.nets.write import Net, Recipe, from_source, random_net, random_nets, write
from fxprune.testing.operators import Broken, LawError, OperatorReport, check_operator, unnoticed_faults
from fxprune.testing.samples.base import (
    Operand,
    Sample,
    buffer,
    complex_parameter,
    given,
    parameter,
    positive,
)

__all__ = [
    "Broken",
    "Finding",
    "LawError",
    "MethodReport",
    "Net",
    "Operand",
    "OperatorReport",
    "Recipe",
    "Report",
    "Sample",
    "Shrunk",
    "buffer",
    "check",
    "check_method",
    "check_operator",
    "complex_parameter",
    "from_source",
    "given",
    "parameter",
    "positive",
    "random_net",
    "random_nets",
    "shrink",
    "unnoticed_faults",
    "write",
]
