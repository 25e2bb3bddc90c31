"""Names of the models that torchvision and timm have, without importing either: that takes seconds.

Both mark a model's function with ``@register_model``, so their own sources, as they are installed, are the list.
"""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path

from fxprune.errors import FxpruneError
from fxprune.support.words import near

__all__ = ["ZOOS", "check_name", "installed", "names"]

ZOOS = ("torchvision", "timm")

# Other decorators may stand between, with arguments over several lines.
_REGISTERED = re.compile(
    r'^@register_model\b(?:\(name="(\w+)"\))?.*\n(?:@.*\n(?:[ )].*\n)*)*def (\w+)', re.MULTILINE
)


def installed(zoo: str) -> bool:
    """Whether a zoo's package is there."""
    return importlib.util.find_spec(zoo) is not None


@cache
def names(zoo: str) -> tuple[str, ...]:
    """The models of a zoo, in alphabetical order; none where it is not installed.

    Args:
        zoo: ``"torchvision"`` or ``"timm"``.

    Example:
        >>> "resnet18" in names("torchvision")
        True
    """
    found = importlib.util.find_spec(zoo)
    places = [] if found is None else found.submodule_search_locations or []
    files = [file for place in places for file in sorted((Path(place) / "models").rglob("*.py"))]
    pairs = (
        pair for file in files for pair in _REGISTERED.findall(file.read_text("utf-8", errors="replace"))
    )
    return tuple(sorted({given or function for given, function in pairs}))


def check_name(spec: str) -> None:
    """Refuse a model that torchvision has not; timm knows more names than these, and answers for itself.

    Args:
        spec: MODEL, as ``load_model`` takes it.

    Raises:
        FxpruneError: There is no such model.
    """
    zoo, _, rest = spec.rpartition(":")
    name = re.split("[@?]", rest, maxsplit=1)[0]
    known = names(zoo) if zoo == "torchvision" else ()
    if known and name not in known:
        raise FxpruneError(
            f"torchvision has no model '{name}'", advice=near(name, known, otherwise="check the spelling")
        )
