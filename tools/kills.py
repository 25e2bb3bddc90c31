"""Kill ``fxprune train`` and ``fxprune compress`` many times, and look at what is left.

    python tools/kills.py                # 500 kills, into tools/results/KILLS.md
    python tools/kills.py --kills 20

A round starts a command in a process of its own and kills it: before one of its file operations, after some
time, or with a signal that it may answer (SIGTERM, SIGHUP).  Most rounds kill the next start, too, up to five
times in a row; the last start is left alone and has to end as a run that nobody has killed, bit for bit, with
no other file beside.  After every kill what is in sight must be whole and of one run.  The command may be
stopped at any moment and goes on where it was; ``--anew`` begins again.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import onnx
import torch
import yaml
from machine_note import machine_note
from safetensors import safe_open
from torch.onnx._internal.exporter import _registration

from fxprune import pipeline
from fxprune.cli import app as cli
from fxprune.onnx import export
from fxprune.plans import Budget
from fxprune.support.delivery import CHECKPOINTS, UNFINISHED, Paths
from fxprune.training.run import train

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "tools" / "results" / "kills.jsonl"
LONGEST_CHAIN = 5

# What is killed; verdicts of other versions do not count.
SUBJECTS = (
    *("support/files", "support/locks", "support/delivery", "pipeline", "onnx/export", "cli/ending"),
    *("training/run", "training/checkpoint"),
)

_CHANGING = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate"}

NETS = """
import torch
from torch import nn


def make(seed):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    ).eval()


def old():
    return make(1)


def new():
    return make(2)
