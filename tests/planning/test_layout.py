"""Atoms of single layouts, written out."""

from __future__ import annotations

import numpy as np
import pytest
from couplings import Maker, attention, grouped

from fxprune.coupling.blocks import breach, close
from fxprune.coupling.groups import Block, Coupling
from fxprune.labels import IntArray
from fxprune.planning.atoms import Atoms, Mode, make_atoms


def atoms_of(coupling: Coupling, mode: Mode = "auto", score: np.ndarray | None = None) -> Atoms:
    score = np.arange(coupling.n_units, dtype=float) if score is None else score
    return make_atoms(coupling, score, coupling.pinned, mode=mode)


def units_of(atoms: Atoms, atom: int) -> set[int]:
    return set(np.flatnonzero(atoms.of_unit == atom).tolist())


def sets(atoms: Atoms, among: IntArray) -> list[set[int]]:
    """Atoms that hold any of some units."""
    return [units_of(atoms, a) for a in np.unique(atoms.of_unit[among]) if a >= 0]


@pytest.fixture
def net() -> Maker:
    return Maker()


def test_heads_go_with_everything_in_them(net: Maker) -> None:
    stream = net.units(8)
    qk, v = attention(net, "a", stream, heads=4, width=3)
    rows = net.blocks[0].rows
    atoms = atoms_of(net.build())
    expected = [{*qk[h].tolist(), *v[h].tolist(), int(rows[h])} for h in range(4)]
    assert sets(atoms, qk) == expected
    assert sets(atoms, stream) == [{int(u)} for u in stream]
    assert atoms.n_streams == 2


