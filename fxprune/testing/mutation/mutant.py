"""Seeded faults: what they are, and how one is put into the engine and taken out again.

A mutant changes one rule, or one function behind the rules, as a slip of whoever writes it would.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from unittest import mock

from fxprune import ops
from fxprune.labels import IntArray
from fxprune.ops.base import Call, Context, OpRule, Output, Rewrite
from fxprune.testing.samples import SAMPLES

Shape = tuple[int, ...]
Couple = Callable[[Context, Call], Output]
Move = Callable[[Call, IntArray, Shape], IntArray | list[IntArray]]
Resize = Callable[[Call, Call], Rewrite]
Patch = Callable[[], contextlib.AbstractContextManager[None]]

TAGGED = "pointwise"
"""Stands for the operators that need no row because torch tags them as elementwise."""


@dataclass(frozen=True)
class Mutant:
    """A seeded fault.

    Attributes:
        name: What is faulty and how, in a few words.
        family: Module of the rule, or part of the engine.
        broken: What is wrong, in one sentence.
        patches: Each puts a part of the fault in while it is entered.
        ops: Operators that it concerns, the most concerned first; none if it may concern any network.
        first: Names of networks on which it should show.
        why: Why the library cannot notice it, where it does not.
    """

    name: str
    family: str
    broken: str
    patches: tuple[Patch, ...]
    ops: tuple[str, ...] = ()
    first: tuple[str, ...] = ()
    why: str = ""


@contextlib.contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    """The engine with the fault in it; it is whole again afterwards."""
    with contextlib.ExitStack() as stack:
        for patch in mutant.patches:
            stack.enter_context(patch())
        yield


def at(place: str, make: Callable[..., object]) -> Patch:
    """Replace a function (``module:name`` or ``module:Class.name``) by what ``make`` makes of it."""
    module, _, path = place.partition(":")

    @contextlib.contextmanager
    def patch() -> Iterator[None]:
        owner: object = import_module(module)
        *outer, name = path.split(".")
        for part in outer:
            owner = getattr(owner, part)
        with mock.patch.object(owner, name, make(getattr(owner, name))):
            yield

    return patch


def row_of(op: str) -> OpRule:
    """The row of an operator in the table of rules, or that of all operators that torch tags as elementwise."""
    return ops._BY_NAME.get(op, ops._POINTWISE)


def in_row(op: str, **faces: Callable[..., object]) -> Patch:
    """Replace faces (``couple``, ``move``, ``resize``, ``gathers``) of an operator's row by what is made of them."""

    @contextlib.contextmanager
    def patch() -> Iterator[None]:
        row = row_of(op)
        changed = {face: make(getattr(row, face)) for face, make in faces.items()}
        faulty = replace(row, **changed)  # type: ignore[arg-type]
        tagged = (
            mock.patch.object(ops, "_POINTWISE", faulty)
            if row is ops._POINTWISE
            else contextlib.nullcontext()
        )
        with tagged, mock.patch.dict(ops._BY_NAME, dict.fromkeys(row.ops, faulty)):
            yield

    return patch


def family_of(op: str) -> str:
    """Name of the module that holds an operator's row."""
    row = row_of(op)
    families = [n for n, module in vars(ops).items() if any(row is r for r in getattr(module, "RULES", ()))]
    return families[0] if families else "pointwise"


def ops_of(row: OpRule) -> frozenset[str]:
    """Operators of a row; for those without one the operators that have samples."""
    return frozenset(row.ops) or frozenset(s.name for s in SAMPLES if ops.rule_for(s.target) is row)


def rule(
    op: str,
    name: str,
    broken: str,
    *,
    first: tuple[str, ...] = (),
    **faces: Callable[..., object],
) -> Mutant:
    """A fault in the row of an operator."""
    where = in_row(op, **faces)
    concerned = (op, *sorted(ops_of(row_of(op)) - {op}))
    return Mutant(f"{op}: {name}", family_of(op), broken, (where,), concerned, first)


def code(
    family: str,
    name: str,
    broken: str,
    *patches: Patch,
    ops: Sequence[str] = (),
    first: tuple[str, ...] = (),
) -> Mutant:
    """A fault in a function behind the rules."""
    return Mutant(f"{family}: {name}", family, broken, patches, tuple(ops), first)