"""

RECIPE: Mapping[str, object] = {
    "data": {"source": "digits", "limit": 320},
    "batch": 64,
    "budget": {"macs": 0.5},
    "plan": {"align": 1},
    "method": {"name": "ssr", "lam": 0.5, "scale": "norm", "period": 3},
    "sparse": {"epochs": 1, "lr": 0.05},
    "finetune": {"epochs": 1, "lr": 0.05},
    "checkpoints": {"every": 2},
}


@dataclass(frozen=True)
class Subject:
    """A command and what it has to leave.

    Attributes:
        name: In the table.
        arguments: Of the command line; OUT stands for the folder.
        before: Arguments of a run that has filled the folder before, or nothing.
        export: Train also exports.
        split: Every ONNX file has its weights beside it, as those over 2 GB.
    """

    name: str
    arguments: tuple[str, ...]
    before: tuple[str, ...] = ()
    split: bool = False


def _compress(net: str) -> tuple[str, ...]:
    return ("compress", f"nets.py:{net}", "-i", "2x1x8x8", "--macs", "0.5", "--out", "OUT")


def _train(export_too: str) -> tuple[str, ...]:
    return ("train", "recipe.yaml", "--resume", "--set", f"export={export_too}", "--out", "OUT")


SUBJECTS_OF = (
    Subject("train", _train("false")),
    Subject("train, with ONNX files", _train("{}")),
    Subject("compress", _compress("new")),
    Subject("compress over an earlier run", _compress("new"), _compress("old")),
    Subject("the same, ONNX weights in files beside", _compress("new"), _compress("old"), split=True),
)


TURNS = (0, 2, 0, 3, 0, 1, 0, 4, 0, 0)
"""Which of them is next; training takes less time than exporting."""


@dataclass(frozen=True)
class Kill:
    """When and how a process ends.

    Attributes:
        number: The signal.
        operation: Before which file operation, counted from one; 0: after some time.
        seconds: After which time.
    """

    number: int
    operation: int = 0
    seconds: float = 0.0


# --- one process -----------------------------------------------------------------------------


def run(work: Callable[[], object], folder: Path, kill: Kill | None = None, log: Path | None = None) -> int:
    """Run in a process of its own; returns its exit code, negative if a signal ended it.

    Args:
        work: What to run; its exception is exit code 1.
        folder: File operations in it count.
        kill: When it ends, if not by itself.
        log: Gets what it says.
    """
    process = multiprocessing.get_context("fork").Process(target=_child, args=(work, folder, kill, log))
    process.start()
    if kill is not None and not kill.operation:
        process.join(kill.seconds)
        if process.pid is not None and process.exitcode is None:
            os.kill(process.pid, kill.number)
    process.join(300)
    if process.exitcode is None:
        process.kill()
        raise RuntimeError(f"a process hangs after {kill}")
    return process.exitcode


def operations(work: Callable[[], object], folder: Path, log: Path | None = None) -> int:
    """How many file operations a whole run makes in a folder."""
    with tempfile.TemporaryDirectory() as place:
        count = Path(place) / "count"

        def counted() -> None:
            seen = _watch(folder, lambda _: None)
            try:
                work()
            finally:
                count.write_text(str(len(seen)))

        if run(counted, folder, log=log):
            raise RuntimeError(f"a run that nobody killed failed: {log and log.read_text()}")
        return int(count.read_text())


def _child(work: Callable[[], object], folder: Path, kill: Kill | None, log: Path | None) -> None:
    handle = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    if kill is not None and kill.operation:
        at, number = kill.operation, kill.number

        def strike(count: int) -> None:
            if count == at:
                os.kill(os.getpid(), number)

        _watch(folder, strike)
    work()


def _watch(folder: Path, told: Callable[[int], None]) -> list[str]:
    """Call before every operation that changes a file in the folder; returns a list that grows with them."""
    inside, seen = str(folder), list[str]()

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            _, mode, flags = arguments
            writes = (
                any(c in str(mode) for c in "wax+") if mode else int(str(flags)) & (os.O_WRONLY | os.O_RDWR)
            )
            if not writes:
                return
        elif event not in _CHANGING:
            return
        if str(arguments[0]).startswith(inside):
            seen.append(event)
            told(len(seen))

    sys.addaudithook(hook)
    return seen


def command(arguments: Sequence[str], place: Path, out: Path, *, split: bool = False) -> Callable[[], None]:
    """A call of the command line, without measurements, whose figures no two runs share."""

    def work() -> None:
        os.chdir(place)
        if split:
            vars(export)["_SINGLE_FILE_BYTES"] = 0
        vars(pipeline)["benchmark"] = _measured(place)
        sys.argv = ["fxprune", *(str(out) if a == "OUT" else a for a in arguments)]
        warnings.simplefilter("ignore")
        cli.main()

    return work


def _measured(place: Path) -> Callable[..., object]:
    """The benchmark of two small files, the same whenever it is asked."""

    def table(*_: object, **__: object) -> object:
        return _table(place)

    return table


@cache
def _table(place: Path) -> object:
    from fxprune.bench.benchmark import benchmark

    x = torch.zeros(2, 1, 8, 8)
    files = {name: place / f"{name}.onnx" for name in ("dense", "slim")}
    for path in files.values():
        if not path.exists():
            export.export_onnx(torch.nn.Flatten(), x, path)
    return benchmark(dict(files), x, repeats=5, memory=False)


# --- what is left ----------------------------------------------------------------------------


def digests(folder: Path) -> dict[str, str]:
    """Every file in a folder, hidden ones too, with a digest of what does not depend on the clock."""
    return {
        str(path.relative_to(folder)): _digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not (path.parent.name == CHECKPOINTS and not path.name.startswith("."))
    }


def _digest(path: Path) -> str:
    data = path.read_bytes()
    if path.name == "record.json":
        record = json.loads(data)
        drop = {"seconds", "method", "resumed", "notes", "digest"}
        data = json.dumps({k: v for k, v in record.items() if k not in drop}, sort_keys=True).encode()
    if path.suffix == ".safetensors" and not _broken(path):
        data = _content(path)
    return hashlib.sha256(data).hexdigest()[:16]


def _content(path: Path) -> bytes:
    """Names, types and numbers; the file has its metadata in an order that no two runs share."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
        facts = sorted((file.metadata() or {}).items())
    parts = [(name, str(t.dtype), list(t.shape), t.numpy().tobytes().hex()) for name, t in tensors.items()]
    return json.dumps([parts, facts]).encode()


def in_sight(folder: Path) -> dict[str, str]:
    """Files that a user sees."""
    shown = digests(folder) if folder.is_dir() else {}
    return {n: d for n, d in shown.items() if not n.startswith((".", UNFINISHED, f"{CHECKPOINTS}/"))}


def troubles(folder: Path, runs: Sequence[Mapping[str, str]]) -> list[str]:
    """What is wrong with the files in sight, which may be part of any one of some runs, or all of it."""
    seen, found = in_sight(folder), []
    if not any(seen.items() <= run.items() for run in runs):
        found.append(f"files of no single run: {sorted(seen)}")
    if Paths.inside(folder).report.exists() and not any(seen == dict(run) for run in runs):
        found.append("a report without all of its files")
    for path in folder.rglob("*") if folder.is_dir() else ():
        # A delivery that is interrupted has moved weights on before their graph, which then does not load.
        hidden = any(part.startswith(".") or part == UNFINISHED for part in path.relative_to(folder).parts)
        if not hidden and path.is_file():
            found += _broken(path)
    return found


