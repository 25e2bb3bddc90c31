"""Regularizers by name, as recipes write them: found, checked and made from their own signatures."""

from __future__ import annotations

import difflib
import inspect
import json
import typing
from collections.abc import Mapping, Sequence

import torch
from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from torch import nn

from fxprune.coupling.groups import Group
from fxprune.errors import FxpruneError
from fxprune.models.loading import named_object
from fxprune.plans import Budget
from fxprune.regularizers import GAL, REGULARIZERS, Compose, Regularizer
from fxprune.regularizers.oneshot import OneShot

__all__ = ["WrongOption", "check_options", "make_method", "method_class", "method_names", "option_names"]

# Once, should the table come to list all of them.
_METHODS: tuple[type[Regularizer], ...] = tuple(dict.fromkeys((*REGULARIZERS, GAL)))

# What a training run hands over itself.
_GIVEN = frozenset({"self", "model", "groups", "lr", "budget"})


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


def method_names() -> tuple[str, ...]:
    """What methods are called in recipes.

    Example:
        >>> method_names()[:3]
        ('ssr', 'dwgl', 'increg')
    """
    return tuple(cls.name for cls in _METHODS)


def method_class(name: str) -> type[Regularizer]:
    """The class of a method, by its ``name`` or the class's own, or of one's own by ``my_module:MyMethod``.

    Raises:
        WrongOption: There is none.

    Example:
        >>> method_class("SSR").name
        'ssr'
    """
    for cls in _METHODS:
        if name in (cls.name, cls.__name__):
            return cls
    if ":" in name:
        return _own(name)
    close = difflib.get_close_matches(name.lower(), method_names(), n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    raise WrongOption(
        "",
        f"there is no method '{name}'",
        advice=f"{hint}choose one of {', '.join(method_names())}, none, or name a class of your own as my_module:MyMethod",
    )


def _own(name: str) -> type[Regularizer]:
    """A class of the user's."""
    try:
        found = named_object(name)
    except FxpruneError as error:
        raise WrongOption("", error.what, advice=error.advice) from error
    if not (isinstance(found, type) and issubclass(found, Regularizer)):
        raise WrongOption(
            "",
            f"{name} is no method",
            advice="name a class that inherits from fxprune.regularizers.Regularizer",
        )
    return found


def option_names(cls: type[Regularizer]) -> tuple[str, ...]:
    """Options a recipe may set."""
    return tuple(name for name in inspect.signature(cls).parameters if name not in _GIVEN)


def _options_model(cls: type[Regularizer]) -> type[BaseModel]:
    """A section with one field for each option, of the option's own type and default."""
    hints = typing.get_type_hints(cls.__init__)
    parameters = inspect.signature(cls).parameters
    fields = {
        name: (hints[name], ... if parameters[name].default is inspect.Parameter.empty else None)
        for name in option_names(cls)
    }
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    made: type[BaseModel] = create_model(cls.__name__, __config__=config, **fields)  # type: ignore[call-overload]
    return made


def check_options(cls: type[Regularizer], options: Mapping[str, object]) -> dict[str, object]:
    """Options with the types that the method's signature asks for.

    Args:
        cls: The method.
        options: As read from a file.

    Returns:
        The given options, lists turned into tuples where the signature says so.

    Raises:
        WrongOption: An unknown option, or a value of the wrong type.

    Example:
        >>> check_options(method_class("ssr"), {"lam": 0.1, "stage_steps": [10, 20]})
        {'lam': 0.1, 'stage_steps': (10, 20)}
    """
    try:
        # As JSON, strictly: lists may become tuples, but "1" is no number and true is none.
        made = _options_model(cls).model_validate_json(json.dumps(dict(options)), strict=True)
    except ValidationError as error:
        fault = error.errors()[0]
        option = str(fault["loc"][0]) if fault["loc"] else ""
        if fault["type"] != "extra_forbidden":
            what = f"{cls.name}: {option}={options.get(option)!r}: {fault['msg'].lower()}"
            raise WrongOption(
                option, what, advice=f"see the description of fxprune.regularizers.{cls.__name__}"
            ) from error
        known = option_names(cls)
        close = difflib.get_close_matches(option, known, n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise WrongOption(
            option, f"{cls.name} has no option '{option}'", advice=f"{hint}it has {', '.join(known)}"
        ) from error
    return {name: getattr(made, name) for name in options}


def make_method(
    chosen: Sequence[tuple[str, Mapping[str, object]]],
    model: nn.Module,
    groups: Sequence[Group],
    *,
    optimizer: torch.optim.Optimizer,
    budget: Budget | None,
) -> Regularizer:
    """The regularizer a recipe asks for.

    Args:
        chosen: Names and options; several are composed.
        model: The model in training.
        groups: Its coupling groups.
        optimizer: Where methods read the step size.
        budget: For methods that decide by one.

    Raises:
        WrongOption: As ``check_options``.
        PlanError: The options make no sense together.
    """
    parts = []
    for name, options in chosen:
        cls = method_class(name)
        given: dict[str, object] = {"lr": optimizer} | ({} if budget is None else {"budget": budget})
        accepted = {k: v for k, v in given.items() if k in inspect.signature(cls).parameters}
        parts.append(cls(model, groups, **accepted, **check_options(cls, options)))  # type: ignore[call-arg]
    return parts[0] if len(parts) == 1 else Compose(*parts)


def is_one_shot(name: str) -> bool:
    """Whether a method decides without training."""
    return issubclass(method_class(name), OneShot)
