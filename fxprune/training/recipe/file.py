"""Reading recipes: bases joined, command line changes applied, everything checked, errors with their line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from fxprune.criteria import FROM_SAMPLES
from fxprune.criteria.named import criterion_named
from fxprune.errors import FxpruneError, PlanError, RecipeError
from fxprune.models.zoo import check_name
from fxprune.support.reading import shown, usable
from fxprune.support.words import near
from fxprune.training.recipe.schema import (
    FolderData,
    NpzData,
    Recipe,
    TorchvisionData,
    files_named,
    model_fields_at,
)
from fxprune.training.recipe.yaml_tree import Key, Tree, merge, parse_value, put, read_tree, walk

__all__ = ["RecipeFile", "outline", "read_recipe"]

_DEEPEST = 8

# Values that are paths, by source of the data; relative ones start from the folder of the file they stand in.
_OF_IMAGES: tuple[Key, ...] = (("weights",), ("data", "train"), ("data", "test"))
_PATHS: Mapping[str, tuple[Key, ...]] = {
    "npz": _OF_IMAGES,
    "folder": _OF_IMAGES,
    "torchvision": (("weights",), ("data", "root")),
}


@dataclass(frozen=True)
class RecipeFile:
    """A validated recipe that still knows where each value was written.

    Attributes:
        recipe: The values.
        tree: The same with places.
        name: For people: the file's name without its suffix.
    """

    recipe: Recipe
    tree: Tree
    name: str

    def error(self, key: str, what: str, *, advice: str) -> RecipeError:
        """An error about one value.

        Args:
            key: Its path, as ``data.train``.
            what: What is wrong with it.
            advice: What the user can do.
        """
        return RecipeError(what, source=str(self._place(tuple(key.split(".")))), advice=advice)

    def _place(self, key: Key) -> object:
        return walk(self.tree, key).where


def read_recipe(path: str | Path, changes: Sequence[str] = ()) -> RecipeFile:
    """Read and check a recipe.

    Args:
        path: A YAML file.
        changes: ``key=value`` texts that win over the file, as ``sparse.lr=0.1``; relative paths in
            them start from the current folder.

    Raises:
        RecipeError: With the line: not YAML, an unknown key, a wrong type, a missing file, an unknown method,
            criterion or option.
    """
    file = outline(path, changes)
    _check_methods(file)
    _check_criterion(file)
    return file


def outline(path: str | Path, changes: Sequence[str] = ()) -> RecipeFile:
    """Read a recipe and check everything but methods and a criterion of one's own: these are code, and need torch.

    Args:
        path: As for ``read_recipe``.
        changes: Likewise.

    Raises:
        RecipeError: As ``read_recipe``, but not for an unknown method or its options.
    """
    path = usable(path, error=RecipeError)
    tree = _with_bases(path)
    for change in changes:
        tree = _changed_by(tree, change)
    tree = _with_paths(tree)
    try:
        # As JSON, strictly: lists may become tuples and texts paths, but "1" is no number and true is none.
        recipe = Recipe.model_validate_json(json.dumps(tree.plain()), strict=True)
    except ValidationError as error:
        raise _refusal(tree, error.errors()) from error
    file = RecipeFile(recipe, tree, path.stem)
    _check_files(file)
    try:
        check_name(recipe.model)
    except FxpruneError as error:
        raise file.error("model", error.what, advice=error.advice) from error
    return file


def _with_bases(path: Path, seen: tuple[Path, ...] = ()) -> Tree:
    """The tree of a file over the trees of its bases."""
    tree = read_tree(path)
    if not isinstance(tree.value, Mapping):
        raise RecipeError(
            "a recipe is a mapping of keys", source=str(tree.where), advice="write 'key: value'"
        )
    base = tree.value.get("base")
    if base is None:
        return tree
    below = base.where.folder / usable(str(base.value), error=RecipeError)
    seen = (*seen, path.resolve())
    if not below.is_file() or below.resolve() in seen or len(seen) > _DEEPEST:
        problem = "does not exist" if not below.is_file() else "is based on this one"
        raise RecipeError(
            f"the base {base.value} {problem}", source=str(base.where), advice="name another recipe"
        )
    own = Tree({key: value for key, value in tree.value.items() if key != "base"}, tree.where)
    return merge(_with_bases(below, seen), own)


def _changed_by(tree: Tree, text: str) -> Tree:
    key, sign, value = text.partition("=")
    if not sign or not all(key.split(".")):
        raise RecipeError(f"--set {text}: not of the form key=value", advice="write --set sparse.lr=0.1")
    if len(key.split(".")) > _DEEPEST:
        raise RecipeError(f"--set {shown(text)}: no key is that deep", advice="write --set sparse.lr=0.1")
    return put(tree, key.split("."), parse_value(value, f"--set {shown(text)}", Path.cwd()))


# --- paths -----------------------------------------------------------------------------------


def _with_paths(tree: Tree) -> Tree:
    """Relative paths made absolute."""
    source = str(walk(tree, ("data", "source")).plain())
    for key in _PATHS.get(source, (("weights",),)):
        tree = _changed(tree, key, _absolute)
    # Models, methods and criteria of one's own are named by file.py:name.
    for key in (("model",), ("method",), ("method", "name"), ("plan", "criterion")):
        tree = _changed(tree, key, _absolute_model)
    return tree


def _changed(tree: Tree, key: Key, change: Callable[[str, Path], str]) -> Tree:
    """The text under a key changed, in every item of a list."""
    if isinstance(tree.value, (list, tuple)):
        return Tree([_changed(item, key, change) for item in tree.value], tree.where)
    if not key:
        return (
            Tree(change(tree.value, tree.where.folder), tree.where) if isinstance(tree.value, str) else tree
        )
    name = str(key[0])
    if not isinstance(tree.value, Mapping) or name not in tree.value:
        return tree
    return Tree({**tree.value, name: _changed(tree.value[name], key[1:], change)}, tree.where)


def _absolute(text: str, folder: Path) -> str:
    # Not resolved: a link may be moved to other data, and wildcards are no path yet.
    return os.path.normpath(folder / usable(text, error=RecipeError))


def _absolute_model(text: str, folder: Path) -> str:
    """``file.py:factory``, ``hf:FOLDER`` and ``file.pt2`` hold a path; other models stay as they are."""
    place, mark, query = text.partition("?")
    file, colon, name = place.rpartition(":")
    if file.endswith(".py"):
        return f"{_absolute(file, folder)}{colon}{name}{mark}{query}"
    if file == "hf":
        return f"{file}{colon}{_absolute(name, folder)}{mark}{query}"
    return _absolute(text, folder) if text.endswith(".pt2") else text


# --- errors ----------------------------------------------------------------------------------


def _refusal(tree: Tree, faults: Sequence[ErrorDetails]) -> RecipeError:
    """One error for everything wrong, in the order of the lines."""
    refusals: dict[object, tuple[str, str, str]] = {}
    for fault in faults:
        # What tells the members of a union apart is itself a value with a line.
        tagged = fault["type"] == "union_tag_invalid"
        place = walk(tree, (*fault["loc"], "source") if tagged else fault["loc"])
        where, what, advice = str(place.where), *_words(tree, fault)
        refusals.setdefault((where, _written(tree, fault["loc"])), (where, what, advice))
    first, *others = sorted(refusals.values(), key=lambda f: (f[0].partition(":")[0], _line(f[0])))
    more = "".join(f"\n{where}: {what}" for where, what, _ in others)
    return RecipeError(first[1] + more, source=first[0], advice=first[2])


def _line(where: str) -> int:
    number = where.rpartition(":")[2]
    return int(number) if number.isdecimal() else 0


def _written(tree: Tree, key: Key) -> str:
    """The path in the user's words: without tags of unions."""
    parts = []
    for part in key:
        inner = tree.value
        known = isinstance(inner, Mapping) and part in inner
        listed = isinstance(inner, list) and isinstance(part, int) and part < len(inner)
        if known or listed:
            parts.append(str(part))
            tree = walk(tree, (part,))
    return ".".join(parts)


