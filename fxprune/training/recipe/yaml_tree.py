"""YAML with the line of every value, so that an error can point at it.

Scalars follow YAML 1.2: only ``true`` and ``false`` are booleans (``no`` is a word), ``1e-3`` is a number,
and a key that stands twice is an error.  Nothing but plain values is ever constructed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from fxprune.errors import RecipeError
from fxprune.support.reading import MIB, read_text, shown, usable

__all__ = ["Key", "Tree", "Where", "merge", "parse", "parse_value", "put", "read_tree", "walk"]

Key = tuple[str | int, ...]
"""Path of a value: names of mappings and positions in lists."""


@dataclass(frozen=True)
class Where:
    """Where a value was written.

    Attributes:
        name: The file, or the command line option.
        line: From 1; 0 where there are no lines.
        folder: What relative paths in it start from.
    """

    name: str
    line: int
    folder: Path

    def __str__(self) -> str:
        return f"{self.name}:{self.line}" if self.line else self.name


@dataclass(frozen=True)
class Tree:
    """A value with its place.

    Attributes:
        value: A scalar, a mapping of trees or a list of trees.
        where: Its place.
    """

    value: str | int | float | bool | Mapping[str, Tree] | Sequence[Tree] | None
    where: Where

    def plain(self) -> object:
        """The value without places."""
        if isinstance(self.value, Mapping):
            return {key: tree.plain() for key, tree in self.value.items()}
        if isinstance(self.value, Sequence) and not isinstance(self.value, str):
            return [tree.plain() for tree in self.value]
        return self.value


_NAMING = ("name", "source")


class _Loader(yaml.SafeLoader):
    """Scalars of YAML 1.2's core schema."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


_LARGEST = MIB // 4
_MOST_VALUES = 20_000  # of one file, aliases written out: recipes have some fifty
_DEEPEST = 50
_DIGITS = 400  # of a number

