"""The random nets themselves: their tables, their text, and that the checker and the shrinker can fail."""

from __future__ import annotations

import ast
from dataclasses import replace

import pytest
import torch

from fxprune.testing import Recipe, check, from_source, random_net, random_nets, shrink, write
from fxprune.testing.nets.check import Finding, Wrong, reason_of
from fxprune.testing.nets.kinds import HOLES, Draw, Unfit
from fxprune.testing.nets.statements import ENTRIES, KINDS, STATEMENTS
from fxprune.testing.nets.write import Step, Writer, quiet

HOLE = set(HOLES)


def test_the_tables_hold_what_they_say() -> None:
    """Names are unique, every hole is known, and lines parse once they are filled."""
    assert len({kind.name for kind in STATEMENTS}) == len(STATEMENTS) > 200
    for kind in KINDS.values():
        for line in (*kind.make, *kind.lines):
            named = {part.split("}")[0] for part in line.split("{")[1:]}
            assert named <= HOLE, f"{kind.name}: {named - HOLE}"
        ast.parse("\n".join(line.format_map({**dict.fromkeys(HOLES, "1"), "m": "m"}) for line in kind.make))


def test_every_kind_can_be_written() -> None:
    """A statement of every kind runs on a variable of some net."""
    missing = {kind.name for kind in STATEMENTS}
    for seed in range(150):
        writer = Writer(recipe_of(seed))
        for step in writer.recipe.steps:
            if writer.add(step):
                missing.discard(step.kind)
        missing -= {name for name in sorted(missing) if writer.add(Step(name, seed))}
    assert not missing


def recipe_of(seed: int) -> Recipe:
    recipe = random_net(seed).recipe
    assert recipe is not None
    return recipe


@pytest.mark.parametrize("seed", range(6))
def test_a_net_is_its_text(seed: int, tmp_path) -> None:
    """The text alone, read from a file, gives the same outputs as the net; the same seed the same text."""
    net = random_net(seed)
    assert net.source == random_net(seed).source
    path = tmp_path / "text.py"
    path.write_text(net.source, "utf-8")
    again = from_source(path.read_text("utf-8"), seed=net.seed)
    (one, x), (two, y) = net.build(), again.build()
    assert all(map(torch.equal, x, y))
    with quiet():
        results = [torch.utils._pytree.tree_leaves(model(*x)) for model in (one, two)]
    assert all(map(torch.equal, *results))
    assert all(bool(t.isfinite().all()) and float(t.abs().max()) > 0 for t in results[0])


def test_nets_for_other_tools_are_the_same_nets() -> None:
    for (source, model, inputs), seed in zip(random_nets(range(3, 5)), range(3, 5), strict=True):
        assert source == random_net(seed).source
        assert not model.training
        assert inputs[0].shape[0] in (1, 2, 3)


def test_every_entry_begins_a_net() -> None:
    for entry in ENTRIES:
        model, inputs = write(replace(recipe_of(0), entry=entry, steps=())).build()
        model(*inputs)


def test_a_hole_that_does_not_fit_says_so() -> None:
    draw = Draw(__import__("random").Random(0), "x", {"x": (2, 7, 5)}, "y", "m", 2)
    with pytest.raises(Unfit):
        draw["a"]  # seven channels are no product
    assert draw["tail"] == "(7, 5)"


WRONG = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.first(x).relu())


def inputs(batch=2):
    return (torch.randn(batch, 6),)
"""


def test_the_checker_notices_a_wrong_slim_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight changed after slicing: both oracles say so, and the finding repeats with its removal alone."""
    module = __import__("importlib").import_module("fxprune.testing.nets.check")
    right = module.slim

    def spoiled(*args: object, **options: object) -> torch.nn.Module:
        small = right(*args, **options)
        with torch.no_grad():
            next(small.parameters()).mul_(1.5)
        return small

    net = from_source(WRONG)
    assert check(net, onnx=False).verdict == "right"
    monkeypatch.setattr(module, "slim", spoiled)
    report = check(net, onnx=False)
    assert report.verdict == "wrong"
    assert "verify" in {finding.stage for finding in report.findings}
    removal = report.findings[0].removal
    assert removal is not None
    assert set(removal) <= {("first.weight", 0), ("first.bias", 0), ("last.weight", 1)}
    assert check(net, removal=removal, onnx=False).verdict == "wrong"


def test_the_checker_notices_what_is_no_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    module = __import__("importlib").import_module("fxprune.testing.nets.check")

    def broken(*_: object, **__: object) -> None:
        raise IndexError("list index 17 out of range")

    monkeypatch.setattr(module, "plan", broken)
    report = check(from_source(WRONG), onnx=False)
    assert report.verdict == "crashed"
    assert report.findings[0].what == "IndexError: list index # out of range"


def test_reasons_hide_names_and_numbers() -> None:
    assert (
        reason_of(Wrong("484 multiply-accumulates at 'a.b', 1.5e-03")) == "# multiply-accumulates at ..., #"
    )
    assert reason_of(Wrong("rows would keep 5, 3, 4 of 6")) == "rows would keep # of #"


def test_shrinking_keeps_what_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A net that fails because of one kind of statement shrinks to that statement."""
    module = __import__("importlib").import_module("fxprune.testing.nets.shrink")
    seed = next(s for s in range(200) if "softmax" in random_net(s).kinds and len(random_net(s).kinds) > 4)
    net = random_net(seed)
    finding = Finding("verify", "random units", "wrong", "differs", "differs by 1")

    class Failing:
        def __init__(self, kinds: tuple[str, ...]) -> None:
            self.findings = [finding] if "softmax" in kinds else []

    monkeypatch.setattr(module, "check", lambda net, **_: Failing(net.kinds))
    small = shrink(net, finding)
    assert small.net.kinds == ("softmax",)
    assert "softmax" in small.text
    assert "REMOVED = {}" in small.text
