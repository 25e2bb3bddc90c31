"""What a person asks for and what a plan says: budgets, costs, crops, plans."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from math import inf
from typing import Any, Literal

from fxprune.errors import PlanError
from fxprune.escaping import line
from fxprune.support.plain import are_texts, are_whole, digest, fields, is_text, is_whole, parse, row

__all__ = [
    "Axis",
    "Budget",
    "Cost",
    "Crop",
    "Plan",
    "Scope",
    "WidthRow",
]

Axis = tuple[str, int]
"""One dimension of one parameter or buffer: ``("layer1.0.conv1.weight", 0)``."""

Scope = Literal["global", "local", "isomorphic"]
"""Which units are ranked with one another: all, those of a group, or those of groups of equal shape and role."""

PLAN_VERSION = 1

LONGEST = 1 << 28
"""Letters of a plan as JSON: that of a model of 70 billion parameters has a third."""


_QUANTITIES = ("macs", "params", "latency", "channels", "latency_ms")


@dataclass(frozen=True)
class Budget:
    """How much to keep: a fraction in (0, 1], or milliseconds, of one quantity or of several at once.

    Attributes:
        macs: Fraction of the multiply-accumulates.
        params: Fraction of the parameters.
        latency: Fraction of the time of one run on the target, measured where this machine is the target.
        channels: Fraction of the channels that may go; alone.
        latency_ms: Milliseconds of one run on this machine, in the place of ``latency``.

    Example:
        >>> Budget(macs=0.5).quantity, Budget(latency_ms=20).quantity
        ('macs', 'latency')
        >>> Budget(params=0.3, latency=0.5).parts
        (Budget(params=0.3), Budget(latency=0.5))
    """

    macs: float | None = None
    params: float | None = None
    latency: float | None = None
    channels: float | None = None
    latency_ms: float | None = None

    def __post_init__(self) -> None:
        given = self._given
        if not given:
            raise PlanError(
                "a budget names what is to be kept",
                advice="write Budget(macs=0.5), or params=, latency=, channels=, latency_ms=",
            )
        if len(given) > 1 and ("channels" in given or {"latency", "latency_ms"} <= {*given}):
            raise PlanError(
                f"a budget of {' and '.join(given)} is two of one kind",
                advice="macs=, params= and one of latency= and latency_ms= go together",
            )
        for name in given:
            self._check(name, getattr(self, name))

    @staticmethod
    def _check(name: str, value: object) -> None:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if number and name == "latency_ms" and not 0 < value < inf:  # type: ignore[operator]
            raise PlanError(f"Budget(latency_ms={value!r}) is no time", advice="give milliseconds above 0")
        if not number or not 0 < value <= (inf if name == "latency_ms" else 1):  # type: ignore[operator]
            raise PlanError(
                f"Budget({name}={value!r}) is not a fraction to keep in (0, 1]",
                advice=f"Budget({name}=0.5) keeps half",
            )

    def __repr__(self) -> str:
        return f"Budget({', '.join(f'{k}={getattr(self, k)!r}' for k in self._given)})"

    @property
    def _given(self) -> tuple[str, ...]:
        return tuple(k for k in _QUANTITIES if getattr(self, k) is not None)

    @property
    def given(self) -> dict[str, float]:
        """What is budgeted, by quantity.

        Example:
            >>> Budget(params=0.3, latency=0.5).given
            {'params': 0.3, 'latency': 0.5}
        """
        return {k: getattr(self, k) for k in self._given}

    @property
    def parts(self) -> tuple[Budget, ...]:
        """A budget for each quantity."""
        return tuple(Budget(**{k: getattr(self, k)}) for k in self._given)

    @property
    def quantity(self) -> str:
        """Name of the budgeted quantity.

        Raises:
            PlanError: There are several.
        """
        if len(self._given) > 1:
            raise PlanError(f"{self} has no single quantity", advice="budget one quantity here")
        return "latency" if self._given == ("latency_ms",) else self._given[0]

    @property
    def fraction(self) -> float:
        """Fraction to keep; of milliseconds it is not known before the dense model is measured.

        Raises:
            PlanError: The budget is one of milliseconds, or of several quantities.
        """
        if self._given == ("latency_ms",):
            raise PlanError(
                "a budget of milliseconds is a fraction only once the dense model is measured",
                advice="use latency=, a fraction of the dense model's time",
            )
        return float(getattr(self, self.quantity))


@dataclass(frozen=True)
class Cost:
    """What a model costs.

    Attributes:
        params: Number of parameter elements (buffers are not counted).
        macs: Multiply-accumulates of convolutions, linear layers and matrix products for one
            sample of the example inputs; everything else counts zero.
    """

    params: int
    macs: int


@dataclass(frozen=True)
class Crop:
    """Points at the border of a convolution's kernel that go, in all channels.

    The padding shrinks along: by ``before`` times the dilation at the start of each spatial dimension and
    ``after`` times the dilation at its end (a negative padding is a slice of the input).

    Attributes:
        tensor: Name of the convolution's weight.
        kernel: Its spatial size in the dense model.
        before: Points that go at the start of each spatial dimension.
        after: Points that go at the end.

    Raises:
        PlanError: A value is of the wrong type, or the three sizes have different lengths.
    """

    tensor: str
    kernel: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    def __post_init__(self) -> None:
        _demand(is_text(self.tensor), "a crop's 'tensor' is no name")
        sizes = (self.kernel, self.before, self.after)
        _demand(
            all(map(_is_size, sizes)), f"a size in the crop of '{self.tensor}' is no tuple of whole numbers"
        )
        alike = len({*map(len, sizes)}) == 1
        _demand(alike, f"kernel, before and after in the crop of '{self.tensor}' differ in length")

    @property
    def cropped(self) -> tuple[int, ...]:
        """Spatial size after the crop."""
        return tuple(k - b - a for k, b, a in zip(self.kernel, self.before, self.after, strict=True))


@dataclass(frozen=True)
class WidthRow:
    """What a plan leaves of one group.

    Attributes:
        name: The group's.
        before: Its units.
        after: How many of them the plan keeps.
        axes: How many tensor axes they occupy.
    """

    name: str
    before: int
    after: int
    axes: int


@dataclass(frozen=True, repr=False)
class Plan:
    """Which indices of which axes stay: plain data, made by ``fxprune.plan``.

    Attributes:
        kept: For every axis that loses something, the kept indices in the order in which the
            slim tensor holds them.
        removed: Names of structures cut whole (branches, blocks); empty for channel plans.
        crops: Kernels that lose a border (``IncReg(granularity="columns")``).
        predicted: Cost of the slim model.
        dense: Cost of the model the plan was made for.
        fingerprint: Of the model: names, shapes and the graph's operators.
        notes: What the planner wants the user to know (budget missed and why, say).
        origin: How it was made, as plain values by name: budget, criterion, options, target, versions; for people, and for
            making it again.  Plans that keep the same are equal, wherever they come from.
        widths: Of every group that could be pruned, for people to read; empty in plans that were made without.

    Raises:
        PlanError: A value is of the wrong type.
    """

    kept: Mapping[Axis, tuple[int, ...]]
    predicted: Cost
    dense: Cost
    fingerprint: str
    removed: tuple[str, ...] = ()
    crops: tuple[Crop, ...] = ()
    notes: tuple[str, ...] = ()
    origin: Mapping[str, object] = field(default_factory=dict, compare=False, repr=False)
    version: int = field(default=PLAN_VERSION)
    widths: tuple[WidthRow, ...] = ()

    def __post_init__(self) -> None:
        _demand(_has_axes(self.kept), "a key of 'kept' is no axis, a tensor's name and a dimension")
        for axis, index in self.kept.items():
            _demand(are_whole(index), f"the kept indices of '{axis[0]}' are no tuple of whole numbers")
        for name in ("predicted", "dense"):
            _demand(_is_cost(getattr(self, name)), f"'{name}' is no cost in whole numbers")
        _demand(is_text(self.fingerprint), "'fingerprint' is no text")
        for name in ("removed", "notes"):
            _demand(are_texts(getattr(self, name)), f"'{name}' is no tuple of texts")
        _demand(_is_plain(self.origin), "'origin' holds more than texts, numbers, lists and dictionaries")
        _demand(_are_crops(self.crops), "'crops' is no tuple of crops")
        _demand(_are_widths(self.widths), "'widths' is no tuple of names and whole numbers")
        _demand(type(self.version) is int and self.version == PLAN_VERSION, "its version is another")

    def __repr__(self) -> str:
        parts = [
            f"{_share(self.predicted.macs, self.dense.macs)} of the MACs",
            f"{_share(self.predicted.params, self.dense.params)} of the parameters",
        ]
        parts += [f"{self._narrower} of {len(self.widths)} groups narrower"] if self.widths else []
        parts += [f"{len(self.removed)} structures cut"] if self.removed else []
        parts += [f"{len(self.crops)} kernels cropped"] if self.crops else []
        parts += [f"{len(self.notes)} note{'s' * (len(self.notes) != 1)}"] if self.notes else []
        return f"Plan(keeps {', '.join(parts)})"

    @property
    def _narrower(self) -> int:
        return sum(row.after != row.before for row in self.widths)

    def summary(self) -> str:
        """A table of text: width of every group that changes, parameters, multiply-accumulates, notes.

        Example:
            >>> import torch, fxprune
            >>> net = torch.nn.Sequential(torch.nn.Linear(3, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2))
            >>> plan = fxprune.plan(fxprune.trace(net, torch.zeros(1, 3)), fxprune.Budget(channels=0.5))
            >>> print(plan.summary())
                        dense  slim    kept
            0              64    32  50.0 %
            parameters    386   194  50.3 %
            MACs          320   160  50.0 %
        """
        changed = [row for row in self.widths if row.after != row.before]
        rows = [
            *((row.name, row.before, row.after) for row in changed),
            ("parameters", self.dense.params, self.predicted.params),
            ("MACs", self.dense.macs, self.predicted.macs),
        ]
        cells = [("", "dense", "slim", "kept")]
        cells += [(line(name), f"{a:,}", f"{b:,}", _share(b, a)) for name, a, b in rows]
        sizes = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join((name.ljust(sizes[0]), *(c.rjust(n) for c, n in zip(numbers, sizes[1:], strict=True))))
            for name, *numbers in cells
        ]
        same = len(self.widths) - len(changed)
        lines += [f"unchanged: {same} of {len(self.widths)} groups"] if same else []
        lines += [f"cut whole: {line(name)}" for name in self.removed]
        lines += [
            f"cropped: {line(crop.tensor)} to {'x'.join(map(str, crop.cropped))}" for crop in self.crops
        ]
        return "\n".join([*lines, *(f"note: {line(note)}" for note in self.notes)])

    def to_json(self) -> str:
        """The plan as JSON text, with a digest of its values.

        Example:
            >>> plan = Plan({("a.weight", 0): (0, 2)}, Cost(2, 2), Cost(3, 3), "f")
            >>> Plan.from_json(plan.to_json()) == plan
            True
        """
        kept: dict[str, dict[str, list[int]]] = {}
        for (name, dim), index in self.kept.items():
            kept.setdefault(name, {})[str(dim)] = list(index)
        data = {
            "format": "fxprune-plan",
            "version": self.version,
            "fingerprint": self.fingerprint,
            "predicted": {"params": self.predicted.params, "macs": self.predicted.macs},
            "dense": {"params": self.dense.params, "macs": self.dense.macs},
            "removed": list(self.removed),
            "crops": [asdict(crop) for crop in self.crops],
            "notes": list(self.notes),
            "origin": dict(self.origin),
            "kept": kept,
        }
        if self.widths:
            data["widths"] = [asdict(row) for row in self.widths]
        return json.dumps({**data, "digest": digest(data)})

    def then(self, second: Plan) -> Plan:
        """This plan and, on what it leaves, another one, as one plan for the dense model.

        Args:
            second: Made for the slim model of this one.

        Raises:
            PlanError: The second one cuts structures.

        Example:
            >>> first = Plan({("a.weight", 0): (0, 2, 3)}, Cost(3, 3), Cost(4, 4), "f")
            >>> first.then(Plan({("a.weight", 0): (1, 2)}, Cost(2, 2), Cost(3, 3), "g")).kept
            {('a.weight', 0): (2, 3)}
        """
        if second.removed:
            raise PlanError(
                f"structures of a slim model cannot be cut and saved: {', '.join(second.removed)}",
                advice="cut them in the dense model, in the first plan",
            )
        kept = dict(self.kept)
        for axis, index in second.kept.items():
            before = kept.get(axis)
            kept[axis] = index if before is None else tuple(before[i] for i in index)
        rounds = [*_rounds(self.origin), *_rounds(second.origin)]
        after = {row.name: row.after for row in second.widths}
        return replace(
            self,
            kept=kept,
            predicted=second.predicted,
            crops=_both(self.crops, second.crops),
            notes=(*self.notes, *second.notes),
            origin={"rounds": rounds} if rounds else {},
            widths=tuple(replace(row, after=after.get(row.name, row.after)) for row in self.widths),
        )

    @staticmethod
    def from_json(text: str) -> Plan:
        """Read a plan back.

        Plans without a digest are read too: they were written by hand, or edited on purpose.

        Raises:
            PlanError: The text is no plan, one of another version, has fields that are unknown, missing, twice or of
                another type, or values that do not fit its digest.
        """
        try:
            data = fields(parse(text, most=LONGEST), "plan")
            if data.get("format") != "fxprune-plan":
                raise PlanError(
                    "this JSON is not an fxprune plan", advice="pass a file written by fxprune plan"
                )
            if "version" in data and data["version"] != PLAN_VERSION:
                raise PlanError(
                    f"plan version {str(data['version'])[:20]}, this fxprune reads version {PLAN_VERSION}",
                    advice="make the plan again with this version",
                )
            plan = _plan_of(data)
            if "digest" in data and data.pop("digest") != digest(data):
                raise PlanError(
                    "this plan was changed since it was written: its digest does not fit",
                    advice="make it again; if it was edited on purpose, remove the field 'digest'",
                )
            return plan
        except PlanError:
            raise
        except ValueError as error:
            raise PlanError(
                f"this is not a readable plan: {error}", advice="pass a file written by fxprune plan"
            ) from error


def _share(part: int, whole: int) -> str:
    return f"{100 * part / max(whole, 1):.1f} %"


def _demand(holds: bool, what: str) -> None:
    if not holds:
        raise PlanError(f"no plan can be made of this: {what}", advice="make plans with fxprune.plan")


def _has_axes(kept: object) -> bool:
    return isinstance(kept, Mapping) and all(
        isinstance(axis, tuple) and len(axis) == 2 and is_text(axis[0]) and is_whole(axis[1]) for axis in kept
    )


def _is_size(size: object) -> bool:
    return isinstance(size, tuple) and all(type(n) is int and is_whole(abs(n)) for n in size)


def _is_cost(cost: object) -> bool:
    return isinstance(cost, Cost) and is_whole(cost.params) and is_whole(cost.macs)


def _both(first: tuple[Crop, ...], second: tuple[Crop, ...]) -> tuple[Crop, ...]:
    """Crops of a model and of what they leave, as crops of the model."""
    found = {crop.tensor: crop for crop in first}
    for crop in second:
        one = found.get(crop.tensor)
        if one is not None:
            before, after = (
                tuple(a + b for a, b in zip(x, y, strict=True))
                for x, y in ((one.before, crop.before), (one.after, crop.after))
            )
            crop = replace(crop, kernel=one.kernel, before=before, after=after)
        found[crop.tensor] = crop
    return tuple(found.values())


def _rounds(origin: Mapping[str, object]) -> list[object]:
    """The origins of the plans that one was put together from."""
    rounds = origin.get("rounds")
    return list(rounds) if isinstance(rounds, (list, tuple)) else [dict(origin)] if origin else []


def _is_plain(origin: object) -> bool:
    """JSON can hold it."""
    try:
        return isinstance(origin, Mapping) and len(json.dumps(dict(origin), allow_nan=False)) <= LONGEST
    except (TypeError, ValueError, RecursionError):
        return False


def _are_widths(widths: object) -> bool:
    rows = widths if isinstance(widths, tuple) else (None,)
    return all(
        isinstance(row, WidthRow)
        and type(row.name) is str
        and all(map(is_whole, (row.before, row.after, row.axes)))
        for row in rows
    )


def _are_crops(crops: object) -> bool:
    return isinstance(crops, tuple) and all(isinstance(crop, Crop) for crop in crops)


def _plan_of(data: dict[str, Any]) -> Plan:
    """A plan from what JSON gave; the types of single values are looked at by the classes themselves.

    Raises:
        PlanError: A value of a wrong type.
        ValueError: A field too few or too many, or no list where there should be one.
    """
    needed = ("format", "version", "fingerprint", "predicted", "dense", "removed", "notes", "kept")
    fields(
        data, "plan", needed, optional=("crops", "digest", "origin", "widths")
    )  # plans were made without before there were crops, origins and widths
    numbers = ("name", "before", "after", "axes")
    widths = [fields(w, "widths", numbers) for w in row(data.get("widths", []), "widths")]
    sizes = ("kernel", "before", "after")
    crops = [fields(c, "crops", ("tensor", *sizes)) for c in row(data.get("crops", []), "crops")]
    return Plan(
        kept={
            (name, _dim(dim)): row(index, name)
            for name, dims in fields(data["kept"], "kept").items()
            for dim, index in fields(dims, name).items()
        },
        predicted=Cost(**fields(data["predicted"], "predicted", ("params", "macs"))),
        dense=Cost(**fields(data["dense"], "dense", ("params", "macs"))),
        fingerprint=data["fingerprint"],
        removed=row(data["removed"], "removed"),
        crops=tuple(Crop(c["tensor"], *(row(c[k], k) for k in sizes)) for c in crops),
        notes=row(data["notes"], "notes"),
        origin=fields(data.get("origin", {}), "origin"),
        version=data["version"],
        widths=tuple(WidthRow(**w) for w in widths),
    )


def _dim(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 2 or str(int(text)) != text:
        raise ValueError(f"'{text[:20]}' is no dimension")
    return int(text)
