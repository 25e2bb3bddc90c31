"""The command line: one sub-command per stage, a file each.

Results go to stdout (tables, or JSON with ``--json``), progress and errors to stderr.
"""

from __future__ import annotations

from typing import Annotated

import typer

from fxprune.cli import bench, calibrate, compress, demo, export, inspect, plan, slim, train
from fxprune.cli.ending import Commands, run

__all__ = ["app", "main"]

app = typer.Typer(
    name="fxprune",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Make a trained PyTorch model smaller and faster, prove it right, and measure it.",
    epilog="Start with [bold]fxprune demo[/], or [bold]fxprune compress torchvision:resnet18@pretrained --macs 0.5 --out out/[/]",
)


def main() -> None:
    """Run the command line."""
    run(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

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
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    pass


# In the order of ``--help``.
for module, command in (
    (inspect, inspect.inspect),
    (plan, plan.plan),
    (slim, slim.slim),
    (export, export.export),
    (bench, bench.bench),
    (calibrate, calibrate.calibrate),
    (compress, compress.compress),
    (demo, demo.demo),
    (train, train.train),
):
    app.command(epilog=module.EXAMPLES)(command)
