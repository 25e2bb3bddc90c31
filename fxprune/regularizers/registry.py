"""Methods by name, as recipes write them: found, their options checked, and made.

What a recipe has to know of a method is read off its class (``MethodInfo``), so a class of one's own, named as
``my_module:MyMethod`` or ``file.py:MyMethod``, can do all that those of the table can.
"""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from torch import nn

from fxprune.coupling.groups import Group
from fxprune.errors import FxpruneError
from fxprune.models.loading import named_object
from fxprune.plans import Budget
from fxprune.regularizers import REGULARIZERS, Compose, Regularizer
from fxprune.support.words import near

__all__ = ["METHODS", "MethodInfo", "WrongOption", "make_method", "method_info"]


class WrongOption(FxpruneError):
    """An option of a method is unknown or of the wrong type.

    Args:
        option: Its name, empty where the method itself is unknown.
        what: What is wrong.
        advice: What the user can do.
    """

    def __init__(self, option: str, what: str, *, advice: str) -> None:
        self.option = option
        super().__init__(what, advice=advice)


@dataclass(frozen=True)
class MethodInfo:
    """What a recipe has to know of a method; all of it is said by the class.

    Attributes:
        method: The class.

    Example:
        >>> info = method_info("ssr")
        >>> info.name, info.one_shot, info.options[:2]
        ('ssr', False, ('lam', 'norm'))
    """

    method: type[Regularizer]

    @property
    def name(self) -> str:
        """As recipes write it."""
        return self.method.name

    @property
    def one_shot(self) -> bool:
        """It decides by a budget at once: it needs one, and no epochs to act in."""
        return self.method.one_shot

    @property
    def options(self) -> tuple[str, ...]:
        """Options a recipe may set."""
        return tuple(name for name in self._parameters if name not in ("lr", "budget"))

    @cached_property
    def _parameters(self) -> Mapping[str, tuple[object, object]]:
        """Type and default (``...`` for none) of what the constructor takes by name.

        Where it takes ``**options``, these are those of the class it inherits from.
        """
        taken: dict[str, tuple[object, object]] = {}
        for cls in self.method.__mro__:
            constructor = vars(cls).get("__init__")
            if constructor is None:
                continue
            parameters = list(inspect.signature(constructor).parameters.values())[1:]
            hints = self._hints(constructor)
            for parameter in parameters:
                if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                    default = ... if parameter.default is parameter.empty else None
                    taken.setdefault(parameter.name, (hints.get(parameter.name, typing.Any), default))
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
                break
        return {name: value for name, value in taken.items() if name not in ("model", "groups")}

    def _hints(self, constructor: Callable[..., None]) -> Mapping[str, object]:
        try:
            return typing.get_type_hints(constructor)
        except NameError as error:
            raise WrongOption(
                "",
                f"the options of {self.name} cannot be checked: {error}",
                advice="import what its annotations name outside of TYPE_CHECKING",
            ) from error

    def check(self, options: Mapping[str, object]) -> dict[str, object]:
        """Options with the types that the constructor's annotations ask for.

        Args:
            options: As read from a file.

        Returns:
            The given options, lists turned into tuples where the annotation says so.

        Raises:
            WrongOption: An unknown or a missing option, or a value of the wrong type.

        Example:
            >>> method_info("ssr").check({"lam": 0.1, "stage_steps": [10, 20]})
            {'lam': 0.1, 'stage_steps': (10, 20)}
        """
        fields = {name: self._parameters[name] for name in self.options}
        config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
        section: type[BaseModel] = create_model(self.method.__name__, __config__=config, **fields)  # type: ignore[call-overload]
        try:
            # As JSON, strictly: lists may become tuples, but "1" is no number and true is none.
            read = section.model_validate_json(json.dumps(dict(options)), strict=True)
        except ValidationError as error:
            fault = error.errors()[0]
            option = str(fault["loc"][0]) if fault["loc"] else ""
            raise self._refusal(option, str(fault["type"]), str(fault["msg"]), options) from error
        return {name: value for name, value in read if name in options}

    def _refusal(self, option: str, kind: str, text: str, options: Mapping[str, object]) -> WrongOption:
        known = ", ".join(self.options)
        if kind == "missing":
            return WrongOption("", f"{self.name} needs the option '{option}'", advice=f"add '{option}:'")
        if kind == "extra_forbidden":
            what = f"{self.name} has no option '{option}'"
            has = f"it has {known}" if known else "it has none"
            return WrongOption(option, what, advice=f"{near(option, self.options, most=1)} {has}".strip())
        return WrongOption(
            option,
            f"{self.name}: {option}={options.get(option)!r}: {text.lower()}",
            advice=f"see the description of the class {self.method.__name__}",
        )

    def make(
        self,
        model: nn.Module,
        groups: Sequence[Group],
        options: Mapping[str, object],
        *,
        optimizer: torch.optim.Optimizer,
        budget: Budget | None,
    ) -> Regularizer:
        """The method on a model.

        Args:
            model: The model in training.
            groups: Its coupling groups.
            options: As read from a file.
            optimizer: For methods that ask for ``lr``.
            budget: For methods that ask for it.

        Raises:
            WrongOption: As ``check``.
            PlanError: The options make no sense together.
        """
        given = {"lr": optimizer} | ({} if budget is None else {"budget": budget})
        own = {name: value for name, value in given.items() if name in self._parameters}
        return self.method(model, groups, **own, **self.check(options))  # type: ignore[call-arg]


