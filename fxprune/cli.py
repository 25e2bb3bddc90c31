"""The command line: one sub-command per stage.

Results go to stdout (tables, or JSON with ``--json``), progress and errors to stderr.  Exit codes:
0 done, 1 fxprune refused or failed, 2 the command line is wrong, 130 interrupted.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from typer.core import TyperGroup

from fxprune import cli_options as o
from fxprune.console import Steps, show_error
from fxprune.errors import FxpruneError

if TYPE_CHECKING:  # loading torch takes seconds: --help must not
    from rich.console import RenderableType

    from fxprune.pipeline import Opened
    from fxprune.types import Budget

__all__ = ["app", "main"]

USAGE_CODE = 2
FAILED_CODE = 1
INTERRUPTED_CODE = 130


class _Group(TyperGroup):
    """Turns what fxprune refuses into a panel and an exit code."""

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        """Run the sub-command."""
        try:
            result: object = super().invoke(ctx)
            return result
        except FxpruneError as error:
            if _debugging(ctx):
                raise
            show_error(error, Console(stderr=True))
            raise typer.Exit(FAILED_CODE) from error
        except KeyboardInterrupt as error:
            Console(stderr=True).print("interrupted; nothing half-written was left")
            raise typer.Exit(INTERRUPTED_CODE) from error
        except BrokenPipeError as error:  # the reader of stdout has gone, as in "| head"
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(FAILED_CODE) from error


def _debugging(ctx: typer.Context) -> bool:
    return bool(ctx.params.get("debug"))


app = typer.Typer(
    name="fxprune",
    cls=_Group,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Make a trained PyTorch model smaller and faster, prove it right, and measure it.",
    epilog="Start with [bold]fxprune demo[/], or [bold]fxprune compress torchvision:resnet18@pretrained --macs 0.5 --out out/[/]",
)


def main() -> None:
    """Run the command line."""
    app()


def _show_version(wanted: bool) -> None:
    if wanted:
        try:
            print(f"fxprune {version('fxprune')}")
        except PackageNotFoundError:
            print("fxprune (not installed)")
        raise typer.Exit


@app.callback()
def _global_options(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="FXPRUNE_DEBUG", help="Show the traceback of an error.")
    ] = False,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass
