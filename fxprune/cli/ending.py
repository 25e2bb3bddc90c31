"""How the command line ends: every refusal a panel and an exit code, every signal a clean way out.

With ``--json`` a refusal is an object on stdout as well: ``{"error": {"kind": ..., "what": ..., "advice": ...}}``.

Exit codes: 0 done, 1 fxprune refused or failed, 2 the command line is wrong, 129, 130 and 143 ended by SIGHUP,
SIGINT and SIGTERM, after cleaning up.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn, TextIO

import typer
from typer.core import TyperGroup

from fxprune.cli.common import say
from fxprune.cli.completion import shell_words, without_prefix
from fxprune.errors import FxpruneError
from fxprune.report.steps import Stderr, error_facts, show_error

__all__ = ["Commands", "run"]

_JSON = "fxprune.json"
_COMPLETING = "_FXPRUNE_COMPLETE"
"""Set by the shell that asks what may follow."""

FAILED_CODE = 1
SIGNAL_CODE = 128
"""Plus the number of the signal that ended the process, as shells have it."""

# What a wrong command line raises; its base class has moved from click into typer.
_SAID: tuple[type[BaseException], ...] = (
    typer.Exit,
    typer.Abort,
    *(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException"),
)


class _Ended(BaseException):
    """A signal asks for the end: everything that is open is closed on the way out, as after Ctrl-C."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number)
        self.number = number


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    raise _Ended(signal.Signals(number))


class Commands(TyperGroup):
    """Turns what fxprune refuses into a panel and an exit code."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Read the words before the sub-command; all of them are here, so whether JSON is wanted is known from now on."""
        before = args[: args.index("--")] if "--" in args else args
        ctx.meta[_JSON] = "--json" in before
        try:
            return super().parse_args(ctx, args)
        except _SAID as said:
            _say_usage(ctx, said)
            raise

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        """Run the sub-command."""
        try:
            result: object = super().invoke(ctx)
            sys.stdout.flush()  # what cannot be written is an error here, not at the end of the process
            return result
        except _SAID as said:  # the command line is wrong, or a command has said its last word
            _say_usage(ctx, said)
            raise
        except (KeyboardInterrupt, _Ended) as error:
            number = error.number if isinstance(error, _Ended) else signal.SIGINT
            what = f"interrupted by {number.name}; no file was left half-written"
            say(what)
            _say_json(ctx, {**error_facts(FxpruneError(what)), "kind": "Interrupted"})
            raise typer.Exit(SIGNAL_CODE + number) from error
        except BrokenPipeError as error:  # the reader of stdout has gone, as in "| head"
            raise typer.Exit(FAILED_CODE) from error
        except Exception as error:
            told = _told(error)
            _say_json(ctx, error_facts(told))
            if _debugging(ctx):
                raise
            show_error(told, Stderr())
            raise typer.Exit(FAILED_CODE) from error


def _told(error: Exception) -> FxpruneError:
    """The error that a person is told of."""
    if isinstance(error, FxpruneError):
        return error
    return _refused_by_system(error) if isinstance(error, OSError) else _unforeseen(error)


def _say_usage(ctx: typer.Context, said: BaseException) -> None:
    """A wrong command line as JSON, if that is wanted; the panel is typer's."""
    if isinstance(said, (typer.Exit, typer.Abort)):
        return
    words = said.format_message() if hasattr(said, "format_message") else str(said)
    told = FxpruneError(" ".join(words.split()), advice="fxprune COMMAND --help lists the options")
    _say_json(ctx, {**error_facts(told), "kind": "UsageError"})


def _say_json(ctx: typer.Context, facts: dict[str, str]) -> None:
    """An error on stdout, if JSON is wanted; of several processes of one run the first one speaks."""
    if ctx.meta.get(_JSON) and os.environ.get("RANK", "0") == "0":
        with contextlib.suppress(OSError):  # nobody reads it, or there is no room
            print(json.dumps({"error": facts}, indent=1), flush=True)


def _unforeseen(error: Exception) -> FxpruneError:
    """An error that is not fxprune's own: of the model's code, or a bug."""
    from fxprune.support.source_lines import source_of

    text = " ".join(str(error).split())
    return FxpruneError(
        f"{type(error).__name__}: {text[:500]}",
        source=source_of(error),
        advice="fxprune --debug shows where it came from; if that is not the model's own code, please report it",
    )


def _debugging(ctx: typer.Context) -> bool:
    return bool(ctx.params.get("debug"))


def run(app: Callable[[], object]) -> NoReturn:
    """Run a command line and end the process with its exit code."""
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup has SIGHUP ignored
            signal.signal(number, _end)
    _open_streams()
    code: object = 0
    cut = shell_words(os.environ, _COMPLETING)
    try:
        with without_prefix(cut):
            app()
    except SystemExit as done:
        code = done.code
    except _Ended as error:  # before a command began, or after its end
        code = SIGNAL_CODE + error.number
    except BrokenPipeError:
        code = FAILED_CODE
    except OSError as error:
        show_error(_refused_by_system(error), Stderr())
        code = FAILED_CODE
    if not _settled(sys.stdout) and not code:
        code = FAILED_CODE
    _settled(sys.stderr)
    raise SystemExit(code)


def _open_streams() -> None:
    """Give streams that were closed by the caller somewhere to go.

    Else the next file that is opened gets their number, and what libraries write to stderr lands in it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("r" if number == 0 else "w"))  # noqa: SIM115 - as long as the process


def _settled(stream: TextIO) -> bool:
    """Write what is left in a stream; where that fails it is dropped, so that Python does not try again."""
    try:
        stream.flush()
        return True
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return False


def _refused_by_system(error: OSError) -> FxpruneError:
    where = f" ({error.filename})" if error.filename else ""
    return FxpruneError(
        f"the system refused to read or write{where}: {error.strerror or error}",
        advice="check the space on the disk, permissions, and where the output goes",
    )
