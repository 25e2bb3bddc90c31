"""Hand-made couplings: small networks written down as units, groups, blocks and costs, without torch."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st

from fxprune.coupling.cost import CostBuilder
from fxprune.coupling.groups import Block, Coupling, Group, Pin
from fxprune.labels import IntArray
from fxprune.plans import Axis


@dataclass
class Maker:
    """Collects units and axes; groups follow from which units share their axes."""

    n_units: int = 0
    axes: dict[Axis, IntArray] = field(default_factory=dict)
    producers: set[Axis] = field(default_factory=set)
    blocks: list[Block] = field(default_factory=list)
    pinned: list[IntArray] = field(default_factory=list)
    costs: CostBuilder = field(default_factory=CostBuilder)

    def units(self, *shape: int) -> IntArray:
        count = int(np.prod(shape))
        self.n_units += count
        return np.arange(self.n_units - count, self.n_units).reshape(shape)

    def layer(
        self, name: str, reads: IntArray, makes: IntArray, *, pixels: int = 9, rows: IntArray | None = None
    ) -> None:
        """A layer with weight [makes, reads]; with ``rows`` a grouped one, whose groups are these units."""
        reads, makes = reads.reshape(-1), makes.reshape(-1)
        self.axes[f"{name}.weight", 0] = makes
        self.producers.add((f"{name}.weight", 0))
        out, into = self.costs.form(makes), self.costs.form(reads)
        if rows is None:
            self.axes[f"{name}.weight", 1] = reads
            self.costs.add_params(1, out, into)
            self.costs.add_macs(pixels, out, into)
        else:
            self.costs.add_params(len(reads) // len(rows), out)
            self.costs.add_macs(pixels, out, into, divisor=self.costs.form(rows))

    def block(self, cells: IntArray, *, rows: IntArray | None = None, columns: bool = False) -> IntArray:
        """A layout; its rows and columns are virtual units unless given. Returns the rows."""
        rows = self.units(len(cells)) if rows is None else rows
        named = self.units(cells.shape[1]) if columns else None
        self.blocks.append(Block(rows, cells, named, f"view_{len(self.blocks)}"))
        return rows

    def pin(self, units: IntArray) -> None:
        self.pinned.append(units.reshape(-1))

    def build(self) -> Coupling:
        pinned = np.zeros(self.n_units, bool)
        for units in self.pinned:
            pinned[units] = True
        signature: list[dict[object, int]] = [defaultdict(int) for _ in range(self.n_units)]
        for axis, units in self.axes.items():
            for unit in units.tolist():
                signature[unit][axis] += 1
        for k, block in enumerate(self.blocks):
            for unit in np.unique(block.cells).tolist():
                signature[unit]["cell", k] += 1
        members: dict[object, list[int]] = defaultdict(list)
        for unit, counts in enumerate(signature):
            if any(isinstance(key[1], int) and key[0] != "cell" for key in counts):  # type: ignore[index]
                members[frozenset(counts.items()), bool(pinned[unit])].append(unit)
        groups = tuple(
            self._group(number, np.array(its), pinned) for number, its in enumerate(members.values())
        )
        cost = self.costs.build(np.arange(self.n_units))
        return Coupling(groups, tuple(self.blocks), self.n_units, pinned, dict(self.axes), cost, "hand-made")

    def _group(self, number: int, units: IntArray, pinned: np.ndarray) -> Group:
        indices: dict[Axis, IntArray] = {}
        for axis, at in self.axes.items():
            found = [np.flatnonzero(at == unit) for unit in units]
            if len(found[0]):
                indices[axis] = np.stack(found)
        return Group(
            name=f"g{number}",
            units=units,
            indices=indices,
            producers=tuple(a for a in indices if a in self.producers),
            consumers=tuple(a for a in indices if a not in self.producers),
            exact=True,
            pinned=Pin("test") if pinned[units[0]] else None,
        )


def chain(*widths: int) -> Coupling:
    """Plain layers one after another; the first and the last width are pinned."""
    maker = Maker()
    units = [maker.units(n) for n in widths]
    for k in range(1, len(units)):
        maker.layer(f"l{k}", units[k - 1], units[k], pixels=10 * (len(units) - k))
    maker.pin(units[0])
    maker.pin(units[-1])
    return maker.build()


def attention(maker: Maker, name: str, stream: IntArray, heads: int, width: int) -> tuple[IntArray, IntArray]:
    """q and k tied within a head, v on its own, rows shared; reads and writes a residual stream."""
    qk, v = maker.units(heads, width), maker.units(heads, width)
    maker.layer(f"{name}.q", stream, qk)
    maker.layer(f"{name}.k", stream, qk)
    maker.layer(f"{name}.v", stream, v)
    maker.layer(f"{name}.proj", v, stream)
    rows = maker.block(qk)
    maker.block(v, rows=rows)
    return qk, v


def grouped(maker: Maker, name: str, reads: IntArray, groups: int, *, columns: bool = False) -> IntArray:
    """A grouped convolution between plain ones; returns what it makes."""
    cells, out = reads.reshape(groups, -1), maker.units(groups, reads.size // groups)
    rows = maker.block(cells, columns=columns)
    maker.block(out, rows=rows)
    maker.layer(name, cells, out, rows=rows)
    return out


def square(maker: Maker, reads: IntArray) -> IntArray:
    """A product of everything with everything: row k and column k of the layout are one unit. Returns the cells."""
    cells = maker.units(len(reads), len(reads))
    maker.blocks.append(Block(reads, cells, reads, f"view_{len(maker.blocks)}"))
    return cells


@st.composite
def couplings(draw: st.DrawFn) -> Coupling:
    """Random networks of residual streams, attention, grouped convolutions, shuffles and padded shortcuts."""
    maker = Maker()
    image, classes = maker.units(3), maker.units(draw(st.integers(2, 5)))
    maker.pin(image)
    maker.pin(classes)
    stream = maker.units(draw(st.sampled_from([8, 12, 16, 32, 40])))
    maker.layer("stem", image, stream, pixels=100)
    for k in range(draw(st.integers(1, 4))):
        part = draw(
            st.sampled_from(
                ["mlp", "attention", "grouped", "columns", "shuffle", "pad", "nested", "gn", "glu", "square"]
            )
        )
        name = f"b{k}"
        if part == "mlp":
            hidden = maker.units(draw(st.integers(2, 40)))
            maker.layer(f"{name}.up", stream, hidden)
            maker.layer(f"{name}.down", hidden, stream)
        elif part == "attention":
            attention(maker, name, stream, draw(st.integers(1, 8)), draw(st.integers(1, 6)))
        elif part in ("grouped", "columns"):
            groups = draw(st.sampled_from([2, 4, 8]))
            hidden = maker.units(groups * draw(st.integers(1, 6)))
            maker.layer(f"{name}.in", stream, hidden)
            out = grouped(maker, f"{name}.group", hidden, groups, columns=part == "columns")
            maker.layer(f"{name}.out", out, stream)
        elif part == "shuffle":
            groups = draw(st.sampled_from([2, 3, 4]))
            hidden = maker.units(groups * groups * draw(st.integers(1, 4)))
            maker.layer(f"{name}.in", stream, hidden)
            middle = grouped(maker, f"{name}.first", hidden, groups)
            shuffled = middle.reshape(groups, -1).T.reshape(groups, -1)
            out = maker.units(*shuffled.shape)
            rows = maker.block(shuffled)
            maker.block(out, rows=rows)
            maker.layer(f"{name}.second", shuffled, out, rows=rows)
            maker.layer(f"{name}.out", out, stream)
        elif part == "pad":
            wider = np.concatenate([maker.units(4), stream, maker.units(4)])
            hidden = maker.units(draw(st.integers(2, 20)))
            maker.layer(f"{name}.up", stream, hidden, pixels=30)
            maker.layer(f"{name}.down", hidden, wider, pixels=30)
            stream = wider
        elif part == "nested":
            keys, per_key, width = draw(st.integers(2, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
            query = maker.units(keys * per_key, width)
            value = maker.units(keys, width)
            maker.layer(f"{name}.q", stream, query)
            maker.layer(f"{name}.kv", stream, value)
            maker.layer(f"{name}.proj", query, stream)
            query_rows = maker.block(query)
            key_rows = maker.block(query_rows.reshape(keys, per_key))
            maker.block(value, rows=key_rows)
        elif part == "gn":
            hidden = maker.units(8 * draw(st.integers(1, 4)))
            maker.layer(f"{name}.in", stream, hidden)
            maker.block(hidden.reshape(2, -1))
            out = grouped(maker, f"{name}.group", hidden, 4)
            maker.layer(f"{name}.out", out, stream)
        elif part == "square":
            hidden = maker.units(draw(st.integers(2, 6)))
            maker.layer(f"{name}.in", stream, hidden)
            maker.layer(f"{name}.out", square(maker, hidden), stream)
        else:
            hidden = maker.units(draw(st.integers(2, 12)))
            maker.layer(f"{name}.in", stream, np.concatenate([hidden, hidden]))
            maker.layer(f"{name}.out", hidden, stream)
    if draw(st.booleans()):
        maker.pin(draw(st.sampled_from([stream[:1], stream[-3:]])))
    maker.layer("head", stream, classes)
    return maker.build()
