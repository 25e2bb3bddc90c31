"""Where the groups lie in the parameters: integer arrays made once, before training.

Every position along a member axis gets the number of the *term* it belongs to.  A term is what
one norm is taken over: a whole atom, or, where producers vote, an atom's part in one producer.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np
from torch import nn

from fxprune.coupling.couple import analyse
from fxprune.coupling.groups import Group
from fxprune.errors import PlanError
from fxprune.labels import IntArray
from fxprune.plans import Axis
from fxprune.regularizers.terms.atoms import Partition, partition

__all__ = ["Members", "Slot", "TermLayout", "column_layout", "find_parameters", "row_layout"]

Members = Literal["rows", "producers", "all"]
"""Which tensors count as part of a unit.

``"rows"``: the slices that make it, with their bias (a filter).  ``"producers"``: also the affine
parameters behind them (batch norm's scale and shift), all that must be zero for the unit to be
zero.  ``"all"``: also the slices of the consumers that read it.
"""

Parameters = Mapping[str, nn.Parameter]


@dataclass(frozen=True)
class Slot:
    """One parameter seen along the dimensions that its terms vary in.

    Attributes:
        name: Dotted name of the parameter.
        dims: Dimensions that are kept; sums run over the others.
        shape: Full shape of the parameter.
        start: First position of the slot in the vector of all positions.
        covered: Every position belongs to a term.
    """

    name: str
    dims: tuple[int, ...]
    shape: tuple[int, ...]
    start: int
    covered: bool

    @property
    def size(self) -> int:
        """Number of positions."""
        return prod(self.shape[d] for d in self.dims)

    @property
    def stop(self) -> int:
        """One past the last position."""
        return self.start + self.size

    @property
    def broadcast(self) -> tuple[int, ...]:
        """Shape in which one value per position multiplies the parameter."""
        return tuple(n if d in self.dims else 1 for d, n in enumerate(self.shape))

    @property
    def depth(self) -> int:
        """Elements of the parameter behind each position."""
        return prod(self.shape) // max(self.size, 1)

    @property
    def flat(self) -> bool:
        """The parameter is a vector: positions and elements are the same."""
        return len(self.shape) == 1


@dataclass(frozen=True, eq=False)
class TermLayout:
    """Terms, atoms, layers and families over the parameters of a model.

    Attributes:
        slots: The parameters that take part; vectors come first.
        position_term: int64[positions], term of each position, ``n_terms`` where there is none.
        term_atom: int64[n_terms].
        term_layer: int64[n_terms]; terms of one layer are comparable (one producer of one family).
        atom_family: int64[n_atoms]; atoms of one family are ranked together and never all cut.
        families: Names: of the first group of each.
        labels: For each family, the names that patterns are matched with: groups and tensors.
        unit_atom: int64[units], atom of each unit of the coupling, -1 if it is in none.
    """

    slots: tuple[Slot, ...]
    position_term: IntArray
    term_atom: IntArray
    term_layer: IntArray
    atom_family: IntArray
    families: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    unit_atom: IntArray

    @property
    def n_terms(self) -> int:
        """Number of terms."""
        return len(self.term_atom)

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.atom_family)

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return int(self.term_layer.max(initial=-1)) + 1

    @property
    def layer_family(self) -> IntArray:
        """int64[n_layers]."""
        family = np.zeros(self.n_layers, np.int64)
        family[self.term_layer] = self.atom_family[self.term_atom]
        return family

    @property
    def term_size(self) -> IntArray:
        """int64[n_terms], elements in each term."""
        sizes = np.zeros(self.n_terms + 1, np.int64)
        for slot in self.slots:
            np.add.at(sizes, self.position_term[slot.start : slot.stop], slot.depth)
        return sizes[:-1]


@dataclass(frozen=True, eq=False)
class _Claim:
    """What the positions along some dimensions of one parameter belong to, before numbering.

    ``key`` is -1 where they belong to nothing.
    """

    name: str
    dims: tuple[int, ...]
    shape: tuple[int, ...]
    key: IntArray
    vote: IntArray


def find_parameters(model: nn.Module, names: Iterable[str]) -> tuple[nn.Module, dict[str, nn.Parameter]]:
    """The module whose parameters the groups name, looked for behind wrappers, and those it has.

    Args:
        model: The model, or a wrapper around it (data parallel, compiled).
        names: Tensor names of the groups.

    Returns:
        The outermost module that knows the names, and its parameters by name.

    Raises:
        PlanError: No name is known.
    """
    wanted = set(names)
    inner: object = model
    while isinstance(inner, nn.Module):
        parameters = {n: p for n, p in inner.named_parameters(remove_duplicate=False) if n in wanted}
        if parameters or not wanted:
            return inner, parameters
        inner = getattr(inner, "module", getattr(inner, "_orig_mod", None))
    raise PlanError(
        f"none of the groups' tensors is a parameter of this {type(model).__name__}",
        tensor=min(wanted),
        advice="pass the model that was traced, and groups = couple(trace) of that trace",
    )


@dataclass(frozen=True, eq=False)
class _Counted:
    """Which tensors count."""

    members: Members
    parameters: Parameters
    only: Container[str] | None


def _roles(group: Group, counted: _Counted) -> dict[Axis, Axis]:
    """The member axes that count, each with the producer it belongs to.

    A bias or an affine parameter belongs to the last producer before it in the graph.
    """
    producers = set(group.producers)
    modules = {name.rpartition(".")[0] for name, _ in producers}
    roles: dict[Axis, Axis] = {}
    leader = group.producers[0] if group.producers else ("", 0)
    for axis in group.members:
        leader = axis if axis in producers else leader
        if axis[0] not in counted.parameters or (counted.only is not None and axis[0] not in counted.only):
            continue
        read = axis in group.consumers and axis not in producers
        own = axis in producers or axis[0].rpartition(".")[0] in modules
        if counted.members == "all" or (not read and (own or counted.members == "producers")):
            roles[axis] = leader
    return roles


def _shape(group: Group, axis: Axis, parameters: Parameters) -> tuple[int, ...]:
    shape = tuple(parameters[axis[0]].shape)
    if axis[1] >= len(shape) or group.indices[axis].max(initial=-1) >= shape[axis[1]]:
        raise PlanError(
            f"group '{group.name}' does not fit a tensor of shape {shape}",
            tensor=axis[0],
            advice="make the groups from a trace of this model",
        )
    return shape


def _claims(groups: Sequence[Group], counted: _Counted, atoms: Partition, *, votes: bool) -> list[_Claim]:
    parameters = counted.parameters
    claims: dict[Axis, _Claim] = {}
    seen: dict[tuple[int, int], Axis] = {}
    ballots: dict[Axis, int] = {}
    for group in groups:
        atom = atoms.atom[group.units]
        if (atom < 0).all():
            continue
        for member, leader in _roles(group, counted).items():
            shape = _shape(group, member, parameters)
            # One parameter under two names is counted once.
            axis = seen.setdefault((id(parameters[member[0]]), member[1]), member)
            if axis not in claims:
                nothing = np.full(shape[axis[1]], -1)
                claims[axis] = _Claim(axis[0], (axis[1],), shape, nothing, np.zeros_like(nothing))
            index = group.indices[member]
            claims[axis].key[index.ravel()] = np.repeat(atom, index.shape[1])
            if votes:
                claims[axis].vote[index.ravel()] = ballots.setdefault(leader, len(ballots))
    return list(claims.values())


def _compact(values: IntArray) -> tuple[IntArray, IntArray]:
    """Distinct values >= 0 in order, and each value's place among them (-1 stays)."""
    distinct = np.unique(values[values >= 0])
    return distinct, np.where(values >= 0, np.searchsorted(distinct, values), -1)


def _joined(arrays: Sequence[IntArray]) -> IntArray:
    return np.concatenate(arrays) if arrays else np.zeros(0, np.int64)


def _numbered(
    claims: Sequence[_Claim],
    family_of: IntArray,
    labels: Mapping[int, tuple[str, ...]],
    key_of_unit: IntArray,
) -> TermLayout:
    """Number terms, atoms, layers and families without gaps."""
    claims = sorted(claims, key=lambda c: len(c.shape) != 1)
    key, vote = _joined([c.key for c in claims]), _joined([c.vote for c in claims])
    ballots = int(vote.max(initial=0)) + 1
    terms, position_term = _compact(np.where(key >= 0, key * ballots + vote, -1))
    keys, term_atom = _compact(terms // ballots)
    present, atom_family = _compact(family_of[keys])
    term_layer = _compact(atom_family[term_atom] * ballots + terms % ballots)[1]
    place = np.full(len(family_of) + 1, -1)
    place[keys] = np.arange(len(keys))
    slots: list[Slot] = []
    start = 0
    for claim in claims:
        slots.append(Slot(claim.name, claim.dims, claim.shape, start, bool((claim.key >= 0).all())))
        start = slots[-1].stop
    return TermLayout(
        slots=tuple(slots),
        position_term=np.where(position_term >= 0, position_term, len(terms)),
        term_atom=term_atom,
        term_layer=term_layer,
        atom_family=atom_family,
        families=tuple(labels[f][0] for f in present.tolist()),
        labels=tuple(labels[f] for f in present.tolist()),
        unit_atom=place[key_of_unit],
    )


def _labels(groups: Sequence[Group], atoms: Partition) -> dict[int, tuple[str, ...]]:
    """Group and tensor names of each family, the first group's name first."""
    labels: dict[int, dict[str, None]] = {}
    for group in groups:
        for family in np.unique(atoms.family[group.units]).tolist():
            labels.setdefault(family, {}).update(dict.fromkeys([group.name, *(n for n, _ in group.members)]))
    return {family: tuple(names) for family, names in labels.items()}


def row_layout(
    model: nn.Module,
    groups: Sequence[Group],
    *,
    members: Members = "producers",
    votes: bool = False,
    keep_at_least: int = 1,
    only: Container[str] | None = None,
    frozen: bool = False,
) -> tuple[nn.Module, TermLayout]:
    """Lay out units (filters, features, heads).

    Left out: pinned groups, and families with no more than ``keep_at_least`` atoms (nothing could
    be cut).

    Args:
        model: Holds the parameters; may be wrapped.
        groups: Coupling groups of it.
        members: Which tensors count.
        votes: One term per producer instead of one per atom.
        keep_at_least: Atoms that stay in every family.
        only: Names of tensors, if not all count that ``members`` asks for.
        frozen: Take groups of which a counted parameter does not require a gradient, too.

    Returns:
        The module that owns the parameters, and the layout.

    Raises:
        PlanError: The groups are of another model.
    """
    owner, parameters = find_parameters(model, (n for g in groups for n, _ in g.indices))
    counted = _Counted(members, parameters, only)
    fixed = [g for g in groups if not all(parameters[n].requires_grad for n, _ in _roles(g, counted))]
    source = groups[0].trace if groups else None
    atoms = partition(
        groups,
        barred=() if frozen else fixed,
        pinned=None if source is None else analyse(source).coupling.pinned,
    )
    head = np.flatnonzero(atoms.atom == np.arange(len(atoms.atom)))
    crowd = np.bincount(atoms.family[head], minlength=len(atoms.family) + 1)
    large = (atoms.family >= 0) & (crowd[atoms.family] > keep_at_least)
    atoms = Partition(np.where(large, atoms.atom, -1), np.where(large, atoms.family, -1))
    claims = _claims(groups, counted, atoms, votes=votes)
    return owner, _numbered(claims, atoms.family, _labels(groups, atoms), atoms.atom)


def column_layout(
    model: nn.Module, groups: Sequence[Group], *, linear: bool = False
) -> tuple[nn.Module, TermLayout]:
    """Lay out the columns of convolutions: for each weight, ``W[:, c, y, x]`` over all filters.

    Every column is an atom, every weight a family.  Columns of channels that cannot go are left out.

    Args:
        model: Holds the parameters; may be wrapped.
        groups: Coupling groups of it.
        linear: Take linear layers for convolutions with a kernel of one point.

    Returns:
        The module that owns the parameters, and the layout.

    Raises:
        PlanError: The groups are of another model.
    """
    owner, parameters = find_parameters(model, (n for g in groups for n, _ in g.indices))
    claims: dict[str, _Claim] = {}
    channels: dict[str, IntArray] = {}
    for group in groups:
        for axis in group.consumers if group.pinned is None else ():
            weight = parameters.get(axis[0])
            if (
                weight is None
                or not weight.requires_grad
                or weight.ndim < (2 if linear else 3)
                or axis[1] > 1
            ):
                continue
            shape, dims = _shape(group, axis, parameters), (axis[1], *range(2, weight.ndim))
            size = prod(shape[d] for d in dims)
            fresh = _Claim(axis[0], dims, shape, np.full(size, -1), np.zeros(size, np.int64))
            claim = claims.setdefault(axis[0], fresh)
            mine = channels.setdefault(axis[0], np.zeros(shape[axis[1]], np.int64))
            mine[group.indices[axis].ravel()] = 1
            claim.key[:] = np.repeat(mine, size // len(mine))
    family_of, start = [], 0
    for number, claim in enumerate(claims.values()):
        claim.key[:] = np.where(claim.key > 0, np.arange(start, start + len(claim.key)), -1)
        family_of.append(np.full(len(claim.key), number))
        start += len(claim.key)
    labels = {i: (name,) for i, name in enumerate(claims)}
    return owner, _numbered(list(claims.values()), _joined(family_of), labels, np.zeros(0, np.int64))
