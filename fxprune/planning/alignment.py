"""Widths that a runtime likes: streams of atoms become chains of bundles.

A convolution is fast when its width ends on a step (16 channels with AVX-512), and a width off the
step is slower than the next wider step.  So atoms are not removed one by one: a *bundle* is what takes
every width it touches from one good width to the next lower one.  A *chain* is the order in
which the bundles of connected streams go; the search above only decides how far each chain is cut.

Good widths of an axis of ``size`` positions: the size itself, and the multiples of the step.  What had a
whole step keeps one, for below it another, slower kernel runs; where not even one fits (a squeeze of 8), the step
is halved until two do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fxprune.labels import BoolArray, FloatArray, IntArray, components

__all__ = ["Chains", "Lane", "Streams", "good_widths", "make_chains"]

FORCED = 1e30
"""Score that stands for "must go" (negative) and "must stay" where a ratio was given."""


@dataclass(frozen=True, eq=False)
class Lane:
    """A width that should end on a step.

    Attributes:
        fixed: Positions that carry no removable unit.
        weight: int64[n_streams], positions that each atom of a stream occupies.
        size: Dense width.
        step: Step in positions.
    """

    fixed: int
    weight: IntArray
    size: int
    step: int


@dataclass(frozen=True, eq=False)
class Streams:
    """Atoms that cost the same, per stream, lowest score first.

    Attributes:
        scores: float64[n] per stream, ascending.
        floor: int64[n_streams], atoms that each stream keeps at least.
        leaving: int64[n_streams], atoms that must go because a ratio was given, -1 where none was.
    """

    scores: Sequence[FloatArray]
    floor: IntArray
    leaving: IntArray

    @property
    def sizes(self) -> IntArray:
        """int64[n_streams], number of atoms."""
        return np.array([len(s) for s in self.scores], np.int64)


@dataclass(frozen=True, eq=False)
class Chains:
    """Bundles in the order in which they go.

    Attributes:
        chain_of_stream: int64[n_streams], ascending chain by chain.
        order: int64[n_streams], streams sorted by chain.
        kept: Atoms left of each stream at each state of its chain, all streams after one another.
        offset: int64[n_streams], where a stream's states begin in ``kept``.
        score: float64[n_bundles], chain after chain, ascending within each; -inf must go, inf must stay.
        chain: int64[n_bundles], chain of each bundle.
        start: int64[n_chains + 1], first bundle of each chain.
    """

    chain_of_stream: IntArray
    kept: IntArray
    offset: IntArray
    score: FloatArray
    chain: IntArray
    start: IntArray

    @property
    def length(self) -> IntArray:
        """int64[n_chains], number of bundles."""
        return np.diff(self.start)

    def atoms_kept(self, state: IntArray) -> IntArray:
        """int64[n_streams], atoms left when ``state`` (int64[n_chains]) bundles of each chain are gone."""
        return np.asarray(self.kept[self.offset + state[self.chain_of_stream]])


def good_widths(size: int, step: int) -> BoolArray:
    """Which widths up to ``size`` are good: bool[size + 1].

    Example:
        >>> [np.flatnonzero(good_widths(size, 16)).tolist() for size in (64, 40, 24, 16, 12)]
        [[0, 16, 32, 48, 64], [0, 16, 32, 40], [0, 16, 24], [0, 16], [0, 4, 8, 12]]
    """
    if size < step:
        while step > 1 and size < 2 * step:
            step //= 2
    good = np.zeros(size + 1, bool)
    good[::step] = True
    good[size] = True
    return good


def make_chains(streams: Streams, lanes: Sequence[Lane]) -> Chains:
    """Bundle the atoms of every stream so that all lanes stay on good widths.

    Args:
        streams: Atoms by stream.
        lanes: Widths to keep on steps; streams that meet in one lane share a chain.
    """
    n_streams = len(streams.scores)
    touched = [np.flatnonzero(lane.weight) for lane in lanes]
    left = np.concatenate(
        [np.full(len(t), n_streams + k) for k, t in enumerate(touched)] or [np.zeros(0, int)]
    )
    right = np.concatenate(touched or [np.zeros(0, int)])
    label = components(n_streams + len(lanes), left, right)[:n_streams]
    _, first, chain_of_stream = np.unique(label, return_index=True, return_inverse=True)
    lanes_of: list[list[Lane]] = [[] for _ in first]
    for lane, streams_of_lane in zip(lanes, touched, strict=True):
        if streams_of_lane.size:
            lanes_of[chain_of_stream[streams_of_lane[0]]].append(lane)
    states: list[IntArray] = [np.zeros(0, np.int64)] * n_streams
    scores: list[FloatArray] = []
    for chain in range(len(first)):
        members = np.flatnonzero(chain_of_stream == chain)
        table = _states(streams, members, lanes_of[chain])
        for column, stream in enumerate(members):
            states[stream] = table[:, column]
        scores.append(_bundle_scores(streams, members, table))
    lengths = np.array([len(s) for s in scores], np.int64)
    sizes = np.array([len(s) for s in states], np.int64)
    return Chains(
        chain_of_stream=chain_of_stream.reshape(-1).astype(np.int64),
        kept=np.concatenate([*states, np.zeros(0, np.int64)]),
        offset=np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)[:n_streams],
        score=np.concatenate([*scores, np.zeros(0)]),
        chain=np.repeat(np.arange(len(lengths)), lengths),
        start=np.concatenate([[0], np.cumsum(lengths)]),
    )


def _states(streams: Streams, members: IntArray, lanes: Sequence[Lane]) -> IntArray:
    """Atoms left of each stream, state after state from dense to smallest: int64[states, members]."""
    if len(members) > 1:
        return _Path(streams, members, lanes).walk()
    stream = int(members[0])
    size = len(streams.scores[stream])
    counts = np.arange(size, int(streams.floor[stream]) - 1, -1)
    good = np.ones(len(counts), bool)
    for lane in lanes:
        good &= good_widths(lane.size, lane.step)[lane.fixed + lane.weight[stream] * counts]
    good[:1] = True
    return counts[good, None]


def _bundle_scores(streams: Streams, members: IntArray, table: IntArray) -> FloatArray:
    """Mean score of the atoms in each bundle, never lower than that of a bundle which goes before."""
    n_bundles = len(table) - 1
    total, count, balance = np.zeros(n_bundles), np.zeros(n_bundles), np.zeros(n_bundles)
    for column, stream in enumerate(members):
        gone = len(streams.scores[stream]) - table[:, column]
        total += np.diff(np.concatenate([[0.0], np.cumsum(streams.scores[stream])])[gone])
        count += np.diff(gone)
        if streams.leaving[stream] >= 0:
            must_go = np.diff(np.minimum(gone, streams.leaving[stream]))
            # Half a bundle too much or too little is a draw; the half left over decides for "go".
            balance += np.where(np.diff(gone) > 0, np.diff(gone) - 2 * must_go - 0.5, 0)
    score = total / np.maximum(count, 1)
    score[balance < 0] = -np.inf
    score[balance > 0] = np.inf
    return np.asarray(np.maximum.accumulate(score))


class _Path:
    """Bundles of streams that share lanes, found one after another from the lowest score up.

    Each bundle starts with the lowest atom left and then takes, lane by lane, the lowest atoms that bring
    the lane back to a good width, preferring atoms that disturb no other lane.
    """

    def __init__(self, streams: Streams, members: IntArray, lanes: Sequence[Lane]) -> None:
        self.scores = [_with_force(streams, int(s)) for s in members]
        self.floor = streams.floor[members]
        self.size = streams.sizes[members]
        self.weight = np.array([lane.weight[members] for lane in lanes], np.int64).reshape(len(lanes), -1)
        self.fixed = np.array([lane.fixed for lane in lanes], np.int64)
        self.good = [good_widths(lane.size, lane.step) for lane in lanes]

    def walk(self) -> IntArray:
        kept = self.size.copy()
        states = [kept]
        blocked = np.zeros(len(kept), bool)
        while (ready := np.flatnonzero((kept > self.floor) & ~blocked)).size:
            seed = int(min(ready, key=lambda s: self.scores[s][self.size[s] - kept[s]]))
            after = self._bundle(kept, seed)
            if after is None:
                blocked[seed] = True
                continue
            kept = after
            states.append(kept)
            blocked[:] = False
        return np.array(states, np.int64)

    def _bundle(self, kept: IntArray, seed: int) -> IntArray | None:
        """Atoms kept after the bundle around a seed, or None if the lanes cannot be settled."""
        kept = kept.copy()
        kept[seed] -= 1
        for _ in range(4 * len(self.good) + 4):
            width = self.fixed + self.weight @ kept
            off = np.array([not good[w] for good, w in zip(self.good, width, strict=True)], bool)
            if not off.any():
                return kept
            # The lane with the fewest streams has the least choice, so it goes first.
            lane = int(min(np.flatnonzero(off), key=lambda k: int((self.weight[k] > 0).sum())))
            if not self._settle(kept, lane, int(width[lane]), off):
                return None
        return None

    def _settle(self, kept: IntArray, lane: int, width: int, off: BoolArray) -> bool:
        """Take atoms from ``kept`` until the lane is at a good width; False if that is impossible."""
        disturbed = ((self.weight > 0) & ~off[:, None]).sum(axis=0)
        spare = kept - self.floor
        options = np.flatnonzero((self.weight[lane] > 0) & (spare > 0))
        for target in np.flatnonzero(self.good[lane][:width])[::-1]:
            need = width - int(target)
            taken = self._cheapest(kept, options, disturbed, lane, need)
            if taken is not None:
                kept -= taken
                return True
        return False

    def _cheapest(
        self, kept: IntArray, options: IntArray, disturbed: IntArray, lane: int, need: int
    ) -> IntArray | None:
        """The lowest atoms that occupy exactly ``need`` positions of a lane: int64[members] or None."""
        taken = np.zeros(len(kept), np.int64)
        for level in np.unique(disturbed[options]):
            for weight in np.unique(self.weight[lane, options])[::-1]:
                same = options[(disturbed[options] == level) & (self.weight[lane, options] == weight)]
                most = need // int(weight)
                if not same.size or most == 0:
                    continue
                chosen = self._lowest(kept, same, most)
                taken += chosen
                need -= int(weight) * int(chosen.sum())
                if need == 0:
                    return taken
        return None

    def _lowest(self, kept: IntArray, options: IntArray, most: int) -> IntArray:
        """How many atoms of each option are among the ``most`` lowest that are left."""
        gone = self.size - kept
        tops = [self.scores[s][gone[s] : gone[s] + min(most, kept[s] - self.floor[s])] for s in options]
        owner = np.repeat(options, [len(t) for t in tops])
        order = np.argsort(np.concatenate(tops), kind="stable")[:most]
        return np.bincount(owner[order], minlength=len(kept))


def _with_force(streams: Streams, stream: int) -> FloatArray:
    """Scores in which what a ratio sends away comes before everything, and what it keeps after."""
    leaving = int(streams.leaving[stream])
    if leaving < 0:
        return streams.scores[stream]
    rank = np.arange(len(streams.scores[stream]))
    return np.where(rank < leaving, -FORCED, FORCED)
