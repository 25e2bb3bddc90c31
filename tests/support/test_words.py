"""One line of an error, and what somebody may have meant."""

from __future__ import annotations

import pytest

from fxprune.support.words import headline, near


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("first\nsecond"), "ValueError: first"),
        (ValueError("\n  first\nsecond"), "ValueError: first"),
        (ValueError(), "ValueError"),
        (Speechless(), "Speechless"),
        (ValueError("x" * 400), "ValueError: " + "x" * 300),
    ],
)
def test_one_line(error: Exception, said: str) -> None:
    assert headline(error) == said


def test_what_was_meant() -> None:
    known = ["layer1.conv", "layer2.conv", "head", "layer1.conv"]
    assert near("layer1.con", known, most=1) == "did you mean 'layer1.conv'?"
    assert near("layer1.con", known) == "did you mean 'layer1.conv', 'layer2.conv'?"
    assert near("zzz", known) == ""
    assert near("zzz", known, otherwise="look again") == "look again"
