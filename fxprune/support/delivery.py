"""The folder that ``compress`` writes: one run's files as a whole, at every moment.

A run writes into a folder of its own inside, and its files take their places at the very end: those of an
earlier run go first, the report before all others, then the new ones come, the report last.  Whatever stops
it, what is in sight is of one run, and a report stands beside all that it tells of.

``asked.json`` says what the result is of: another model's, or one of another budget, is not replaced unasked.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from fxprune.errors import FxpruneError
from fxprune.support.files import check_writable
from fxprune.support.locks import claimed, sweep
from fxprune.support.reading import json_object

__all__ = [
    "Asked",
    "Delivery",
    "Paths",
    "begin_delivery",
    "check_folder",
    "make_folder",
    "occupied",
    "refuse_other",
]

UNFINISHED = "fxprune-unfinished"
"""Where a run's files are until all of them are there; of a killed run they stay until the next one."""

RECORD = "record.json"
CHECKPOINTS = "checkpoints"
_ADVICE = "choose a folder you may write to, on a disk with space left"
_WEIGHTS = re.compile(r"(dense|slim)\.onnx\.([0-9a-f]+\.)?data")  # of a graph over 2 GB


ASKED = "fxprune-asked"


@dataclass(frozen=True)
class Asked:
    """What a result is of, as far as it is known.

    Attributes:
        model: Name of the model's class; empty before there is a model.
        budget: What is to be kept, by quantity.
        fingerprint: Of the model as it was traced; empty before.
    """

    model: str
    budget: Mapping[str, float]
    fingerprint: str = ""

    def to_json(self) -> str:
        """As the text of ``asked.json``."""
        return json.dumps({"format": ASKED, "version": 1, **asdict(self)}, indent=1)

    def differs(self, held: Asked) -> str:
        """What another result is of, in words; empty if it is of the same, as far as both are known.

        Example:
            >>> Asked("ResNet", {"macs": 0.5}).differs(Asked("VGG", {"macs": 0.5}))
            'of another model (VGG)'
        """
        for mine, its in ((self.model, held.model), (self.fingerprint, held.fingerprint)):
            if mine and its and mine != its:
                return f"of another model ({held.model})" if held.model else "of another model"
        if held.budget and dict(held.budget) != dict(self.budget):
            kept = ", ".join(f"{name}={value:g}" for name, value in held.budget.items())
            return f"of another budget ({kept})"
        return ""


@dataclass(frozen=True)
class Paths:
    """The files that ``compress`` writes, all in one folder."""

    plan: Path
    weights: Path
    dense_onnx: Path
    slim_onnx: Path
    groups: Path
    bench: Path
    widths_plot: Path
    latency_plot: Path
    asked: Path
    report: Path

    @staticmethod
    def inside(folder: Path) -> Paths:
        """Their usual names in a folder, in the order in which they appear."""
        return Paths(
            plan=folder / "plan.json",
            weights=folder / "slim.safetensors",
            dense_onnx=folder / "dense.onnx",
            slim_onnx=folder / "slim.onnx",
            groups=folder / "groups.json",
            bench=folder / "bench.json",
            widths_plot=folder / "widths.png",
            latency_plot=folder / "latency.png",
            asked=folder / "asked.json",
            report=folder / "report.md",
        )

    def there(self) -> list[Path]:
        """Those that exist, with what belongs to them, in this order."""
        named = [getattr(self, field.name) for field in fields(self)]
        folder = self.plan.parent
        beside = (
            [p for p in sorted(folder.iterdir()) if _WEIGHTS.fullmatch(p.name)] if folder.is_dir() else []
        )
        return [path for path in (*named[:2], *beside, *named[2:]) if path.is_symlink() or path.exists()]


