"""Plans as text: what a file may hold, what it may not, and that its costs are not believed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

import fxprune
from fxprune.coupling.couple import analyse
from fxprune.errors import PlanError
from fxprune.inspection.explain import width_table
from fxprune.plans import Cost, Crop, Plan, WidthRow
from fxprune.report.sheets import cost_sheet
from fxprune.report.words import describe_plan
from fxprune.slimming.crop import with_crops
from fxprune.slimming.recount import recounted


@cache
def traced(size: int = 8) -> fxprune.Trace:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1)
    )
    return fxprune.trace(net, torch.randn(1, 3, size, size))


@cache
def made() -> Plan:
    """Channels and the border of a kernel go."""
    plan = fxprune.plan(traced(), fxprune.Budget(macs=0.6), align=1)
    return with_crops(traced(), plan, [Crop("0.weight", (3, 3), (1, 0), (0, 0))])


def without_digest() -> str:
    data = json.loads(made().to_json())
    del data["digest"]
    return json.dumps(data)


def changed(path: str, value: object) -> str:
    """The plan's text with one value replaced and no digest; ``-`` in front of the last name drops it."""
    data: Any = json.loads(without_digest())
    *parents, last = path.split("/")
    inner = data
    for name in parents:
        inner = inner[int(name)] if isinstance(inner, list) else inner[name]
    if isinstance(inner, list):
        inner[int(last)] = value
    elif last.startswith("-"):
        del inner[last[1:]]
    else:
        inner[last] = value
    return json.dumps(data)


WRONG = {
    "a fraction among indices": ("kept/0.weight/0/0", 1.9),
    "a whole float among indices": ("kept/0.weight/0/0", 1.0),
    "a truth value among indices": ("kept/0.weight/0/0", True),
    "a negative index": ("kept/0.weight/0/0", -1),
    "an index no int64 holds": ("kept/0.weight/0/0", 2**63),
    "indices as text": ("kept/0.weight/0", "123"),
    "indices by name": ("kept/0.weight/0", {"0": 1}),
    "no indices": ("kept/0.weight/0", None),
    "dimensions as a list": ("kept/0.weight", [[0, 1]]),
    "axes as a list": ("kept", [["0.weight", 0, [1]]]),
    "a second spelling of a dimension": ("kept/0.weight/00", [0]),
    "a signed dimension": ("kept/0.weight/+1", [0]),
    "a dimension with a space": ("kept/0.weight/ 1", [0]),
    "a dimension in other digits": ("kept/0.weight/\u0661", [0]),
    "a superscript dimension": ("kept/0.weight/\u00b2", [0]),
    "notes as one text": ("notes", "a note"),
    "a note that is a number": ("notes/0", 3),
    "half a surrogate pair in a note": ("notes/0", "\ud800"),
    "removed as one text": ("removed", "layer1"),
    "removed numbers": ("removed", [1]),
    "a fingerprint that is a number": ("fingerprint", 5),
    "no fingerprint": ("-fingerprint", None),
    "another version": ("version", 2),
    "a version that is true": ("version", True),
    "a version that is a float": ("version", 1.0),
    "no version": ("-version", None),
    "an unknown field": ("comment", "hello"),
    "infinite cost": ("predicted/macs", float("inf")),
    "cost that is no number": ("dense/params", float("nan")),
    "no cost": ("predicted", None),
    "half a cost": ("predicted/-macs", None),
    "more than a cost": ("predicted/seconds", 1),
    "a negative cost": ("dense/macs", -5),
    "a crop of a number": ("crops/0/tensor", 7),
    "a crop without a kernel": ("crops/0/-kernel", None),
    "a crop of another rank": ("crops/0/before", [1]),
    "a crop by a fraction": ("crops/0/after/0", 0.5),
    "a crop by a text": ("crops/0/before", "11"),
    "a crop that is a list": ("crops/0", ["0.weight"]),
    "crops as an object": ("crops", {}),
    "a width of a number": ("widths/0/name", 7),
    "a width that is a fraction": ("widths/0/after", 1.5),
    "a width below nothing": ("widths/0/before", -1),
    "half a width": ("widths/0/-axes", None),
    "widths as an object": ("widths", {}),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_plan_is_refused(case: str) -> None:
    with pytest.raises(PlanError):
        Plan.from_json(changed(*WRONG[case]))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"format": "fxprune-plan", "format": "fxprune-plan"}', "twice"),
        ("[" * 100_000, "nested too deep"),
        ('{"a":' * 100_000, "nested too deep"),
        ("9" * 5000, "not a readable plan"),
        ("[]", "should be an object"),
        ("", "not a readable plan"),
        (None, "expected text"),
        (b"{}", "expected text"),
    ],
)
def test_what_is_no_text_of_a_plan_is_refused(text: Any, why: str) -> None:
    with pytest.raises(PlanError, match=why):
        Plan.from_json(text)


