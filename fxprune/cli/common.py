"""What commands share: a model opened and traced with its progress shown, results for a person or a script."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType

from fxprune.escaping import terminal
from fxprune.report.steps import Stderr, Steps
from fxprune.support.command import COMMAND

if TYPE_CHECKING:  # loading torch takes seconds, and --help must not
    from fxprune.graph.trace import Trace
    from fxprune.pipeline import Opened

__all__ = ["opened_model", "remember_command", "say", "show", "steps", "traced_model", "write"]

_PIPE_WIDTH = 160


def steps() -> Steps:
    """Progress on stderr."""
    return Steps(Stderr())


def remember_command() -> None:
    """Let what is made say by which command."""
    COMMAND.set(shlex.join(["fxprune", *sys.argv[1:]]))


def say(text: str) -> None:
    """Tell the person in front of the terminal, on stderr."""
    Stderr().print(terminal(text), markup=False, highlight=False, soft_wrap=True)


def opened_model(
    model: str,
    weights: Path | None,
    inputs: list[str] | None,
    allow_pickle: bool,
) -> Opened:
    """The model that the arguments name, with its inputs."""
    with steps().step(f"load {model}") as ticks:
        from fxprune.models.inputs import describe_inputs
        from fxprune.pipeline import open_model

        opened = open_model(model, weights=weights, inputs=inputs or (), allow_pickle=allow_pickle)
        ticks.note(
            "; ".join((f"weights {opened.weights}", f"input {describe_inputs(opened.inputs)}", *opened.notes))
        )
    return opened


def traced_model(opened: Opened) -> Trace:
    """Its trace."""
    with steps().step("trace") as ticks:
        from fxprune.graph.trace import trace
        from fxprune.report.words import describe_trace

        traced = trace(opened.model, opened.inputs)
        ticks.note(describe_trace(traced))
    return traced


def write(path: Path, text: str) -> None:
    """Write a text file and say so."""
    from fxprune.support.files import write_text

    write_text(path, text)
    say(f"wrote {path}")


def show(shown: RenderableType, data: object, as_json: bool) -> None:
    """Print for a person, or for a script."""
    if as_json:
        print(data if isinstance(data, str) else json.dumps(data, indent=1))
    elif isinstance(shown, str):
        print(terminal(shown))
    else:
        # A pipe has no width of its own; names should not be folded for its sake.
        Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(shown)
