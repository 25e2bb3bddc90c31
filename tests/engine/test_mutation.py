"""The oracle can fail: seeded faults of every part of the engine are noticed by the library itself.

All of them are tried by ``python tools/mutate.py``.
"""

from __future__ import annotations

import pytest
from engine.detection import verdict
from engine.mutants import mutants

NETWORKS = 8

# The plainest slips that one can make, and one more of every part of the engine.
NAMES = (
    *("pointwise: taken for elementwise", "aten::prelu: loses labels"),
    *("aten::conv1d: knows no rows", "aten::einsum: loses labels"),
    *("aten::scaled_dot_product_attention: loses labels", "aten::view: sizes do not follow"),
    *("aten::unflatten: first two swapped", "aten::select: off by one", "aten::narrow: off by one"),
    *("aten::flip: off by one", "aten::roll: off by one", "aten::cat: loses labels", "aten::pad: off by one"),
    *("aten::mean: is exact", "aten::group_norm: sizes do not follow", "aten::layer_norm: loses labels"),
    *("aten::max_pool1d: off by one", "aten::arange: not gathered", "walk: unknown operators swallow"),
    *("walk: meeting ties nothing", "couple: ragged layouts", "couple: equal counts not asked for"),
)


@pytest.mark.parametrize("name", NAMES)
def test_the_library_notices(name: str) -> None:
    (fault,) = [m for m in mutants() if m.name == name]
    found = verdict(fault, most=NETWORKS)
    assert found.by in ("verify", "engine"), f"{fault.broken}: {found}"


def test_every_fault_is_described_once() -> None:
    names = [m.name for m in mutants()]
    assert len(names) == len(set(names)) >= 100
    assert all(m.broken and m.patches for m in mutants())