METHODS: tuple[MethodInfo, ...] = tuple(map(MethodInfo, REGULARIZERS))
"""A row for every method that comes along."""


def method_info(name: str | type[Regularizer]) -> MethodInfo:
    """The row of a method, by its ``name`` or that of its class; one's own by ``my_module:MyMethod``, or the class.

    Raises:
        WrongOption: There is none.

    Example:
        >>> method_info("SSR").name
        'ssr'
    """
    for info in METHODS:
        if name in (info.name, info.method.__name__, info.method):
            return info
    if isinstance(name, type):
        return _complete(name, name.__name__)
    if ":" in name:
        return _own(name)
    known = [info.name for info in METHODS]
    choice = f"choose one of {', '.join(known)}, none, or name a class of your own as my_module:MyMethod"
    raise WrongOption(
        "",
        f"there is no method '{name}'",
        advice=f"{near(name.lower(), known, most=1)} {choice}".strip(),
    )


def _own(name: str) -> MethodInfo:
    """A class of the user's."""
    try:
        cls = named_object(name)
    except FxpruneError as error:
        raise WrongOption("", error.what, advice=error.advice) from error
    if not (isinstance(cls, type) and issubclass(cls, Regularizer)):
        raise WrongOption(
            "",
            f"{name} is no method",
            advice="name a class that inherits from fxprune.regularizers.Regularizer",
        )
    return _complete(cls, name)


def _complete(cls: type[Regularizer], name: str) -> MethodInfo:
    if inspect.isabstract(cls):
        raise WrongOption(
            "",
            f"{name} is not complete: it has no {', '.join(sorted(cls.__abstractmethods__))}",
            advice="write these; see fxprune.regularizers.Regularizer and GroupRegularizer",
        )
    return MethodInfo(cls)


def make_method(
    chosen: Sequence[tuple[str | type[Regularizer], Mapping[str, object]]],
    model: nn.Module,
    groups: Sequence[Group],
    *,
    optimizer: torch.optim.Optimizer,
    budget: Budget | None,
) -> Regularizer:
    """The method a recipe asks for.

    Args:
        chosen: Names and options; several are composed.
        model: The model in training.
        groups: Its coupling groups.
        optimizer: Where methods read the step size.
        budget: For methods that decide by one.

    Raises:
        WrongOption: A method or an option is unknown, or a value is of the wrong type.
        PlanError: The options make no sense together, or the methods do not.
    """
    parts = [
        method_info(name).make(model, groups, options, optimizer=optimizer, budget=budget)
        for name, options in chosen
    ]
    return parts[0] if len(parts) == 1 else Compose(*parts)