class Delivery:
    """A run's files on their way into a folder.

    Attributes:
        out: Where they go.
        paths: Where the files will be.
        unfinished: Where they are written until then.
        words: What else is in the folder, or empty.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.paths = Paths.inside(out)
        self.unfinished = Paths.inside(out / UNFINISHED)
        self.words = _words(self.paths)

    @property
    def holds_result(self) -> bool:
        """Whether a run of compress is in the folder, finished or not."""
        return self.paths.report.exists() or self.unfinished.plan.parent.exists()

    def begin(self) -> None:
        """Make the folder for unfinished files, empty."""
        folder = self.unfinished.plan.parent
        shutil.rmtree(folder, ignore_errors=True)
        make_folder(folder)

    def finish(self) -> None:
        """Put the new files in the place of the old ones; interrupted, it can be done again.

        Raises:
            FxpruneError: A file cannot be moved.
        """
        with _refusing(self.out):
            new = self.unfinished.there()
            if self.unfinished.plan in new:  # it is the last to be replaced and the first to be moved
                for old in reversed(self.paths.there()):
                    if (fresh := self.unfinished.plan.with_name(old.name)).exists() and not old.is_symlink():
                        fresh.chmod(old.stat().st_mode & 0o777)
                    old.unlink()
            for path in new:
                path.replace(self.out / path.name)
            self.drop()

    def give_up(self, *, keep: bool) -> None:
        """After a failure: deliver what there is, unless an earlier run's finished files are in that place.

        Args:
            keep: Leave the files where they are in that case, as they took long to make.
        """
        with contextlib.suppress(FxpruneError):  # the failure itself is what is told
            if not self.paths.report.exists() and self.unfinished.plan.exists():
                self.finish()
            elif not (keep and self.unfinished.weights.exists()):
                self.drop()

    def drop(self) -> None:
        """Remove what is unfinished."""
        shutil.rmtree(self.unfinished.plan.parent, ignore_errors=True)


@contextlib.contextmanager
def occupied(out: Path, what: str) -> Iterator[None]:
    """Have a folder for this process alone while the body runs; what killed ones have left in it goes first.

    Raises:
        FxpruneError: Another process has it, or it cannot be made or written.
    """
    with contextlib.ExitStack() as stack:
        with _refusing(out):
            stack.enter_context(claimed(out, what))
            for folder in (out, out / CHECKPOINTS):
                sweep(folder)
        yield


def begin_delivery(out: Path, asked: Asked, *, force: bool = False) -> Delivery:
    """What ``compress`` finds in a folder that is its own now.

    Args:
        out: The folder.
        asked: What is going to be written there.
        force: Replace a result of another model or budget.

    Raises:
        FxpruneError: Files of others have the names that it needs, or the result there is of something else.
    """
    delivery = Delivery(out)
    _refuse_others(delivery.paths)
    refuse_other(out, asked, force=force)
    if delivery.unfinished.report.exists():  # killed between the first and the last file
        delivery.finish()
    delivery.drop()
    return delivery


def _refuse_others(paths: Paths) -> None:
    folder = paths.plan.parent
    run = next((name for name in (RECORD, CHECKPOINTS) if (folder / name).exists()), "")
    if run:
        raise FxpruneError(
            f"{folder} holds a run of fxprune train ({run})", advice="choose another folder for compress"
        )
    there = paths.there()
    if there and not _is_plan(paths.plan):
        raise FxpruneError(
            f"{there[0]} was not written by compress, which would overwrite it",
            advice="choose another folder, or move the file away",
        )


def refuse_other(out: Path, asked: Asked, *, force: bool = False) -> None:
    """Refuse to replace a result of another model or budget; the same again takes the place of the earlier one.

    Other weights of the same model are no other model, and other options no other budget: a run that is repeated after
    more training goes through.

    Args:
        out: The folder, which need not exist.
        asked: What is going to be written there, as far as it is known.
        force: Replace it nevertheless.

    Raises:
        FxpruneError: What is there was asked for otherwise.
    """
    paths = Paths.inside(out)
    plan = json_object(paths.plan)
    if force or plan.get("format") != "fxprune-plan":
        return
    said = json_object(paths.asked)
    known = said if said.get("format") == ASKED and said.get("fingerprint") == plan.get("fingerprint") else {}
    budget = known.get("budget")
    held = Asked(
        str(known.get("model", "")),
        {k: v for k, v in budget.items() if isinstance(v, (int, float))} if isinstance(budget, dict) else {},
        str(plan.get("fingerprint", "")),
    )
    if other := asked.differs(held):
        raise FxpruneError(
            f"{out} holds the result {other}, which would be lost",
            advice="choose another folder; or replace it with force=True (--force on the command line)",
        )


def _is_plan(path: Path) -> bool:
    return json_object(path).get("format") == "fxprune-plan"


def _words(paths: Paths) -> str:
    folder = paths.plan.parent
    own = {path.name for path in paths.there()}
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    others = {name for name in names - own - {UNFINISHED} if not name.startswith(".")}
    words = ["in the place of an earlier result"] if own else []
    words += [f"beside {len(others)} other files, which stay"] if others else []
    return ", ".join(words)


def check_folder(out: str | Path) -> Path:
    """Refuse a folder that cannot be made or written, before any work is done for it; nothing is made.

    Returns:
        The path, with the user's home in the place of ``~``.

    Raises:
        FxpruneError: It cannot be made or written.
    """
    path = Path(out)
    problem = ""
    try:
        path = path.expanduser()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.lstat()  # exists() is silent about names that cannot be
        there = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
        if not there.is_dir():
            problem = f"{there} is a file"
        elif not os.access(there, os.W_OK | os.X_OK):
            problem = f"no permission to write in {there}"
    except (OSError, RuntimeError, ValueError) as error:  # too long a name, no such user, a name with NUL
        problem = getattr(error, "strerror", None) or str(error)
    if problem:
        raise FxpruneError(f"the folder {path} cannot be written: {problem}", advice=_ADVICE)
    return path


def make_folder(out: str | Path) -> Path:
    """A folder to write into, made if it is not there.

    Raises:
        FxpruneError: It cannot be made or written.
    """
    path = check_folder(out)
    with _refusing(path):
        path.mkdir(parents=True, exist_ok=True)
    check_writable(path / "report.md")
    return path


@contextlib.contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        problem = error.strerror or str(error)
        raise FxpruneError(f"the folder {path} cannot be written: {problem}", advice=_ADVICE) from error
