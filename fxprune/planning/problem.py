"""From atoms to a search: streams, widths and the meter of a budget, and back to a keep mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from fxprune.coupling.cost import CostModel, Terms
from fxprune.coupling.groups import Coupling
from fxprune.labels import BoolArray, FloatArray, IntArray
from fxprune.planning.alignment import Chains, Lane, Streams
from fxprune.planning.atoms import Atoms
from fxprune.planning.search import Meter
from fxprune.plans import Scope

__all__ = ["Problem", "Width"]


@dataclass(frozen=True, eq=False)
class Width:
    """An axis, or one group of a grouped convolution, whose width should end on a step.

    Attributes:
        units: int64[size], unit at each position.
        step: Step in positions.
    """

    units: IntArray
    step: int


@dataclass(frozen=True, eq=False)
class Problem:
    """What may go, sorted into streams.

    Attributes:
        coupling: Units and groups.
        atoms: What goes together.
        members: Atoms of each stream, lowest score first.
        content: int64[n_groups, n_streams], units of each group in one atom of each stream.
    """

    coupling: Coupling
    atoms: Atoms
    members: tuple[IntArray, ...]
    content: IntArray

    @classmethod
    def of(cls, coupling: Coupling, atoms: Atoms) -> Problem:
        """Sort the atoms of every stream by score."""
        order = np.lexsort((atoms.score, atoms.stream))
        sizes = np.bincount(atoms.stream, minlength=atoms.n_streams)
        members = tuple(np.split(order, np.cumsum(sizes)[:-1])) if len(sizes) else ()
        number = np.full(coupling.n_units, -1, np.int64)
        for k, group in enumerate(coupling.groups):
            number[group.units] = k
        units = np.flatnonzero((number >= 0) & (atoms.of_unit >= 0))
        cell = number[units] * len(sizes) + atoms.stream[atoms.of_unit[units]]
        content = np.bincount(cell, minlength=len(coupling.groups) * len(sizes))
        content = content.reshape(len(coupling.groups), len(sizes)) // np.maximum(sizes, 1)
        return cls(coupling, atoms, members, content)

    def streams(self, *, scope: Scope, keep_at_least: int, ratios: FloatArray) -> Streams:
        """Streams as the alignment sees them.

        Args:
            scope: ``"global"`` compares scores as they are, ``"local"`` ranks within each stream, so that
                all lose the same share, ``"isomorphic"`` within streams of equal shape and role.
            keep_at_least: Units that every group keeps.
            ratios: float64[n_groups], share that a group keeps, NaN where the budget decides.
        """
        scores = [self.atoms.score[atoms] for atoms in self.members]
        if scope != "global":
            kinds = range(len(scores)) if scope == "local" else self._kinds()
            scores = _ranked(scores, np.array(kinds, np.int64))
        sizes = np.array([len(atoms) for atoms in self.members], np.int64)
        # Each stream alone keeps the minimum, so a group that is spread over several keeps more.
        fixed = np.array([(self.atoms.of_unit[g.units] < 0).sum() for g in self.coupling.groups], np.int64)
        wanted = np.minimum(np.maximum(keep_at_least - fixed, 0)[:, None], self.content * sizes)
        floor = np.max(-(-wanted // np.maximum(self.content, 1)), axis=0, initial=0)
        leaving = np.full(len(sizes), -1, np.int64)
        for number in np.flatnonzero(~np.isnan(ratios)):
            its = self.content[number] > 0
            leaving[its] = np.rint(sizes[its] * (1 - ratios[number])).astype(np.int64)
        return Streams(scores, np.minimum(floor, sizes), leaving)

    def _kinds(self) -> list[int]:
        """A number for each stream, equal for those whose groups have equal widths and lie alike in tensors."""
        of_group = [
            (
                len(g.units),
                frozenset((axis in g.producers, axis in g.consumers, axis[1]) for axis in g.indices),
            )
            for g in self.coupling.groups
        ]
        numbers: dict[object, int] = {}
        kinds = []
        for stream in range(len(self.members)):
            held = np.flatnonzero(self.content[:, stream]).tolist()
            key = frozenset((of_group[k], int(self.content[k, stream])) for k in held)
            kinds.append(numbers.setdefault(key, len(numbers)))
        return kinds

    def lanes(self, widths: Sequence[Width]) -> list[Lane]:
        """Widths over streams, each distinct one once.

        A group of a grouped convolution is no lane where whole groups go: it keeps its width.
        """
        lanes: dict[tuple[bytes, int, int, int], Lane] = {}
        sizes = np.array([len(atoms) for atoms in self.members], np.int64)
        for width in widths:
            at = self.atoms.of_unit[width.units]
            touched, times = np.unique(at[at >= 0], return_counts=True)
            stream = self.atoms.stream[touched]
            weight = np.zeros(len(sizes), np.int64)
            weight[stream] = times
            complete = np.bincount(stream, minlength=len(sizes)) == np.where(weight > 0, sizes, 0)
            if not touched.size or not complete.all() or (times != weight[stream]).any():
                continue
            lane = Lane(int((at < 0).sum()), weight, len(width.units), width.step)
            lanes.setdefault((weight.tobytes(), lane.fixed, lane.size, lane.step), lane)
        return list(lanes.values())

    def meter(
        self, model: CostModel, terms: Terms | None, chains: Chains, ratios: FloatArray
    ) -> tuple[Meter, int]:
        """The budgeted quantity over chains, and its dense value.

        Args:
            model: Has the forms of the terms.
            terms: What is budgeted; None: removable units of groups without a ratio of their own.
            chains: How streams hang together.
            ratios: float64[n_groups], share that a group keeps, NaN where the budget decides.
        """
        sizes = np.array([len(atoms) for atoms in self.members], np.int64)
        if terms is None:
            free = np.isnan(ratios)
            weight = self.content[free].sum(axis=0, keepdims=True).astype(np.float64)
            weight[:, (self.content[~free] > 0).any(axis=0)] = 0
            terms = Terms(np.ones(1, np.int64), np.zeros((1, 1), np.int64), np.full(1, -1))
            base = np.zeros(1, np.int64)
        else:
            removable = self.atoms.of_unit >= 0
            base = model.counts(~removable)
            weight = self._per_atom(model.forms, removable) / np.maximum(sizes, 1)
        meter = Meter(terms, base, weight, chains)
        return meter, meter.value(np.zeros(len(chains.length), np.int64))

    def _per_atom(self, forms: csr_array, removable: BoolArray) -> FloatArray:
        """Positions of each stream in each form, all atoms together: float64[n_forms, n_streams]."""
        units = np.flatnonzero(removable)
        stream = self.atoms.stream[self.atoms.of_unit[units]]
        shape = (forms.shape[1], len(self.members))
        of_stream = csr_array((np.ones(len(units), np.int64), (units, stream)), shape=shape)
        return np.asarray((forms @ of_stream).todense(), np.float64)

    def keep(self, kept: IntArray) -> BoolArray:
        """Units that stay when each stream keeps its ``kept`` (int64[n_streams]) highest atoms."""
        gone = [atoms[: len(atoms) - count] for atoms, count in zip(self.members, kept.tolist(), strict=True)]
        dead = np.zeros(len(self.atoms.score) + 1, bool)
        dead[np.concatenate([*gone, np.zeros(0, np.int64)])] = True
        return ~dead[self.atoms.of_unit]


def _ranked(scores: Sequence[FloatArray], kinds: IntArray) -> list[FloatArray]:
    """Scores as ranks in (0, 1) within streams of one kind; equals stand in their order."""
    sizes = np.array([len(s) for s in scores], np.int64)
    every, kind = np.concatenate([*scores, np.zeros(0)]), np.repeat(kinds, sizes)
    order = np.lexsort((every, kind))
    counts = np.bincount(kind, minlength=1)
    first = np.cumsum(counts) - counts
    rank = np.empty(len(every))
    rank[order] = (np.arange(len(every)) - first[kind[order]] + 0.5) / counts[kind[order]]
    return np.split(rank, np.cumsum(sizes)[:-1]) if len(sizes) else []