def test_few_heads_shrink_inside(net: Maker) -> None:
    """Two heads: the lowest columns of both go together, for q with k and for v apart."""
    stream = net.units(8)
    qk, v = attention(net, "a", stream, heads=2, width=3)
    score = np.zeros(net.n_units)
    score[qk] = [[3.0, 1.0, 2.0], [5.0, 6.0, 4.0]]
    score[v] = [[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]
    atoms = atoms_of(net.build(), score=score)
    q = qk.tolist()
    assert sorted(map(sorted, sets(atoms, qk))) == sorted(
        map(sorted, ([q[0][1], q[1][2]], [q[0][2], q[1][0]], [q[0][0], q[1][1]]))
    )
    assert {frozenset(s) for s in sets(atoms, v)} == {
        frozenset((int(v[0, j]), int(v[1, 2 - j]))) for j in range(3)
    }
    assert sorted(atoms.score[np.unique(atoms.of_unit[qk])]) == [2.5, 3.5, 4.5]


def test_joint_layout_of_q_k_v_drops_heads_not_q(net: Maker) -> None:
    """(3, heads, width): the outer rows are q, k and v, whose removal would remove everything."""
    stream, heads, width = net.units(6), 4, 2
    qk, v = net.units(heads, width), net.units(heads, width)
    head = net.units(heads)
    net.layer("qkv", stream, np.concatenate([qk, qk, v]))
    net.layer("proj", v, stream)
    net.block(np.concatenate([qk, v]), rows=np.concatenate([head, head]))
    net.block(np.stack([head, head, head]))
    atoms = atoms_of(net.build())
    assert sets(atoms, v) == [{*qk[h].tolist(), *v[h].tolist(), int(head[h])} for h in range(heads)]


def test_nested_heads_go_equally_from_each_key(net: Maker) -> None:
    """Three query heads per key head with their own units: one of each key's query heads goes at a time."""
    stream = net.units(6)
    query, value = net.units(6, 2), net.units(2, 2)
    net.layer("q", stream, query)
    net.layer("kv", stream, value)
    rows = net.block(query)
    keys = net.block(rows.reshape(2, 3))
    net.block(value, rows=keys)
    net.axes["table", 0] = keys  # real units, with scores like any other
    coupling = net.build()
    atoms = atoms_of(coupling, "whole")
    found = sets(atoms, query)
    assert len(found) == 3
    for atom in found:
        cells = [set(query[h].tolist()) <= atom for h in range(6)]
        assert sum(cells[:3]) == sum(cells[3:]) == 1
    assert (atoms.of_unit[keys] < 0).all()


def test_one_key_head_for_all_queries_shrinks_inside(net: Maker) -> None:
    """Multi-query attention: all query heads share the key's units, so no head can go alone."""
    stream = net.units(4)
    key = net.units(1, 5)
    rows = net.units(8)
    net.layer("q", stream, np.repeat(key, 8, axis=0))
    net.block(np.repeat(key, 8, axis=0), rows=rows)
    atoms = atoms_of(net.build())
    assert sets(atoms, key) == [{int(u)} for u in key[0]]


def test_columns_go_from_all_rows(net: Maker) -> None:
    """Rotary tables tie a position across heads: inside, a position goes from every head."""
    stream = net.units(4)
    cells = net.units(3, 4)
    net.layer("q", stream, cells)
    net.block(cells, columns=True)
    columns = net.blocks[0].columns
    assert columns is not None
    inside = atoms_of(net.build(), "inside")
    assert sets(inside, cells) == [{*cells[:, j].tolist(), int(columns[j])} for j in range(4)]
    whole = atoms_of(net.build(), "whole")
    assert [len(s) for s in sets(whole, cells)] == [5, 5, 5]
    assert (whole.of_unit[columns] < 0).all()


def test_a_pinned_cell_holds_its_row(net: Maker) -> None:
    stream = net.units(4)
    cells = net.units(4, 3)
    net.layer("q", stream, cells)
    net.block(cells)
    net.pin(cells[1, :1])
    coupling = net.build()
    whole = atoms_of(coupling, "whole")
    assert (whole.of_unit[cells[1]] < 0).all()
    assert len(sets(whole, cells)) == 3
    inside = atoms_of(coupling, "inside")
    # Row 1 has two cells to spare, so each row gives two; the third of the others stays.
    assert len(sets(inside, cells)) == 2
    assert all(len(s) == 4 for s in sets(inside, cells))


def test_coarse_layout_follows_the_fine_one(net: Maker) -> None:
    """Group norm over two halves on top of four groups: a cell of each group is two of each half."""
    stream = net.units(4)
    hidden = net.units(12)
    net.layer("in", stream, hidden)
    net.block(hidden.reshape(2, 6))
    grouped(net, "g", hidden, 4)
    atoms = atoms_of(net.build(), "inside")
    assert all(len(s) == 4 for s in sets(atoms, hidden))
    whole = atoms_of(net.build(), "whole")
    # Whole groups go in pairs, one of each half, with what the grouped convolution makes of them.
    assert all(len(s & set(hidden.tolist())) == 6 for s in sets(whole, hidden))
    assert len(sets(whole, hidden)) == 2


@pytest.mark.parametrize(("groups", "each"), [(2, 2), (3, 1), (4, 2), (8, 4)])
def test_shuffle_between_grouped_convolutions(net: Maker, groups: int, each: int) -> None:
    """The same channels partitioned in two ways that cross: each atom takes one of every row of both."""
    stream = net.units(4)
    hidden = net.units(groups * groups * each)
    net.layer("in", stream, hidden)
    middle = grouped(net, "a", hidden, groups)
    shuffled = middle.reshape(groups, -1).T.reshape(groups, -1)
    grouped(net, "b", shuffled.reshape(-1), groups)
    coupling = net.build()
    atoms = atoms_of(coupling, "inside", np.random.default_rng(0).random(coupling.n_units))
    assert atoms.notes == ()
    found = sets(atoms, middle)
    assert len(found) == groups * each
    for atom in found:
        keep = np.ones(coupling.n_units, bool)
        keep[list(atom)] = False
        assert [breach(block, keep) for block in coupling.blocks] == [""] * len(coupling.blocks)
        assert len(atom & set(middle.reshape(-1).tolist())) == groups
    # Rows cannot go: each holds channels of every row of the other layout.
    assert {frozenset(s) for s in sets(atoms_of(coupling, "auto"), middle)}


def test_single_cells_are_their_rows(net: Maker) -> None:
    """A depthwise convolution has one channel a group: no constraint at all."""
    stream = net.units(6)
    hidden = net.units(6)
    net.layer("in", stream, hidden)
    rows = net.block(hidden[:, None], columns=True)
    column, padding = net.blocks[0].columns, net.units(2)
    atoms = atoms_of(net.build())
    assert (atoms.of_unit[padding] < 0).all()  # occupies no tensor
    assert sets(atoms, hidden) == [{int(hidden[k]), int(rows[k])} for k in range(6)]
    assert (atoms.of_unit[column] < 0).all()  # the virtual column lives as long as any of them


def test_impossible_layout_is_left_whole_and_named(net: Maker) -> None:
    """Unequal shares: unit 0 fills row 0 alone, while row 1 holds it once beside another."""
    stream = net.units(3)
    a, b = net.units(2)
    net.layer("x", stream, np.array([a, b]))
    net.block(np.array([[a, a], [a, b]]))
    atoms = atoms_of(net.build(), "inside")
    assert (atoms.of_unit[[a, b]] < 0).all()
    assert "'view_0'" in atoms.notes[0]


def test_close_spreads_over_levels() -> None:
    rows, cells, outer = np.array([0, 1]), np.array([[2, 3], [4, 5]]), np.array([6])
    blocks = (Block(outer, rows[None], None, "outer"), Block(rows, cells, None, "inner"))
    keep = np.ones(7, bool)
    keep[[2, 3]] = False
    assert np.flatnonzero(~close(blocks, keep)).tolist() == [0, 2, 3]
    keep[6] = False
    assert not close(blocks, keep).any()


@pytest.mark.parametrize(
    ("dead", "words"),
    [([2], "keep 1, 2 of 2"), ([0], "row 0 is marked removed"), ([0, 2, 3], ""), ([2, 5], "")],
)
def test_breach_says_how(dead: list[int], words: str) -> None:
    block = Block(np.array([0, 1]), np.array([[2, 3], [4, 5]]), None, "view")
    keep = np.ones(6, bool)
    keep[dead] = False
    assert (words in breach(block, keep)) if words else breach(block, keep) == ""


def test_breach_of_columns() -> None:
    block = Block(np.array([0, 1]), np.array([[2, 3], [4, 5]]), np.array([6, 7]), "view")
    keep = np.ones(8, bool)
    keep[[2, 5]] = False
    assert "all rows must keep the same positions" in breach(block, keep)
    keep = np.ones(8, bool)
    keep[[2, 4, 6]] = False
    assert breach(block, keep) == ""
