"""The oracle can fail: seeded faults of every part of the engine are noticed by the library itself.

All of them are tried by ``python tools/mutate.py``.
"""

from __future__ import annotations

import pytest
from testing.faults.mutants import ALONE, EQUIVALENT, WHY, mutants
from testing.faults.networks import subjects

from fxprune.testing.mutation.systematic import systematic
from fxprune.testing.mutation.verdict import verdict

NETWORKS = 8

# The plainest slips that one can make, and one more of every part of the engine.
NAMES = (
    *("pointwise: ties nothing", "pointwise: broadcast from the front", "aten::prelu: slopes off by one"),
    *(
        "aten::conv2d: inputs of the next group",
        "aten::conv2d: bias not tied",
        "aten::linear: weight transposed",
    ),
    *("aten::scaled_dot_product_attention: consumes nothing", "aten::einsum: implicit result not sorted"),
    *("aten::scaled_dot_product_attention: sizes do not follow", "aten::view: sizes do not follow"),
    *(
        "aten::transpose: taken for elementwise",
        "aten::slice: begins one late",
        "aten::split: parts one early",
    ),
    *("aten::flip: taken for elementwise", "aten::roll: the other way", "aten::cat: seam off by one"),
    *("aten::pad: offset forgotten", "aten::mean: is exact", "aten::group_norm: sizes do not follow"),
    *("aten::layer_norm: scale off by one", "aten::batch_norm: statistics not tied"),
    *("aten::max_pool1d: off by one", "aten::arange: not gathered", "walk: unknown operators swallow"),
    *("walk: outputs pin nothing", "walk: all groups are exact", "couple: equal counts not asked for"),
    *("apply: no movement is checked", "apply: batch written down", "structures: the shortcut is cut"),
)


@pytest.mark.parametrize("name", NAMES)
def test_the_library_notices(name: str) -> None:
    (fault,) = [m for m in mutants() if m.name == name]
    found = verdict(fault, subjects(), most=NETWORKS)
    assert found.by in ("verify", "engine"), f"{fault.broken}: {found}"


@pytest.mark.parametrize(
    "name",
    [
        "aten::conv2d: inputs of the next group",
        "aten::transpose: taken for elementwise",
        "aten::roll: the other way",
        "aten::layer_norm: scale off by one",
    ],
)
def test_the_second_oracle_needs_no_help(name: str) -> None:
    (fault,) = [m for m in mutants() if m.name == name]
    found = verdict(fault, subjects(), most=NETWORKS, oracles=("masks",))
    assert found.by == "verify", f"{fault.broken}: {found}"


@pytest.mark.parametrize("name", ["aten::conv1d: loses labels", "aten::matmul: taken for elementwise"])
def test_an_oracle_that_is_asked_alone_has_no_help_from_the_walk(name: str) -> None:
    (fault,) = [m for m in mutants() if m.name == name]
    together, alone = (
        verdict(fault, subjects(), most=NETWORKS),
        verdict(fault, subjects(), most=NETWORKS, oracles=("masks",)),
    )
    assert together.by == "engine" and "forgets channels" in together.how
    assert alone.by == "verify", f"{fault.broken}: {alone}"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_fault_is_noticed_or_explained() -> None:
    """What the library lets pass the laws notice, and the table says why."""
    for fault in mutants():
        found = verdict(fault, subjects(), most=NETWORKS)
        if found.by not in ("verify", "engine"):
            found = verdict(fault, subjects())
        assert found.by != "nothing", fault
        assert found.by != "laws" or fault.why, f"{fault.name}: the library does not notice: {found}"


def test_every_fault_is_described_once() -> None:
    names = [m.name for m in mutants()]
    assert {*WHY, *ALONE} <= set(names), "a reason for a fault that is not there"
    assert set(EQUIVALENT) <= {m.name for m in systematic()}
    assert len(names) == len(set(names)) >= 100
    assert all(m.broken and m.patches for m in mutants())
