"""YAML 1.2 scalars, places, merging."""

from __future__ import annotations

from math import inf
from pathlib import Path

import pytest

from fxprune.errors import RecipeError
from fxprune.training.recipe.yaml_tree import merge, parse, parse_value, walk


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
        ("x: &a [*a]", 1, "an alias contains itself"),
        ("a: 1\nx: &a {y: *a}", 2, "an alias contains itself"),
        ("a: !!int x", 1, "'x' is no int"),
        ("a: 1\nb: !!float 1.2.3", 2, "'1.2.3' is no float"),
        ("a: !!bool maybe", 1, "'maybe' is no bool"),
        ("a: !!timestamp 2001-01-01", 1, "no values of the kind !!timestamp"),
        ("a: !!binary aGk=", 1, "no values of the kind !!binary"),
        ("a: !!set {b}", 1, "no values of the kind !!set"),
        ("a: !!python/object/apply:os.getcwd []", 1, "no values of the kind !!python/object"),
        ("a: !own x", 1, "no values of the kind !own"),
        ("a: " + "9" * 5000, 1, "is no int"),
        ("? [a, b]\n: c", 1, "a key is a list or a mapping"),
        ("a: \x1b[31m", 0, "this is not YAML: unacceptable character"),
        ("a: \0", 0, "this is not YAML: unacceptable character"),
        ('a: "\\UFFFFFFFF"', 0, "this is not YAML"),
        ("[" * 60 + "]" * 60, 1, "nested too deeply"),
        ("[" * 20_000, 0, "nested too deeply"),
        ("a: 1\n---\nb: 1", 2, "but found another document"),
    ],
)
def test_what_is_refused(text: str, line: int, what: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(text, "f.yaml", Path())
    assert what in caught.value.what
    assert caught.value.source == (f"f.yaml:{line}" if line else "f.yaml")


@pytest.mark.parametrize("levels", [6, 9, 40])
def test_aliases_of_aliases_are_bounded(levels: int) -> None:
    """Nine to a level: written out, forty levels would be more values than there are atoms."""
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels))]
    with pytest.raises(RecipeError, match="more than 20000 values, aliases written out"):
        parse("\n".join(lines), "f.yaml", Path())
    honest = parse("a: &a {b: 1}\nc: [*a, *a]", "f.yaml", Path())
    assert honest.plain() == {"a": {"b": 1}, "c": [{"b": 1}, {"b": 1}]}


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
