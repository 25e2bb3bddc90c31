"""YAML with the line of every value, so that an error can point at it.

Scalars follow YAML 1.2: only ``true`` and ``false`` are booleans (``no`` is a word), ``1e-3`` is a number,
and a key that stands twice is an error.  Nothing but plain values is ever constructed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from fxprune.errors import RecipeError

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


_SCALARS = (
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9]+", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", "~nN\0"),
)


def _scalar(loader: yaml.constructor.BaseConstructor, node: yaml.nodes.Node) -> str:
    """The text of a single value."""
    assert isinstance(node, yaml.nodes.ScalarNode)
    return str(loader.construct_scalar(node))


for _tag, _form, _first in _SCALARS:
    starts = [None if c == "\0" else c for c in _first]
    _Loader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_form})$"), starts)
# YAML 1.1 reads 012 as an octal number.
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(_scalar(loader, node)))
_Loader.add_constructor(
    "tag:yaml.org,2002:float",
    lambda loader, node: float(re.sub(r"\.(?=inf|nan)", "", _scalar(loader, node).lower())),
)


def read_tree(path: Path) -> Tree:
    """The content of a YAML file.

    Raises:
        RecipeError: There is no such file, or it is not YAML; the message has the line.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RecipeError(f"{path} cannot be read: {reason}", advice="pass a YAML file") from error
    return parse(text, path.name, path.resolve().parent)


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
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return Tree({}, Where(name, 1, folder))
        return _tree(loader, node, name, folder)
    except RecursionError as error:
        raise RecipeError("an alias contains itself", source=name, advice="write the values out") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        raise RecipeError(
            f"this is not YAML: {error.problem or error.context}",
            source=where,
            advice="check the indentation and the quotes around this line",
        ) from error
    except yaml.YAMLError as error:
        raise RecipeError(
            f"this is not YAML: {error}", source=name, advice="save it as UTF-8 text"
        ) from error
    finally:
        loader.dispose()


def _tree(loader: _Loader, node: yaml.Node, name: str, folder: Path) -> Tree:
    where = Where(name, node.start_mark.line + 1, folder)
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Tree] = {}
        for key_node, value_node in node.value:
            key = str(loader.construct_object(key_node, deep=True))
            line = key_node.start_mark.line + 1
            if key in found:
                raise RecipeError(
                    f"'{key}' stands twice, first in line {found[key].where.line}",
                    source=f"{name}:{line}",
                    advice="remove one of them",
                )
            inner = _tree(loader, value_node, name, folder)
            # A block's own mark is its first child's; the key's line is where a person looks.
            found[key] = Tree(inner.value, Where(name, line, folder))
        return Tree(found, where)
    if isinstance(node, yaml.SequenceNode):
        return Tree([_tree(loader, item, name, folder) for item in node.value], where)
    value = loader.construct_object(node, deep=True)
    return Tree(value if isinstance(value, (str, int, float, bool)) or value is None else str(value), where)


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
