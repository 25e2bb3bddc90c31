"""YAML 1.2 scalars, places, merging."""

from __future__ import annotations

from math import inf
from pathlib import Path

import pytest

from fxprune.errors import RecipeError
from fxprune.yaml_tree import merge, parse, parse_value, walk


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1.0e-3", 0.001),
        (".5", 0.5),
        ("-.inf", -inf),
        ("012", 12),
        ("+3", 3),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("2020-01-01", "2020-01-01"),
        ("1_000", "1_000"),
        ("'1'", "1"),
        ("l2,1", "l2,1"),
        ("40 %", "40 %"),
        ("[1, {a: b}]", [1, {"a": "b"}]),
    ],
)
def test_scalars(text: str, value: object) -> None:
    found = parse(f"x: {text}", "f.yaml", Path()).plain()
    assert found == {"x": value}
    assert type(found["x"]) is type(value)


def test_places_of_values() -> None:
    tree = parse("a:\n  b: 1\n\n  c:\n    - 2\n    - 3\nd: {e: 4}\n", "f.yaml", Path("here"))
    places = {("a",): 1, ("a", "b"): 2, ("a", "c"): 4, ("a", "c", 1): 6, ("d", "e"): 7, ("a", "nothing"): 1}
    assert {key: walk(tree, key).where.line for key in places} == places
    assert str(walk(tree, ("d",)).where) == "f.yaml:7"
    assert walk(tree, ("d",)).where.folder == Path("here")


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("a: 1\nb: 2\na: 3", 3, "'a' stands twice, first in line 1"),
        ("a: [1\nb: 2", 2, "this is not YAML"),
        ("a:\n\tb: 1", 2, "cannot start any token"),
        ("x: &a [*a]", 0, "an alias contains itself"),
        ("a: 1\n---\nb: 1", 2, "but found another document"),
    ],
)
def test_what_is_refused(text: str, line: int, what: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(text, "f.yaml", Path())
    assert what in caught.value.what
    assert caught.value.source == (f"f.yaml:{line}" if line else "f.yaml")


def test_nothing_is_constructed() -> None:
    tree = parse("a: !!python/object/apply:os.getcwd []", "f.yaml", Path())
    assert tree.plain() == {"a": []}


def test_merging() -> None:
    under = parse("a: {b: 1, c: [1, 2]}\nm: {name: ssr, lam: 1}", "under", Path())
    over = parse("a: {c: [3], d: 4}\nm: {name: greg, ratio: 0.5}", "over", Path())
    merged = merge(under, over)
    assert merged.plain() == {"a": {"b": 1, "c": [3], "d": 4}, "m": {"name": "greg", "ratio": 0.5}}
    assert [walk(merged, ("a", key)).where.name for key in "bcd"] == ["under", "over", "over"]
    same = merge(under, parse("m: {lam: 2}", "over", Path()))
    assert same.plain()["m"] == {"name": "ssr", "lam": 2}


def test_values_of_a_command_line_have_no_line() -> None:
    tree = parse_value("{a: [1, 2]}", "--set x", Path())
    assert str(walk(tree, ("a", 1)).where) == "--set x"