def _broken(path: Path) -> list[str]:
    try:
        match path.suffix:
            case ".json":
                json.loads(path.read_text("utf-8"))
            case ".safetensors":
                with safe_open(path, "pt") as file:
                    for name in file.keys():  # noqa: SIM118 - not a mapping
                        file.get_tensor(name)
            case ".onnx":
                onnx.load(str(path))  # with its weights
    except Exception as error:  # noqa: BLE001 - whatever a reader says, the file is not whole
        return [f"{path.name} is not whole: {type(error).__name__}: {error}"]
    return []


# --- rounds ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Whole:
    """A run that nobody killed.

    Attributes:
        files: All that it leaves.
        earlier: What was there before.
        operations: File operations it makes.
        seconds: It takes.
    """

    files: Mapping[str, str]
    earlier: Mapping[str, str]
    operations: int
    seconds: float


def prepare(place: Path) -> None:
    """Nets, a recipe, and one run of each command here: what they import and remember, forked processes have."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "nets.py").write_text(NETS)
    recipe = place / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"model": f"{place / 'nets.py'}:new", **RECIPE}))
    warm = place / "warm"
    model = pipeline.open_model(f"{place / 'nets.py'}:new", inputs=["2x1x8x8"])
    pipeline.compress(model.model, model.inputs, Budget(macs=0.5), out=warm / "compress", seconds=0.01)
    # Without a step: a process that has computed gradients cannot be forked.
    idle = {**RECIPE, "model": f"{place / 'nets.py'}:new", "sparse": {"epochs": 0}, "finetune": {"epochs": 0}}
    text = yaml.safe_dump({key: value for key, value in idle.items() if key != "method"} | {"export": False})
    (warm / "recipe.yaml").write_text(text)
    train(warm / "recipe.yaml", out=warm / "train")
    shutil.rmtree(warm)
    _table(place)
    # Half of an export is the reading of all translations, always the same ones.
    registry = _registration.ONNXRegistry.from_torchlib()
    setattr(_registration.ONNXRegistry, "from_torchlib", lambda *_, **__: registry)  # noqa: B010 - mypy


def whole(subject: Subject, place: Path) -> Whole:
    """Run a subject undisturbed, twice: the first time to learn what it leaves."""
    out, log = place / "whole", place / "log"
    shutil.rmtree(out, ignore_errors=True)
    _fill(subject, place, out, log)
    earlier = digests(out) if out.is_dir() else {}
    began = time.monotonic()
    count = operations(_work(subject, place, out), out, log)
    return Whole(digests(out), earlier, count, time.monotonic() - began)


def _work(subject: Subject, place: Path, out: Path) -> Callable[[], None]:
    return command(subject.arguments, place, out, split=subject.split)


def _fill(subject: Subject, place: Path, out: Path, log: Path) -> None:
    """The folder as an earlier run has left it."""
    if not subject.before:
        return
    kept = place / f"earlier{'-split' * subject.split}"
    if not kept.exists() and run(command(subject.before, place, kept, split=subject.split), kept, log=log):
        raise RuntimeError(log.read_text())
    shutil.copytree(kept, out)


def one_round(subject: Subject, place: Path, like: Whole, kills: Sequence[Kill]) -> list[str]:
    """Kill a subject, perhaps again and again, let the last start finish, and say what was wrong."""
    out, log = place / "out", place / "log"
    shutil.rmtree(out, ignore_errors=True)
    log.unlink(missing_ok=True)
    _fill(subject, place, out, log)
    found: list[str] = []
    for kill in kills:
        earlier = set(digests(out)) if out.is_dir() else set()  # a start that has not come to it may leave it
        code = run(_work(subject, place, out), out, kill, log)
        # A signal that can be answered is answered, unless the run was over before or had not begun.
        polite = kill.number != signal.SIGKILL
        if code not in (0, 128 + kill.number if polite else -kill.number, -kill.number):
            found.append(f"exit code {code} after {kill}")
        if polite and code == 128 + kill.number:
            found += [
                f"left after signal {kill.number}: {name}"
                for name in set(digests(out)) - earlier
                if _litter(name)
            ]
        found += troubles(out, (in_sight_of(like.files), in_sight_of(like.earlier)))
    if code := run(_work(subject, place, out), out, log=log):
        found.append(f"the next start fails ({code}): {log.read_text()[-500:]}")
    left = digests(out)
    found += [f"not as in a run that nobody killed: {n}" for n in left if left[n] != like.files.get(n)]
    found += [f"missing at the end: {n}" for n in like.files if n not in left]
    return found


def in_sight_of(files: Mapping[str, str]) -> dict[str, str]:
    return {n: d for n, d in files.items() if not n.startswith((".", UNFINISHED))}


def _litter(name: str) -> bool:
    return any(part.startswith(".") for part in Path(name).parts)


def draw(random_: random.Random, like: Whole, number: int) -> list[Kill]:
    """The kills of a round; the first file operations come in turn, so that each is met."""
    kills = []
    for again in range(random_.randint(1, LONGEST_CHAIN)):
        way = "operation" if not again and number % 2 else random_.choice(("operation", "time", "signal"))
        at = 1 + (number // 2 if not again else random_.randrange(like.operations)) % like.operations
        seconds = random_.uniform(0.02, like.seconds)
        kills.append(
            Kill(int(signal.SIGKILL), at)
            if way == "operation"
            else Kill(int(signal.SIGKILL if way == "time" else random_.choice(_POLITE)), seconds=seconds)
        )
    return kills


_POLITE = (signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Row:
    """A round in the record."""

    digest: str
    subject: str
    kills: list[Kill]
    troubles: list[str]
    operations: int

    @staticmethod
    def of(line: str) -> Row:
        """From a line of JSON."""
        data = json.loads(line)
        return Row(**{**data, "kills": [Kill(**kill) for kill in data["kills"]]})


def _known(digest: str) -> list[Row]:
    lines = OUT.read_text("utf-8").splitlines() if OUT.exists() else []
    return [row for row in map(Row.of, lines) if row.digest == digest]


def _source() -> str:
    found = hashlib.sha256(Path(__file__).read_bytes())
    for name in SUBJECTS:
        found.update((ROOT / "fxprune" / f"{name}.py").read_bytes())
    return found.hexdigest()[:12]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--anew", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.anew:
        OUT.unlink(missing_ok=True)
    digest = _source()
    rows = _known(digest)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(KeyboardInterrupt):
        place = Path(folder)
        prepare(place)
        runs = [(subject, whole(subject, place)) for subject in SUBJECTS_OF]
        while sum(len(row.kills) for row in rows) < given.kills:
            turn = len(rows)
            at = TURNS[turn % len(TURNS)]
            subject, like = runs[at]
            kills = draw(random.Random(turn), like, sum(row.subject == subject.name for row in rows))
            found = one_round(subject, place, like, kills)
            rows.append(Row(digest, subject.name, kills, found, like.operations))
            with OUT.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(rows[-1])) + "\n")
            print(f"{turn:4} {subject.name}: {len(kills)} kills, {'; '.join(found) or 'right'}", flush=True)
    (OUT.parent / "KILLS.md").write_text(page(rows), "utf-8")
    return any(row.troubles for row in rows)


def page(rows: Sequence[Row]) -> str:
    """The table."""
    lines = [
        "# Killed runs",
        "",
        "Made by `python tools/kills.py`: each command runs in a process of its own and is killed, up to "
        f"{LONGEST_CHAIN} starts in a row; the last start has to end as a run that nobody killed. After every kill "
        "what is in sight has to be whole and of one run.",
        "",
        "| command | starts killed | before a file operation | after some time | SIGTERM, SIGHUP | file operations "
        "| not bit-equal at the end | mixed or broken | litter |",
        "|:--|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for subject in SUBJECTS_OF:
        own = [row for row in rows if row.subject == subject.name]
        kills = [kill for row in own for kill in row.kills]
        ways = Counter(
            "op" if k.operation else "hard" if k.number == signal.SIGKILL else "soft" for k in kills
        )
        said = [text for row in own for text in row.troubles]
        hidden = [t for t in said if t.startswith("left") or _litter(t.rpartition(": ")[2])]
        ends = sum(
            "missing" in t or "next start" in t or ("not as in" in t and t not in hidden) for t in said
        )
        mixed = sum(
            "no single run" in t or "without all" in t or "not whole" in t or "exit" in t for t in said
        )
        count = own[0].operations if own else 0
        lines.append(
            f"| {subject.name} | {len(kills)} | {ways['op']} | {ways['hard']} | {ways['soft']} | {count} "
            f"| {ends} | {mixed} | {len(hidden)} |"
        )
    total = sum(len(row.kills) for row in rows)
    lines += ["", f"{total} kills. {machine_note()}", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
