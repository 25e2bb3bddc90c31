"""A budget decides how far each chain of bundles is cut.

Bundles are ranked by score over all chains.  The shortest prefix of that ranking which meets the budget is
removed; then bundles are put back, best first, while the budget still holds.  Where a noticeable gap is
left, single bundles are exchanged, and the bundle that overshot is spared to see whether the next ones in the
ranking come closer.  The result never exceeds the budget if any cut does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fxprune.coupling.cost import Terms
from fxprune.labels import BoolArray, FloatArray, IntArray
from fxprune.planning.alignment import Chains

__all__ = ["Meter", "cut_chains"]

CLOSE_ENOUGH = 1e-3
"""Gap to the budget, as a share of the dense quantity, below which nothing more is exchanged."""

EXCHANGES = 4
"""Most exchanges of bundles."""

CANDIDATES = 16
"""Bundles tried as the one that goes in an exchange."""

SPARED = 8
"""Most bundles that are spared, one after another, because they overshoot."""


@dataclass(frozen=True, eq=False)
class Meter:
    """The budgeted quantity as a function of the atoms kept of each stream.

    Attributes:
        terms: What is added up.
        base: int64[n_forms], form values when no removable atom is there.
        weight: float64[n_forms, n_streams], positions of one atom in each form (whole numbers).
        chains: How streams hang together.
    """

    terms: Terms
    base: IntArray
    weight: FloatArray
    chains: Chains

    def forms(self, state: IntArray) -> IntArray:
        """Form values int64[n_forms] at a state int64[n_chains]."""
        # Float products of small whole numbers are exact, and BLAS is faster than integer loops.
        return self.base + (self.weight @ self.chains.atoms_kept(state).astype(np.float64)).astype(np.int64)

    def value(self, state: IntArray) -> int:
        """The quantity at a state int64[n_chains]."""
        return int(self.terms.values(self.forms(state)).sum())

    @cached_property
    def _nonzero(self) -> tuple[IntArray, IntArray]:
        """Every (form, stream) where the stream has positions in the form."""
        form, stream = np.nonzero(self.weight)
        return form, stream

    @cached_property
    def _pairs(self) -> tuple[IntArray, IntArray]:
        """Every (chain, term) where the chain has a say in the term."""
        touches = np.zeros((len(self.chains.length), len(self.base) + 1), bool)
        form, stream = self._nonzero
        touches[self.chains.chain_of_stream[stream], form] = True
        factors = np.concatenate([self.terms.factors, self.terms.divisor[:, None]], axis=1)
        chain, term = np.nonzero(touches[:, factors].any(axis=2))
        return chain, term

    def steps(self, state: IntArray, direction: int) -> IntArray:
        """Change of the quantity when one chain moves by one bundle, for each chain alone.

        Args:
            state: int64[n_chains].
            direction: 1 removes the next bundle, -1 puts the last one back.

        Returns:
            int64[n_chains], 0 where the chain is at its end.
        """
        return self._changes(state, np.clip(state + direction, 0, self.chains.length))

    def saved(self) -> IntArray:
        """What each chain saves when it alone is cut as far as it goes: int64[n_chains]."""
        return -self._changes(np.zeros(len(self.chains.length), np.int64), self.chains.length)

    def _changes(self, state: IntArray, moved: IntArray) -> IntArray:
        """Change of the quantity from one state when one chain moves to its place in another, for each chain alone."""
        chains = self.chains
        change = (chains.atoms_kept(moved) - chains.atoms_kept(state)).astype(np.float64)
        forms = self.forms(state)
        form, stream = self._nonzero
        cell = chains.chain_of_stream[stream] * (len(forms) + 1) + form
        cells = len(state) * (len(forms) + 1)
        shift = np.bincount(cell, self.weight[form, stream] * change[stream], cells).astype(np.int64)
        shift = shift.reshape(len(state), len(forms) + 1)
        chain, term = self._pairs
        padded = np.append(forms, 1)
        factors, divisor = self.terms.factors[term], self.terms.divisor[term]
        below = np.where(divisor >= 0, padded[divisor] + shift[chain, divisor], 1)
        after = self.terms.of(term, padded[factors] + shift[chain[:, None], factors], below)
        result = np.zeros(len(state), np.int64)
        np.add.at(result, chain, after - self.terms.values(forms)[term])
        return result


def cut_chains(meter: Meter, target: int, dense: int) -> IntArray:
    """Choose how many bundles of each chain go.

    Args:
        meter: The budgeted quantity.
        target: Most that may be left of it.
        dense: What it is when nothing goes.

    Returns:
        int64[n_chains]; everything that may go if even that exceeds the target.
    """
    return _Cut(meter, target, int(dense * CLOSE_ENOUGH)).run()


class _Cut:
    """One search; ``order`` ranks all bundles, forced ones first and last."""

    def __init__(self, meter: Meter, target: int, tolerance: int) -> None:
        self.meter = meter
        self.chains = meter.chains
        self.target = target
        self.tolerance = tolerance
        chain = self.chains.chain
        n_chains = len(self.chains.length)
        self.order = np.argsort(self.chains.score, kind="stable")
        self.place = np.arange(len(chain)) - self.chains.start[chain]
        self.lowest = np.bincount(chain[self.chains.score == -np.inf], minlength=n_chains)
        self.highest = np.bincount(chain[self.chains.score < np.inf], minlength=n_chains)

    def run(self) -> IntArray:
        limit = self.highest.copy()
        best, last = self._under(limit)
        for _ in range(SPARED):
            if last is None or not 0 <= self.tolerance < self._gap(best):
                break
            limit[self.chains.chain[last]] = self.place[last]
            other, last = self._under(limit)
            if 0 <= self._gap(other) < self._gap(best):
                best = other
        return best

    def _gap(self, state: IntArray) -> int:
        return self.target - self.meter.value(state)

    def _under(self, limit: IntArray) -> tuple[IntArray, int | None]:
        """The best state found under a limit for each chain, and the bundle with which the budget was met."""
        state, last = self._shortest_prefix(limit)
        if self._gap(state) < 0:
            return state, None
        state = self._fill(state)
        for _ in range(EXCHANGES):
            better = self._exchange(state, limit) if self._gap(state) > self.tolerance else None
            if better is None:
                break
            state = self._fill(better)
        return state, last

    def _shortest_prefix(self, limit: IntArray) -> tuple[IntArray, int | None]:
        """The fewest bundles, in order of score, that meet the target (or all that may go), and the last of them."""
        chain = self.chains.chain
        order = self.order[self.place[self.order] < limit[chain[self.order]]]

        def prefix(count: int) -> IntArray:
            return np.bincount(chain[order[:count]], minlength=len(limit))

        first = low = int(self.lowest.sum())
        high = len(order)
        while low < high:
            middle = (low + high) // 2
            if self._gap(prefix(middle)) >= 0:
                high = middle
            else:
                low = middle + 1
        return prefix(low), int(order[low - 1]) if low > first else None

    def _fill(self, state: IntArray) -> IntArray:
        """Put bundles back, highest score first, while the budget holds.

        A chain whose last bundle does not fit is closed: room only shrinks, so it never will.
        """
        closed = state <= self.lowest
        while not closed.all():
            gap = self._gap(state)
            closed |= self.meter.steps(state, -1) > gap
            removed = self.order[self._is_removed(state, closed)[self.order]][::-1]
            if gap <= self.tolerance or not removed.size:
                break
            low, high = 0, len(removed)
            while low < high:
                middle = (low + high + 1) // 2
                if self._gap(self._back(state, removed[:middle])) >= 0:
                    low = middle
                else:
                    high = middle - 1
            state = self._back(state, removed[:low])
            closed |= state <= self.lowest
            if low < len(removed):
                closed[self.chains.chain[removed[low]]] = True
        return state

    def _is_removed(self, state: IntArray, closed: BoolArray) -> BoolArray:
        """bool[n_bundles]: gone at ``state``, by choice, in a chain that is not closed."""
        chain = self.chains.chain
        by_choice = self.place >= self.lowest[chain]
        return by_choice & (self.place < state[chain]) & ~closed[chain]

    def _back(self, state: IntArray, bundles: IntArray) -> IntArray:
        return np.asarray(state - np.bincount(self.chains.chain[bundles], minlength=len(state)))

    def _exchange(self, state: IntArray, limit: IntArray) -> IntArray | None:
        """Remove one more bundle and put another back, if that comes closer; the best such pair."""
        able = np.flatnonzero(state < limit)
        next_score = self.chains.score[self.chains.start[able] + state[able]]
        best_value, best = self.meter.value(state), None
        for chain in able[np.argsort(next_score, kind="stable")[:CANDIDATES]]:
            after = state.copy()
            after[chain] += 1
            change = self.meter.steps(after, -1)
            value = self.meter.value(after) + change
            value[(after <= self.lowest) | (np.arange(len(state)) == chain) | (value > self.target)] = -1
            back = int(np.argmax(value))
            if value[back] > best_value:
                best_value = int(value[back])
                best = after.copy()
                best[back] -= 1
        return best
