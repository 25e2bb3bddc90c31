"""Factories: what they take, and how they are called with what a person wrote."""

from __future__ import annotations

import importlib
import inspect as pyinspect
import re
import typing
from collections.abc import Callable, Collection, Mapping
from types import ModuleType

from fxprune.errors import FxpruneError
from fxprune.models.specs import Argument
from fxprune.support.source_lines import source_of
from fxprune.support.words import near

__all__ = ["called", "needed", "one_line", "parameters"]

_UNKNOWN = re.compile(r"unexpected keyword argument '(\w+)'")
_NAMED = (pyinspect.Parameter.POSITIONAL_OR_KEYWORD, pyinspect.Parameter.KEYWORD_ONLY)


def parameters(factory: Callable[..., object]) -> tuple[tuple[str, ...], bool]:
    """Names that a factory is known to take, and whether it may take others.

    A factory with ``**kwargs`` that says which class it makes hands most of them on to it: torchvision's and timm's do.

    Example:
        >>> from torchvision.models import resnet18
        >>> names, more = parameters(resnet18)
        >>> "num_classes" in names, more
        (True, True)
    """
    try:
        own = pyinspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # compiled code does not tell
        return (), True
    names = tuple(p.name for p in own if p.kind in _NAMED)
    if not any(p.kind is pyinspect.Parameter.VAR_KEYWORD for p in own):
        return names, False
    kind = None if isinstance(factory, type) else _result(factory)
    more = parameters(kind)[0] if isinstance(kind, type) else ()
    return tuple(dict.fromkeys((*names, *more))), True


def _result(factory: Callable[..., object]) -> object:
    try:
        return typing.get_type_hints(pyinspect.unwrap(factory)).get("return")
    except Exception:  # noqa: BLE001 - annotations are evaluated, and may be anything
        return None


def called(
    factory: Callable[..., object],
    arguments: Mapping[str, Argument],
    what: str,
    *,
    of: Callable[..., object] | None = None,
    hidden: Collection[str] = (),
    advice: str = "",
) -> object:
    """What a factory makes of the arguments.

    Args:
        factory: Any callable.
        arguments: By name.
        what: What errors call it.
        of: Whose parameters the arguments are, if not the factory's own.
        hidden: Parameters that are given in another way.
        advice: What to do where it fails for a reason of its own.

    Raises:
        FxpruneError: It takes no such argument, or failed.
    """
    names, is_open = parameters(of or factory)
    names = tuple(name for name in names if name not in hidden)
    for name in arguments:
        if name in hidden or (name not in names and not is_open):
            raise _no_such(what, name, names)
    try:
        return factory(**arguments)
    except FxpruneError:
        raise
    except Exception as error:  # the user's code may raise anything
        unknown = _UNKNOWN.search(str(error)) if isinstance(error, TypeError) else None
        if unknown and unknown[1] in arguments:
            raise _no_such(what, unknown[1], names) from error
        given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        raise FxpruneError(
            f"{what} failed{' with ' * bool(given)}{given}: {one_line(error)}",
            source=source_of(error),
            advice=advice,
        ) from error


def _no_such(what: str, name: str, names: tuple[str, ...]) -> FxpruneError:
    takes = f"it takes {', '.join(names)}" if names else "it takes none"
    question = near(name, names)
    return FxpruneError(
        f"{what} takes no argument '{name}'", advice=f"{question} {takes}" if question else takes
    )


def needed(package: str, spec: str) -> ModuleType:
    """An optional package.

    Raises:
        FxpruneError: It is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise _broken(package, spec, error) from error
        raise FxpruneError(
            f"'{spec}' needs {package}, which is not installed", advice=f"pip install {package}"
        ) from error
    except Exception as error:  # a package of another version of torch, say
        raise _broken(package, spec, error) from error


def _broken(package: str, spec: str, error: BaseException) -> FxpruneError:
    return FxpruneError(
        f"'{spec}' needs {package}, which cannot be imported: {one_line(error)}",
        advice=f"python -c 'import {package}' should work first",
    )


def one_line(error: BaseException) -> str:
    """Kind and text of an error."""
    text = " ".join(str(error).split())
    name = type(error).__name__
    return f"{name}: {text[:300]}" if text else name
