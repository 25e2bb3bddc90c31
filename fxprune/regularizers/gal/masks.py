"""Soft masks on a model: one number per block, per branch and per channel, and where each acts.

A block's mask multiplies the output of its residual branch.  Masks of branches and channels multiply where
the units are *read*, at the input of every weighted operator: there a zero is the same as removal, whatever
normalisation lies between.  Both can be folded into parameters afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

import numpy as np
from torch import fx

from fxprune.coupling.analysis import Analysis
from fxprune.coupling.couple import analyse
from fxprune.coupling.groups import Coupling, Group
from fxprune.errors import PlanError
from fxprune.graph.dataflow import DataFlow
from fxprune.graph.trace import Trace
from fxprune.labels import BoolArray, IntArray
from fxprune.plans import Axis
from fxprune.regularizers.gal.folding import fold_into
from fxprune.regularizers.terms.atoms import partition
from fxprune.structures.find import Structure, find_structures

__all__ = ["Gate", "Kind", "Masks", "SliceFold", "make_masks"]

Kind = Literal["block", "branch", "channel"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, eq=False)
class SliceFold:
    """Slices of a parameter that read masked units.

    Attributes:
        axis: The parameter and its dimension.
        entries: int64[layers, size], the masks on each slice; ``len(masks)`` where there is none.
    """

    axis: Axis
    entries: IntArray


@dataclass(frozen=True, eq=False)
class Gate:
    """A place where masks on units multiply.

    Attributes:
        node: The operator that reads.
        argument: Which of its arguments, ``"tensors.1"`` for an item of a list.
        entries: The masks on each position, laid out as the argument; ``len(masks)`` where there is none.
        soft: Multiply by the mask; otherwise (no parameter could take it) only by whether it is positive.
    """

    node: fx.Node
    argument: str
    entries: tuple[IntArray, ...]
    soft: bool


@dataclass(frozen=True, eq=False)
class Masks:
    """All masks of a model, in one vector: blocks, branches, channels.

    Attributes:
        structures: Blocks and branches; they are the first masks, in this order.
        names: Of every mask: the structure, or the group of the channels.
        kinds: Of every mask.
        family: int64[n], channels that must not all go; -1 for structures.
        units: int64[n_units], the mask on each unit's channel, -1 for none.
        gates: Where masks on units act.
        slices: How they are folded.
        wholes: For every block the parameters that its mask is folded into.
        skipped: Structures and free groups without a mask, and why.
    """

    structures: tuple[Structure, ...]
    names: tuple[str, ...]
    kinds: tuple[Kind, ...]
    family: IntArray
    units: IntArray
    gates: tuple[Gate, ...]
    slices: tuple[SliceFold, ...]
    wholes: dict[int, tuple[str, ...]]
    skipped: dict[str, str]

    def __len__(self) -> int:
        return len(self.names)

    def of_kind(self, kind: Kind) -> BoolArray:
        """bool[n]."""
        return np.array([k == kind for k in self.kinds], bool)


def make_masks(
    trace: Trace, groups: Sequence[Group], on: Sequence[Kind], protect: Sequence[str] = ()
) -> Masks:
    """Find everything that can carry a mask.

    Args:
        trace: The traced model.
        groups: Channels of these groups get masks.
        on: Kinds of masks.
        protect: Patterns of structures and groups that get none.

    Raises:
        PlanError: An unknown kind, or there is nothing to mask.
    """
    unknown = [kind for kind in on if kind not in KINDS]
    if unknown or not on:
        raise PlanError(f"on={list(on)!r} names no masks", advice=f"choose among {', '.join(KINDS)}")
    finder = _Finder(trace, protect)
    structures = [s for kind in ("block", "branch") if kind in on for s in finder.structures(kind)]
    atoms = finder.channels(groups) if "channel" in on else np.full(finder.coupled.n_units, -1, np.int64)
    first = len(structures)
    mask_of = np.where(atoms < 0, -1, atoms + first)
    names = [s.name for s in structures] + finder.atom_names(groups, atoms)
    if not names:
        listed = "; ".join(f"{name}: {why}" for name, why in list(finder.skipped.items())[:4])
        raise PlanError(
            f"nothing in this model can carry a mask on {' or '.join(on)}"
            + (f" ({listed})" if listed else ""),
            advice='choose other kinds, on=("channel",) say',
        )
    layers = finder.layers(structures, mask_of, len(names))
    return Masks(
        structures=tuple(structures),
        names=tuple(names),
        kinds=tuple([_kind_of(s) for s in structures] + ["channel"] * (len(names) - first)),
        family=np.concatenate([np.full(first, -1, np.int64), finder.families(atoms)]),
        units=mask_of,
        gates=tuple(finder.gates(layers, structures, len(names))),
        slices=tuple(finder.slices(layers, structures, len(names))),
        wholes={k: finder.wholes[s.name] for k, s in enumerate(structures) if s.kind == "residual"},
        skipped=finder.skipped,
    )


def _kind_of(structure: Structure) -> Kind:
    return "block" if structure.kind == "residual" else "branch"


class _Finder:
    """Looks a trace over for what can be masked exactly."""

    def __init__(self, trace: Trace, protect: Sequence[str]) -> None:
        self.trace = trace
        self.analysis: Analysis = analyse(trace)
        self.coupled: Coupling = self.analysis.coupling
        self.data = DataFlow(trace)
        self.protect = tuple(protect)
        self.skipped: dict[str, str] = {}
        self.wholes: dict[str, tuple[str, ...]] = {}
        self.family_of_unit = np.full(self.coupled.n_units, -1, np.int64)
        self.readers = self._readers()

    def _protected(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.protect)

    def _readers(self) -> dict[fx.Node, Axis]:
        """Operators that read units through a parameter of their own, and the axis of it that they sum over."""
        consumers = {axis for group in self.coupled.groups for axis in group.consumers}
        readers = {}
        for node in self.analysis.consumed:
            for source in node.all_input_nodes:
                name = self.data.owner(str(source.target)) if source.op == "get_attr" else ""
                axes = [a for a in consumers if a[0] == name]
                # Where groups share the positions of a weight, they share no masks.
                plain = self.analysis.calls[node].integer("groups", 1) == 1
                if plain and len(axes) == 1 and self.data.readers(name) == {node}:
                    readers[node] = axes[0]
        return readers

    # --- what can carry a mask -----------------------------------------------------------------

    def structures(self, kind: str) -> list[Structure]:
        """Blocks or branches that can be cut and whose mask can be folded."""
        fitting = []
        for structure in find_structures(self.trace):
            if _kind_of(structure) != kind or self._protected(structure.name):
                continue
            reason = structure.reason or (
                self._block_reason(structure) if kind == "block" else self._units_reason(structure.units)
            )
            if reason:
                self.skipped[structure.name] = reason
            else:
                fitting.append(structure)
        return fitting

    def _block_reason(self, structure: Structure) -> str:
        fold = fold_into(structure, self.data)
        self.wholes[structure.name] = fold.parameters
        return fold.reason

    def _units_reason(self, units: IntArray) -> str:
        """Why a factor on these units cannot be folded into the weights that read them."""
        mine = np.zeros(self.coupled.n_units, bool)
        mine[units] = True
        axes = {a for g in self.coupled.groups if mine[g.units].any() for a in g.consumers}
        axes = {a for a in axes if mine[self.coupled.axes[a]].any()}
        private = axes - set(self.readers.values())
        if not axes:
            return "no weights read it"
        return f"'{min(private)[0]}' is used twice, grouped, or computed from others" if private else ""

    def channels(self, groups: Sequence[Group]) -> IntArray:
        """int64[n_units], consecutive numbers of the atoms that can carry a mask; -1 elsewhere."""
        barred = []
        for group in groups:
            reason = "" if group.pinned is not None else self._group_reason(group)
            if reason:
                self.skipped.setdefault(group.name, reason)
                barred.append(group)
        parts = partition(groups, barred=barred, pinned=self.coupled.pinned)
        rest = np.full(self.coupled.n_units - len(parts.atom), -1, np.int64)
        atom, self.family_of_unit = np.append(parts.atom, rest), np.append(parts.family, rest)
        read = np.zeros(self.coupled.n_units, bool)
        for axis in self.readers.values():
            read[self.coupled.axes[axis]] = True
        # Atoms that only products of activations read (queries, keys) have no weights to fold into.
        useful = np.unique(atom[read & (atom >= 0)])
        kept = np.isin(atom, useful) & (atom >= 0)
        return np.where(kept, np.searchsorted(useful, atom), -1)

    def _group_reason(self, group: Group) -> str:
        if self._protected(group.name):
            return "protected"
        if not group.exact:
            return "statistics see its channels: a factor cannot be folded"
        return "" if not group.consumers else self._units_reason(group.units)

    def atom_names(self, groups: Sequence[Group], atoms: IntArray) -> list[str]:
        """The group of each atom's first unit."""
        names = [""] * (int(atoms.max(initial=-1)) + 1)
        for group in reversed(groups):
            for atom in np.unique(atoms[group.units]):
                if atom >= 0:
                    names[atom] = group.name
        return names

    def families(self, atoms: IntArray) -> IntArray:
        """int64[n_atoms], atoms of which at least one must stay."""
        family = np.full(int(atoms.max(initial=-1)) + 1, -1, np.int64)
        units = np.flatnonzero(atoms >= 0)
        family[atoms[units]] = self.family_of_unit[units]
        return family

    # --- where they act --------------------------------------------------------------------------

    def layers(self, structures: Sequence[Structure], units: IntArray, none: int) -> list[IntArray]:
        """int64[n_units] each: the mask on every unit; nested branches and channels need several layers."""
        layers = [np.where(units < 0, none, units)] if (units >= 0).any() else []
        for k, structure in enumerate(structures):
            if structure.kind == "residual":
                continue
            free = next((a for a in layers if (a[structure.units] == none).all()), None)
            if free is None:
                free = np.full(self.coupled.n_units, none, np.int64)
                layers.append(free)
            free[structure.units] = k
        return layers

    def _at(
        self, layers: Sequence[IntArray], node: fx.Node, structures: Sequence[Structure], none: int
    ) -> list[IntArray]:
        """The layers as a node sees them: inside a branch, its own mask does not act."""
        inside = [k for k, s in enumerate(structures) if s.kind == "branch" and node in s.nodes]
        return [np.where(np.isin(a, inside), none, a) for a in layers] if inside else list(layers)

    def gates(self, layers: Sequence[IntArray], structures: Sequence[Structure], none: int) -> list[Gate]:
        """Every place where masked units are read."""
        gates = []
        for node, read in self.analysis.consumed.items():
            here = self._at(layers, node, structures, none)
            for argument, arrays in read:
                entries = [layer[self.analysis.units(array)] for array in arrays for layer in here]
                entries = [e for e in entries if (e != none).any()]
                if entries:
                    gates.append(Gate(node, argument, tuple(entries), node in self.readers))
        return gates

    def slices(
        self, layers: Sequence[IntArray], structures: Sequence[Structure], none: int
    ) -> list[SliceFold]:
        """The weights behind those places."""
        folds = []
        for node, axis in self.readers.items():
            entries = np.array(
                [layer[self.coupled.axes[axis]] for layer in self._at(layers, node, structures, none)]
            )
            if (entries != none).any():
                folds.append(SliceFold(axis, entries))
        return folds
