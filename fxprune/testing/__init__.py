"""Random nets for whoever wants to try fxprune, or another tool, on nets that nobody chose.

A net is written as real module source from a table of some four hundred kinds of statements; ``check`` prunes
it in many ways and says what came of it; ``shrink`` makes a failing one small.

Example:
    >>> net = random_net(3)
    >>> "class Net(nn.Module)" in net.source
    True
    >>> for source, model, inputs in random_nets(range(3, 4)):  # for another tool
    ...     print(type(model).__name__, source == net.source, len(inputs))
    Net True 1
"""

from __future__ import annotations

from fxprune.testing.check import Finding, Report, check
from fxprune.testing.nets import Net, Recipe, from_source, random_net, random_nets, write
from fxprune.testing.shrink import Shrunk, shrink

__all__ = [
    "Finding",
    "Net",
    "Recipe",
    "Report",
    "Shrunk",
    "check",
    "from_source",
    "random_net",
    "random_nets",
    "shrink",
    "write",
]
