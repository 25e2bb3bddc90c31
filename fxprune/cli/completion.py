"""What the shell offers while a word is typed: models, files, criteria, targets, recipes.

Nothing here loads torch.  Names of models come from the installed sources (``fxprune.models.zoo``), names of functions in
a file from its syntax, so that no list has to be kept up to date.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
from collections.abc import Iterator, MutableMapping, Sequence
from pathlib import Path

__all__ = ["criteria", "models", "recipes", "shell_words", "targets", "without_prefix"]

_BASH = "complete_bash"
_PRETRAINED = "@pretrained"


def models(incomplete: str) -> list[str]:
    """``torchvision:NAME``, ``timm:NAME``, ``file.py:function`` and ``file.pt2``."""
    from fxprune.models.zoo import ZOOS, installed, names

    source, colon, name = incomplete.rpartition(":")
    if source.endswith(".py"):
        return [f"{source}:{function}" for function in _factories(Path(source)) if function.startswith(name)]
    if colon and source in ZOOS:
        return _of_zoo(source, name)
    sources = [zoo for zoo in ZOOS if zoo.startswith(incomplete) and installed(zoo)]
    files = _files(incomplete, (".py", ".pt2"))
    if len(sources) == 1 and not files:  # else the shell would put a space behind the colon
        return [f"{sources[0]}:{model}" for model in names(sources[0])]
    return [f"{zoo}:" for zoo in sources] + files


def _of_zoo(zoo: str, name: str) -> list[str]:
    """Models that begin so; one that is complete with the way to ask for its weights, too."""
    from fxprune.models.zoo import names

    base, at, _ = name.partition("@")
    if at:
        return [f"{zoo}:{base}{_PRETRAINED}"] if base in names(zoo) else []
    found = [f"{zoo}:{model}" for model in names(zoo) if model.startswith(name)]
    return found + ([f"{zoo}:{name}{_PRETRAINED}"] if name in names(zoo) else [])


def _factories(file: Path) -> Iterator[str]:
    """Functions of a file that can be called without arguments."""
    try:
        tree = ast.parse(file.read_text("utf-8"))
    except (OSError, ValueError, SyntaxError, RecursionError):
        return
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            given = node.args
            needed = len(given.posonlyargs) + len(given.args) - len(given.defaults)
            if needed <= 0 and all(given.kw_defaults):
                yield node.name


def criteria(incomplete: str) -> list[str]:
    """Names of criteria."""
    from fxprune.criteria import CRITERIA, FROM_SAMPLES

    known = [*(criterion.name for criterion in CRITERIA), *FROM_SAMPLES]
    return [name for name in known if name.startswith(incomplete)]


def targets(incomplete: str) -> list[str]:
    """Names of targets, and files of ``fxprune calibrate``."""
    from fxprune import targets as known

    return [name for name in known.names() if name.startswith(incomplete)] + _files(incomplete, (".json",))


def recipes(incomplete: str) -> list[str]:
    """Recipe files."""
    return _files(incomplete, (".yaml", ".yml"))


def _files(incomplete: str, suffixes: Sequence[str]) -> list[str]:
    """Files of a kind, and the folders on the way to others; what lies in a folder if it is the only thing to go into."""
    while True:
        folder, name = os.path.split(incomplete)
        found: list[str] = []
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            for entry in sorted(Path(folder or ".").expanduser().iterdir()):
                hidden = entry.name.startswith(".") and not name.startswith(".")
                if entry.name.startswith(name) and not hidden:
                    shown = os.path.join(folder, entry.name)  # noqa: PTH118 - "./x" must stay as it was typed
                    found += [f"{shown}/"] * entry.is_dir() + [shown] * (entry.suffix in suffixes)
        if len(found) != 1 or not found[0].endswith("/"):
            return found
        incomplete = found[0]


# --- bash breaks words at : and @ ---------------------------------------------------------------


def shell_words(environment: MutableMapping[str, str], variable: str) -> str:
    r"""Undo how bash cuts ``torchvision:resnet18`` into three words, in the variables that it asks with.

    Args:
        environment: Changed in place.
        variable: Name of the variable that says which shell asks.

    Returns:
        What bash has of the word before the part that it replaces, to be taken off what is offered.

    Example:
        >>> asked = {"C": "complete_bash", "COMP_WORDS": "fxprune\nplan\ntorchvision\n:\nres", "COMP_CWORD": "4"}
        >>> shell_words(asked, "C"), asked["COMP_WORDS"].split("\n"), asked["COMP_CWORD"]
        ('torchvision:', ['fxprune', 'plan', 'torchvision:res'], '2')
    """
    words = environment.get("COMP_WORDS", "").split("\n")
    at = environment.get("COMP_CWORD", "")
    if environment.get(variable) != _BASH or not at.isdecimal():
        return ""
    joined: list[str] = []
    mended = int(at)
    for number, word in enumerate(words):
        glued = number > 1 and joined and (re.fullmatch("[:@]+", word) or joined[-1].endswith((":", "@")))
        if glued:
            joined[-1] += word
            mended -= number <= int(at)
        else:
            joined.append(word)
    environment.update(COMP_WORDS="\n".join(joined), COMP_CWORD=str(mended))
    current = joined[mended] if mended < len(joined) else ""
    # What follows a colon is replaced; an @ goes along.
    return current[: max(current.rfind(":") + 1, current.rfind("@"), 0)]


@contextlib.contextmanager
def without_prefix(prefix: str) -> Iterator[None]:
    """Take the beginning off every line that is printed inside."""
    if not prefix:
        yield
        return
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            yield
    finally:
        print("\n".join(line.removeprefix(prefix) for line in said.getvalue().splitlines()))
