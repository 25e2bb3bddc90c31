"""Steps and error panels as a person sees them."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable

import pytest
from rich.console import Console

from fxprune.errors import FxpruneError, PlanError, UnsupportedOp
from fxprune.onnx.capture import Untranslatable
from fxprune.report import steps as console
from fxprune.report.steps import SILENT, Steps, show_error


def _console(**options: object) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=80, color_system=None, **options), out


def _until(happens: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_step_leaves_one_line() -> None:
    shown, out = _console()
    with Steps(shown).step("train [net]") as ticks:
        ticks.tick(1, 2, "loss 0.3")
        ticks.note("accuracy 99 %, " + "x" * 90)
    [line] = out.getvalue().splitlines()
    assert line.startswith("✓ train [net]  accuracy 99 %, xxx")
    assert line.endswith(" s")


def test_a_failing_step_leaves_a_cross() -> None:
    shown, out = _console()
    with pytest.raises(ValueError, match="no"), Steps(shown).step("slim"):
        raise ValueError("no")
    assert out.getvalue().startswith("✗ slim")


def test_a_log_file_gets_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_HEARTBEAT_S", 0.01)
    shown, out = _console()
    with Steps(shown).step("train") as ticks:
        _until(lambda: re.search(r"^  train: \d+ s$", out.getvalue(), re.MULTILINE) is not None)
        ticks.tick(1, 2, "loss 0.3")
        _until(
            lambda: re.search(r"^  train: \d+ s  1 of 2  loss 0.3$", out.getvalue(), re.MULTILINE) is not None
        )
    before = out.getvalue()
    time.sleep(0.05)  # five beats
    assert out.getvalue() == before, "a step that is over has no heart"


def test_a_terminal_gets_a_bar() -> None:
    shown, out = _console(force_terminal=True)
    with Steps(shown).step("train") as ticks:
        ticks.tick(1, 2, "loss 0.3")
    assert "loss 0.3" in out.getvalue()
    assert "━" in out.getvalue()


def test_silence(capfd: pytest.CaptureFixture[str]) -> None:
    with SILENT.step("anything") as ticks:
        ticks.tick(1, 2)
        ticks.note("nothing")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "title"),
    [
        (FxpruneError("a"), "error"),
        (PlanError("a"), "plan error"),
        (UnsupportedOp("a"), "unsupported op"),
        (Untranslatable("a"), "export error"),
    ],
)
def test_error_titles(error: FxpruneError, title: str) -> None:
    shown, out = _console()
    show_error(error, shown)
    assert out.getvalue().startswith(f"╭─ {title} ─")


def test_error_details() -> None:
    shown, out = _console()
    show_error(
        PlanError(
            "it [b]broke[/]", op="aten.x", node="x_1", tensor="a.weight", source="m.py:3", advice="mend it"
        ),
        shown,
    )
    lines = [line.strip("│ ") for line in out.getvalue().splitlines()]
    assert lines[1:-1] == [
        "it [b]broke[/]",
        "node: aten.x 'x_1'",
        "tensor: a.weight",
        "source: m.py:3",
        "what to do: mend it",
    ]
