"""Laws on operators of one's own: right rules pass, wrong ones are named with what is wrong, weak samples too."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
import torch

import fxprune
from fxprune import ops
from fxprune.errors import FxpruneError
from fxprune.labels import varying
from fxprune.ops import OpRule, pointwise, register
from fxprune.ops.base import Call, Context, Value
from fxprune.testing import LawError, Sample, check_operator, parameter, unnoticed_faults

torch.library.define("fxprune_laws::turned", "(Tensor x) -> Tensor")
torch.library.define("fxprune_laws::joined", "(Tensor x, Tensor y) -> Tensor")


@torch.library.impl("fxprune_laws::turned", "CompositeExplicitAutograd")
def _turned(x: torch.Tensor) -> torch.Tensor:
    return x.flip(-1)


@torch.library.register_fake("fxprune_laws::turned")
def _like(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


@torch.library.impl("fxprune_laws::joined", "CompositeExplicitAutograd")
def _joined(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x.exp() * y


@torch.library.register_fake("fxprune_laws::joined")
def _like_both(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


TURNED = Sample("fxprune_laws::turned", (parameter(3, 4),), free="01")
JOINED = Sample("fxprune_laws::joined", (parameter(3, 4), parameter(3, 4)), free="01 01")


@pytest.fixture(autouse=True)
def table() -> Iterator[None]:
    """The table of rules as it was."""
    before = dict(ops._BY_NAME)
    yield
    ops._BY_NAME.clear()
    ops._BY_NAME.update(before)


def turning(ctx: Context, call: Call) -> Value:
    """The right rule: labels along the last dimension run backwards."""
    (x,) = call.tensors()
    last = len(x.shape) - 1
    arrays = tuple(a[..., ::-1].copy() if last in varying(a) else a for a in x.arrays)
    return Value(x.shape, arrays)


def first_only(ctx: Context, call: Call) -> Value:
    """A wrong rule: what meets is not tied."""
    x = call.tensors()[0]
    return Value(x.shape, x.arrays)


def test_a_right_rule_passes_every_law() -> None:
    register(OpRule(("fxprune_laws::turned",), turning))
    report = check_operator(TURNED)
    assert report.laws == ("what may go", "slim is what is left", "costs are counted", "networks are proved")
    assert str(report).startswith("fxprune_laws::turned: 4 laws hold on 1 sample")


def test_labels_in_the_wrong_places_are_told_with_what_was_kept() -> None:
    register(OpRule(("fxprune_laws::turned",), pointwise.pointwise))
    with pytest.raises(LawError, match="fxprune_laws::turned") as caught:
        check_operator(TURNED)
    broken = {b.law: b.how for b in caught.value.broken}
    assert set(broken) == {"slim is what is left", "networks are proved"}
    assert "from what is left when" in broken["slim is what is left"]
    assert "of dimension 1 of t0 are kept" in broken["slim is what is left"]
    assert broken["networks are proved"].startswith("verify: VerificationError")


def test_a_rule_that_forgets_what_meets_is_not_believed() -> None:
    register(OpRule(("fxprune_laws::joined",), first_only))
    with pytest.raises(LawError, match="forgets channels") as caught:
        check_operator(JOINED)
    assert {b.law for b in caught.value.broken} >= {"what may go", "networks are proved"}


def test_a_rule_that_pins_more_than_was_expected_is_told() -> None:
    def pinning(ctx: Context, call: Call) -> Value:
        (x,) = call.tensors()
        ctx.pin([a for a in x.arrays if 1 in varying(a)], "columns stay")
        return turning(ctx, call)

    register(OpRule(("fxprune_laws::turned",), pinning))
    with pytest.raises(LawError, match="units may go from '0', expected were '01'"):
        check_operator(TURNED)


def test_a_rule_that_counts_what_nobody_multiplies_is_told() -> None:
    def counting(ctx: Context, call: Call) -> Value:
        ctx.macs(7, [])
        return turning(ctx, call)

    register(OpRule(("fxprune_laws::turned",), counting))
    with pytest.raises(LawError, match="counts 7 multiply-accumulates, PyTorch's counter 0"):
        check_operator(TURNED)


def test_a_rule_that_fails_is_told_and_not_passed_on() -> None:
    def failing(ctx: Context, call: Call) -> Value:
        raise KeyError("axis")

    register(OpRule(("fxprune_laws::turned",), failing))
    with pytest.raises(LawError, match="fails \\(KeyError: 'axis'\\)"):
        check_operator(TURNED)


def test_weak_samples_are_told_by_the_slips_that_they_do_not_show() -> None:
    register(OpRule(("fxprune_laws::joined",), pointwise.pointwise))
    assert unnoticed_faults(JOINED) == ()
    lonely = Sample("fxprune_laws::turned", (parameter(1, 1),), free="-")
    register(OpRule(("fxprune_laws::turned",), turning))
    assert unnoticed_faults(TURNED) == ()
    assert check_operator(lonely)
    blind = Sample("fxprune_laws::joined", JOINED.args, chance=True)  # shapes only
    assert "fxprune_laws::joined: off by one" in unnoticed_faults(blind)


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        ((), "laws need samples"),
        ((Sample("fxprune_laws::absent", ()),), "torch knows no operator"),
        ((Sample("turned", ()),), "is no name of an operator"),
        ((TURNED,), "no rule for 'fxprune_laws::turned'"),
    ],
)
def test_what_cannot_be_tried_is_refused(samples: tuple[Sample, ...], words: str) -> None:
    for ask in (check_operator, unnoticed_faults):
        with pytest.raises(FxpruneError, match=words):
            ask(*samples)


STORY = dedent(
    """
    import torch

    from fxprune.ops import OpRule, pointwise, register
    from fxprune.testing import LawError, Sample, check_operator, parameter, unnoticed_faults


    @torch.library.custom_op("mine::swell", mutates_args=())
    def swell(x: torch.Tensor) -> torch.Tensor:
        return x.exp() + 1


    @torch.library.custom_op("mine::swap", mutates_args=())
    def swap(x: torch.Tensor) -> torch.Tensor:
        return torch.cat(x.chunk(2, 1)[::-1], 1)


    for op in (swell, swap):
        op.register_fake(torch.empty_like)
        register(OpRule((op._qualname,), pointwise.pointwise))

    print(check_operator(Sample("mine::swell", (parameter(3, 4),), free="01")))
    print("unnoticed:", unnoticed_faults(Sample("mine::swell", (parameter(3, 4),), free="01")))
    try:
        check_operator(Sample("mine::swap", (parameter(3, 4),)))
    except LawError as error:
        print(error)
    """
)


def test_a_file_of_ones_own_checks_its_operators_outside_of_this_repository(tmp_path: Path) -> None:
    (tmp_path / "operators.py").write_text(STORY, "utf-8")
    home = str(Path(fxprune.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:fxprune", "operators.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": home},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    right, slips, wrong, *how = done.stdout.splitlines()
    assert right.startswith("mine::swell: 4 laws hold on 1 sample")
    assert slips == "unnoticed: ()"
    assert wrong == "the rule for mine::swap breaks laws"
    assert any("mine::swap, slim is what is left: the slim call is off by" in line for line in how), how
    assert any("mine::swap, networks are proved: verify: VerificationError" in line for line in how), how