def test_a_plan_says_what_becomes_of_its_groups() -> None:
    plan = fxprune.plan(traced(), fxprune.Budget(macs=0.6), align=1)
    assert plan.widths == width_table(traced(), plan)
    assert Plan.from_json(plan.to_json()).widths == plan.widths
    former = json.loads(without_digest())
    del former["widths"]
    read = Plan.from_json(json.dumps(former))
    assert read.widths == ()
    assert read == replace(made(), widths=())


def test_summary() -> None:
    plan = replace(
        made(),
        dense=Cost(1000, 4000),
        predicted=Cost(500, 1000),
        widths=(WidthRow("0", 8, 4, 3), WidthRow("a\x1bb", 6000, 3, 3), WidthRow("same", 5, 5, 1)),
        removed=("layer1.0",),
        notes=("first", "sec\nond"),
    )
    assert plan.summary().splitlines() == [
        "            dense   slim    kept",
        "0               8      4  50.0 %",
        "a\\x1bb      6,000      3   0.1 %",
        "parameters  1,000    500  50.0 %",
        "MACs        4,000  1,000  25.0 %",
        "unchanged: 1 of 3 groups",
        "cut whole: layer1.0",
        "cropped: 0.weight to 2x3",
        "note: first",
        "note: sec\\nond",
    ]
    assert repr(plan) == (
        "Plan(keeps 25.0 % of the MACs, 50.0 % of the parameters, 2 of 3 groups narrower, "
        "1 structures cut, 1 kernels cropped, 2 notes)"
    )


def test_keys_that_stand_twice_are_refused_wherever_they_stand() -> None:
    text = made().to_json()
    for name in ("macs", "kept", "0.weight", "tensor"):
        assert text.count(f'"{name}":')
        with pytest.raises(PlanError, match="twice"):
            Plan.from_json(text.replace(f'"{name}":', f'"{name}": 1, "{name}":', 1))


def test_a_plan_that_was_changed_is_refused_and_an_edited_one_says_so() -> None:
    data = json.loads(made().to_json())
    assert Plan.from_json(json.dumps(data, indent=2, sort_keys=True)) == made()
    data["kept"]["0.weight"]["0"][-1] -= 1
    with pytest.raises(PlanError, match=r"digest does not fit[\s\S]*remove the field 'digest'"):
        Plan.from_json(json.dumps(data))
    del data["digest"]
    assert Plan.from_json(json.dumps(data)) != made()