def _words(tree: Tree, fault: ErrorDetails) -> tuple[str, str]:
    """What is wrong, and what to do."""
    key, kind = fault["loc"], fault["type"]
    written = _written(tree, key)
    if kind == "extra_forbidden":
        known = model_fields_at(key[:-1])
        inside = written.rpartition(".")[0]
        return (
            f"unknown key '{key[-1]}'" + (f" in {inside}" if inside else ""),
            near(str(key[-1]), known, most=1, otherwise=f"keys here: {', '.join(known)}"),
        )
    if kind == "missing":
        inside = f" in {written}" if written else ""
        return f"'{key[-1]}' is missing{inside}", f"add '{key[-1]}:'"
    if kind == "union_tag_invalid":
        known = tuple(str(fault["ctx"]["expected_tags"]).replace("'", "").split(", "))
        given = str(fault["ctx"]["tag"])
        choice = f"{near(given, known, most=1)} choose one of {', '.join(known)}"
        return f"{written}.source ({given}) is unknown", choice.strip()
    text = fault["msg"].removeprefix("Value error, ")
    given = fault["input"]
    shown = f" ({json.dumps(given)})" if isinstance(given, (str, int, float, bool)) else ""
    text = text[0].lower() + text[1:]
    return (
        f"{written}{shown}: {text}" if written else text,
        "change the value; python -m pydoc fxprune.training.recipe.schema lists all keys",
    )


