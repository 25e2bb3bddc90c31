"""MODEL as text: ``SOURCE:NAME?argument=value&argument=value``, or a file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fxprune.errors import FxpruneError
from fxprune.support.briefly import brief

if TYPE_CHECKING:  # loading torch takes seconds, and names of models can be read without
    from torch import nn

__all__ = ["FORMS", "Argument", "Loaded", "Spec", "parse_argument", "read_spec"]

Scalar = bool | int | float | str | None
Argument = Scalar | list[Scalar]
"""A value that a person can write for an argument of a factory; lists only in recipes."""

FORMS = (
    "write torchvision:resnet50, timm:NAME, hf:FOLDER, ultralytics:yolo11n.yaml, package.module:factory, "
    "path/to/file.py:factory or path/to/model.pt2"
)

_WORDS: Mapping[str, Argument] = {"true": True, "false": False, "none": None}
_FLOAT = re.compile(r"-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
_FILES = (".pt2", ".onnx")
_DIGITS = 18  # of a whole number: sizes have fewer, and Python refuses thousands


@dataclass(frozen=True)
class Spec:
    """What a text says about a model.

    Attributes:
        text: As it was written.
        source: What stands before the colon; of a file nothing.
        name: What stands behind it; of a file its path.
        arguments: For the factory, by name.
    """

    text: str
    source: str
    name: str
    arguments: Mapping[str, Argument] = field(default_factory=dict)


@brief
@dataclass(frozen=True, eq=False)
class Loaded:
    """A model and what its source knows about it.

    Attributes:
        model: In evaluation mode.
        spec: The text it was named by.
        inputs: Example inputs the source came with (a factory's, a ``.pt2`` file's), or None.
        pretrained: Whether the source filled in trained weights; False says nothing about a
            factory, which may have done so on its own.
        arguments: What its factory was given.
        notes: What the source did that its name does not say.
    """

    model: nn.Module
    spec: str
    inputs: object | None = None
    pretrained: bool = False
    arguments: Mapping[str, Argument] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_spec(text: str, arguments: Mapping[str, Argument] | None = None) -> Spec:
    """Take the text apart.

    Args:
        text: ``torchvision:resnet18?num_classes=10``, say.
        arguments: More of them, as a recipe's ``model_args`` are.

    Raises:
        FxpruneError: It names no model, or an argument cannot be read or stands twice.

    Example:
        >>> spec = read_spec("torchvision:resnet18?num_classes=10&zero_init_residual=true")
        >>> spec.source, spec.name, spec.arguments
        ('torchvision', 'resnet18', {'num_classes': 10, 'zero_init_residual': True})
    """
    if not text.strip():
        raise FxpruneError("the model's name is empty", advice=FORMS)
    place, mark, query = text.partition("?")
    given: dict[str, Argument] = {}
    for name, value in (*_parts(text, query if mark else ""), *(arguments or {}).items()):
        if name in given:
            raise FxpruneError(f"the argument '{name}' of '{place}' is given twice", advice="give it once")
        given[name] = value
    if place.endswith(_FILES):
        if given:
            raise FxpruneError(
                f"{place} is a file, and takes no arguments", advice="leave out what follows the '?'"
            )
        return Spec(text, "", place)
    source, colon, name = place.rpartition(":")
    if not colon or not source or not name:
        file = f"name a function in the file, as {place}:make" if place.endswith(".py") else FORMS
        raise FxpruneError(f"'{text}' does not name a model", advice=file)
    return Spec(text, source, name, given)


def _parts(text: str, query: str) -> Iterator[tuple[str, Argument]]:
    for part in query.split("&") if query else ():
        name, sign, value = part.partition("=")
        if not sign or not name.isidentifier():
            raise FxpruneError(
                f"'{part}' in '{text}' is no argument",
                advice="write ?name=value, with & between several and the whole in quotes: '?num_classes=10&dropout=0.1'",
            )
        yield name, parse_argument(value)


def parse_argument(text: str) -> Argument:
    """A value as it is meant: a number, true, false, none, or text (in quotes where it looks like one of those).

    Example:
        >>> [parse_argument(t) for t in ("10", "1e-3", "true", "None", "avg", "'10'")]
        [10, 0.001, True, None, 'avg', '10']
    """
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    if text.removeprefix("-").isdecimal() and text.isascii() and len(text) <= _DIGITS:
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text