_TAG = "tag:yaml.org,2002:"
_SCALARS = (
    (f"{_TAG}bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    (f"{_TAG}int", r"[-+]?[0-9]+", "-+0123456789"),
    (
        f"{_TAG}float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
    (f"{_TAG}null", r"~|null|Null|NULL|", "~nN\0"),
)
_FORMS: Mapping[str, re.Pattern[str]] = {tag: re.compile(rf"^(?:{form})$") for tag, form, _ in _SCALARS}

for _tag, _form, _first in _SCALARS:
    starts = [None if c == "\0" else c for c in _first]
    _Loader.add_implicit_resolver(_tag, _FORMS[_tag], starts)

# The only values there are.  No constructor of YAML's is ever called: what else a tag asks for is refused.
_VALUES: Mapping[str, Callable[[str], str | int | float | bool | None]] = {
    f"{_TAG}str": lambda text: text,
    f"{_TAG}bool": lambda text: text.lower() == "true",
    f"{_TAG}int": int,  # YAML 1.1 reads 012 as an octal number
    f"{_TAG}float": lambda text: float(re.sub(r"\.(?=inf|nan)", "", text.lower())),
    f"{_TAG}null": lambda text: None,
}


def read_tree(path: str | Path) -> Tree:
    """The content of a YAML file.

    Raises:
        RecipeError: There is no such file, or it is not YAML; the message has the line.
    """
    text = read_text(path, limit=_LARGEST, error=RecipeError, advice="pass a YAML file")
    target = usable(path, error=RecipeError)
    return parse(text, target.name, target.resolve().parent)


def parse(text: str, name: str, folder: Path) -> Tree:
    r"""YAML text as a tree.

    Args:
        text: One document.
        name: What places are called.
        folder: What relative paths in it start from.

    Raises:
        RecipeError: It is not YAML, or a key stands twice.

    Example:
        >>> tree = parse("a: 1e-3\nb: [no, true]", "x.yaml", Path())
        >>> tree.plain(), str(walk(tree, ("b", 1)).where)
        ({'a': 0.001, 'b': ['no', True]}, 'x.yaml:2')
    """
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return Tree({}, Where(name, 1, folder))
        return _Reading(name, folder).tree(node, 1)
    except RecursionError as error:
        raise RecipeError(
            "this is nested too deeply for a recipe", source=name, advice="write a mapping of sections"
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        raise RecipeError(
            f"this is not YAML: {error.problem or error.context}",
            source=where,
            advice="check the indentation and the quotes around this line",
        ) from error
    except RecipeError:
        raise
    except Exception as error:  # the scanner of YAML lets through what Python says of impossible characters
        said = " ".join(str(error).split()) or type(error).__name__
        raise RecipeError(f"this is not YAML: {said}", source=name, advice="save it as UTF-8 text") from error
    finally:
        if loader is not None:
            loader.dispose()


class _Reading:
    """One document on its way from nodes to values; aliases are written out, so their number is bounded."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name, self._folder = name, folder
        self._left = _MOST_VALUES

    def _error(self, node: yaml.Node, what: str, advice: str) -> RecipeError:
        return RecipeError(what, source=f"{self._name}:{node.start_mark.line + 1}", advice=advice)

    def tree(self, node: yaml.Node, depth: int) -> Tree:
        """The tree of a node."""
        self._left -= 1
        if self._left < 0:
            raise self._error(
                node, f"there are more than {_MOST_VALUES} values, aliases written out", "write less"
            )
        if depth > _DEEPEST:
            raise self._error(
                node, "this is nested too deeply, or an alias contains itself", "write the values out"
            )
        where = Where(self._name, node.start_mark.line + 1, self._folder)
        if isinstance(node, yaml.MappingNode):
            return Tree(self._mapping(node, depth), where)
        if isinstance(node, yaml.SequenceNode):
            self._collection(node, "seq")
            return Tree([self.tree(item, depth + 1) for item in node.value], where)
        return Tree(self._scalar(node), where)

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Tree]:
        self._collection(node, "map")
        mapping: dict[str, Tree] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._error(key_node, "a key is a list or a mapping", "write a word")
            key = str(self._scalar(key_node))
            if key in mapping:
                raise self._error(
                    key_node,
                    f"'{key}' stands twice, first in line {mapping[key].where.line}",
                    "remove one of them",
                )
            inner = self.tree(value_node, depth + 1)
            # A block's own mark is its first child's; the key's line is where a person looks.
            mapping[key] = Tree(inner.value, Where(self._name, key_node.start_mark.line + 1, self._folder))
        return mapping

    def _collection(self, node: yaml.Node, kind: str) -> None:
        if node.tag != f"{_TAG}{kind}":
            raise self._tag(node)

    def _scalar(self, node: yaml.Node) -> str | int | float | bool | None:
        text, form = node.value, _FORMS.get(node.tag)
        if node.tag not in _VALUES:
            raise self._tag(node)
        # A tag may be written before any text: !!int x.
        if form is not None and (not form.match(text) or len(text) > _DIGITS):
            raise self._error(
                node, f"{shown(text)!r} is no {node.tag.removeprefix(_TAG)}", "write a plain value"
            )
        return _VALUES[node.tag](text)

    def _tag(self, node: yaml.Node) -> RecipeError:
        tag = shown(node.tag.replace(_TAG, "!!"))
        return self._error(node, f"a recipe has no values of the kind {tag}", "write a plain value")


def parse_value(text: str, name: str, folder: Path) -> Tree:
    """YAML text of one value, as on a command line; its places have no line."""
    return _unlined(parse(text, name, folder))


def _unlined(tree: Tree) -> Tree:
    where = Where(tree.where.name, 0, tree.where.folder)
    if isinstance(tree.value, Mapping):
        return Tree({key: _unlined(item) for key, item in tree.value.items()}, where)
    if isinstance(tree.value, Sequence) and not isinstance(tree.value, str):
        return Tree([_unlined(item) for item in tree.value], where)
    return Tree(tree.value, where)


def merge(under: Tree, over: Tree) -> Tree:
    """Two trees as one: mappings are joined key by key, of anything else the upper one counts.

    Mappings whose ``name`` or ``source`` differ are of different things and are not joined.

    Example:
        >>> under, over = (parse(t, "x", Path()) for t in ("a: {b: 1, c: 2}", "a: {c: 3}"))
        >>> merge(under, over).plain()
        {'a': {'b': 1, 'c': 3}}
    """
    if not (isinstance(under.value, Mapping) and isinstance(over.value, Mapping)):
        return over
    for key in _NAMING:
        if key in over.value and key in under.value and over.value[key].value != under.value[key].value:
            return over
    joined = dict(under.value)
    for key, tree in over.value.items():
        joined[key] = merge(joined[key], tree) if key in joined else tree
    return Tree(joined, over.where)


def put(tree: Tree, key: Sequence[str], value: Tree) -> Tree:
    """The tree with another value at a path; what is missing on the way is made.

    Example:
        >>> put(parse("a: {b: 1}", "x", Path()), ("a", "c"), parse_value("2", "y", Path())).plain()
        {'a': {'b': 1, 'c': 2}}
    """
    if not key:
        return value
    inner = dict(tree.value) if isinstance(tree.value, Mapping) else {}
    inner[key[0]] = put(inner.get(key[0], Tree(None, value.where)), key[1:], value)
    return Tree(inner, tree.where)


def walk(tree: Tree, key: Key) -> Tree:
    r"""The tree at a path, or the closest one on the way to it.

    Example:
        >>> walk(parse("a:\n  b: 1", "x", Path()), ("a", "missing")).where.line
        1
    """
    for part in key:
        inner = tree.value
        if isinstance(inner, Mapping) and part in inner:
            tree = inner[str(part)]
        elif isinstance(inner, list) and isinstance(part, int) and part < len(inner):
            tree = inner[part]
    return tree