def test_every_flipped_bit_of_a_plan_is_noticed() -> None:
    raw = made().to_json().encode()
    for bit in range(0, 8 * len(raw), 7):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(PlanError):
            Plan.from_json(flipped.decode("utf-8", "replace"))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Crop(3, (3,), (0,), (0,)),  # type: ignore[arg-type]
        lambda: Crop("a", (3, 3), (0,), (0, 0)),
        lambda: Crop("a", (3.0,), (0,), (0,)),  # type: ignore[arg-type]
        lambda: replace(made(), notes="one"),  # type: ignore[arg-type]
        lambda: replace(made(), kept={"0.weight": (1,)}),  # type: ignore[dict-item]
        lambda: replace(made(), kept={("0.weight", 0): [1]}),  # type: ignore[dict-item]
        lambda: replace(made(), predicted=Cost(1.5, 1)),  # type: ignore[arg-type]
        lambda: replace(made(), crops=("0.weight",)),  # type: ignore[arg-type]
        lambda: replace(made(), removed=("a", None)),  # type: ignore[arg-type]
    ],
)
def test_a_plan_made_by_hand_has_the_types_it_should(make: Callable[[], object]) -> None:
    with pytest.raises(PlanError):
        make()


# --- costs are computed again ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "quantity"), [("predicted", "macs"), ("predicted", "params"), ("dense", "params")]
)
def test_costs_that_are_forged_are_refused_when_the_plan_is_used(model: str, quantity: str) -> None:
    forged = Plan.from_json(changed(f"{model}/{quantity}", 1))
    for use in (fxprune.slim, recounted):
        with pytest.raises(PlanError, match="the plan states 1 "):
            use(traced(), forged)


def test_costs_become_those_of_the_inputs_at_hand() -> None:
    assert recounted(traced(), made()) is made()
    larger = recounted(traced(12), made())
    assert larger.dense == analyse(traced(12)).coupling.cost.dense
    assert larger.predicted.macs > made().predicted.macs
    assert larger.predicted.params == made().predicted.params
    both = replace(made(), dense=replace(made().dense, macs=9), predicted=replace(made().predicted, macs=1))
    assert recounted(traced(), both) == made()


# --- fuzzing -----------------------------------------------------------------------------------

ODD = (
    None,
    True,
    -1,
    0,
    1.5,
    2**70,
    float("inf"),
    "",
    "0",
    "00",
    "0.weight",
    [],
    {},
    [[]],
    {"0": []},
    "\ud800",
)


def mutations(seed: int, count: int) -> Iterator[str]:
    """Valid text without a digest, with values exchanged, dropped, doubled, or with letters changed."""
    chance = random.Random(seed)
    text = without_digest()
    for number in range(count):
        if number % 3:
            data = json.loads(text)
            for _ in range(chance.randint(1, 3)):
                _disturb(data, chance)
            yield json.dumps(data)
        else:
            at = chance.randrange(len(text))
            letter = chance.choice('0123456789{}[]",:-.eE\\u N')
            yield text[:at] + chance.choice(("", letter, letter * 9)) + text[at + chance.randint(0, 3) :]


def _disturb(data: Any, chance: random.Random) -> None:
    while data:
        key = chance.choice(list(data) if isinstance(data, dict) else range(len(data)))
        if isinstance(data[key], (dict, list)) and chance.random() < 0.75:
            data = data[key]
            continue
        if isinstance(data, dict) and chance.random() < 0.3:
            data[chance.choice(("0", "01", "x", "macs", "0.weight"))] = data.pop(key)
        elif chance.random() < 0.2:
            del data[key]
        else:
            data[key] = chance.choice(ODD)
        return


@pytest.mark.parametrize("seed", range(4))
def test_damaged_text_is_a_plan_or_refused(seed: int) -> None:
    verdicts = {"read": 0, "refused": 0, "used": 0}
    for text in mutations(seed, 400):
        try:
            plan = Plan.from_json(text)
            verdicts["read"] += 1
            cost_sheet(plan)
            describe_plan(plan)
            assert Plan.from_json(plan.to_json()) == plan
            recounted(traced(), plan)
            verdicts["used"] += 1
        except PlanError:
            verdicts["refused"] += 1
    # The fuzz reaches every depth: some texts are still plans, some of these do not fit the model.
    assert verdicts["refused"] > 100
    assert verdicts["read"] > verdicts["used"] > 0