# --- what only other parts know ---------------------------------------------------------------


def _check_methods(file: RecipeFile) -> None:
    from fxprune.regularizers.registry import WrongOption, method_info

    recipe = file.recipe
    listed = isinstance(walk(file.tree, ("method",)).value, list)
    for number, method in enumerate(recipe.method):
        prefix = f"method.{number}" if listed else "method"
        place: Key = ("method", number) if listed else ("method",)
        try:
            info = method_info(method.name)
            info.check(method.options)
        except WrongOption as error:
            where = walk(file.tree, (*place, error.option or "name")).where
            raise RecipeError(error.what, source=str(where), advice=error.advice) from error
        if not info.one_shot and not recipe.epochs_of("sparse"):
            raise file.error(
                prefix, f"method {method.name} needs epochs to act in", advice="set sparse.epochs above 0"
            )
        if info.one_shot and recipe.budget is None:
            raise file.error(prefix, f"method {method.name} needs a budget", advice="add budget: {macs: 0.5}")
    if recipe.finetune.start == "scratch":
        _check_scratch(file)


def _check_criterion(file: RecipeFile) -> None:
    """One's own, named by ``file.py:Name``, can be made."""
    if file.recipe.plan.criterion in FROM_SAMPLES:
        return
    try:
        criterion_named(file.recipe.plan.criterion)
    except PlanError as error:
        raise file.error("plan.criterion", error.what, advice=error.advice) from error


def _check_scratch(file: RecipeFile) -> None:
    if not file.recipe.epochs_of("finetune"):
        raise file.error(
            "finetune.start", "training from scratch needs epochs", advice="set finetune.epochs above 0"
        )
    if "@" in file.recipe.model.partition("?")[0].rpartition(":")[2]:
        raise file.error(
            "finetune.start",
            f"{file.recipe.model} comes with trained weights: nothing is left to start from scratch with",
            advice="name the model without its weights, and give those as weights:",
        )


def _check_files(file: RecipeFile) -> None:
    for key, path, kind in _named_files(file.recipe):
        there = {"file": path.is_file, "folder": path.is_dir}[kind]
        if not there():
            raise file.error(
                key,
                f"there is no {kind} {path}",
                advice="a relative path starts from the folder of the recipe it is written in",
            )
    data = file.recipe.data
    if isinstance(data, NpzData):
        for key, pattern in (("data.train", data.train), ("data.test", data.test)):
            if not files_named(pattern):
                raise file.error(
                    key, f"no file is named {pattern}", advice="check the path and the wildcards"
                )


def _named_files(recipe: Recipe) -> Iterator[tuple[str, Path, str]]:
    source, _, name = recipe.model.partition("?")[0].rpartition(":")
    file = Path(source if not recipe.model.endswith(".pt2") else recipe.model)
    if file.suffix in (".py", ".pt2"):
        yield "model", file, "file"
    if source == "hf":
        yield "model", Path(name), "folder"
    if recipe.weights is not None:
        yield "weights", recipe.weights, "file"
    if isinstance(recipe.data, FolderData):
        yield "data.train", recipe.data.train, "folder"
        yield "data.test", recipe.data.test, "folder"
    if isinstance(recipe.data, TorchvisionData) and recipe.data.root and not recipe.data.download:
        yield "data.root", recipe.data.root, "folder"
