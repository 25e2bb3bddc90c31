"""The development environment: made once in ``.venv``, stamped, checked in milliseconds afterwards.

Standard library only, for it runs before anything is installed. ``ensure`` is the one entry: it returns the
environment's interpreter, or raises ``NotFit`` with what is wrong and what to do.

How it is kept right:

* The stamp, a digest of what ``pyproject.toml`` says about the installation, is written last. So a second
  run does nothing, and a change of the dependencies installs what changed.
* A marker stands in the environment while it is being filled. Whoever finds it there knows that the last
  installation was cut short, and begins again.
* torch and torchvision come from one resolver run, for torchvision's operators are compiled against torch.
  The pair is checked by metadata at every call, and by running such an operator whenever it has changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import operator
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from dev_console import Failure, run, say

__all__ = ["NotFit", "ensure", "interpreter"]

TARGET = ".[dev]"
STAMP = "fxprune-stamp.json"
MARKER = "fxprune-installing"
OURS, THEIRS = "made by dev.py", "found"  # what the marker says of the environment

# Free space in GB that an installation asks for, with room for the download of the largest package.
SPACE_CUDA = 8.0  # on Linux PyPI's torch brings CUDA: 6.2 GB once installed
SPACE_CPU = 3.0
SPACE_UPDATE = 1.0  # torch is there already

WIDTH = 160  # characters quoted of a tool's line
MEND = "install both in one go: 'python tools/dev.py setup --reinstall'"

DISK, NETWORK = "the disk is full", "the package index cannot be reached"

ADVICE = (
    (
        r"no space left|disk quota|errno 28",
        DISK,
        "free some space and call this again: it goes on from where it stopped",
    ),
    (
        r"connect|timed? ?out|resolv|dns|ssl|certificate|proxy|unreachable|error sending request|retr(y|ies)",
        NETWORK,
        "check the network, the proxy (HTTPS_PROXY) and, behind a mirror, PIP_INDEX_URL and UV_DEFAULT_INDEX; "
        "then call this again",
    ),
    (
        r"no matching distribution|no solution found|unsatisfiable",
        "no set of packages fits",
        "see the last lines; a very new Python may lack builds of torch, so try 3.11 to 3.13",
    ),
)
"""What a tool's output says (pattern), what it means, what to do about it."""

PROBE = """
import torch, torchvision
boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.1], [5.0, 5.0, 6.0, 6.0]])
kept = torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist()
assert kept == [0, 2], kept
print("torch", torch.__version__, "torchvision", torchvision.__version__)
"""


class NotFit(Exception):
    """The machine or the environment cannot do the job.

    Args:
        what: One sentence that says what is wrong.
        advice: What the user can do.
        quoted: Last lines of the tool that failed.
    """

    def __init__(self, what: str, advice: str, quoted: Sequence[str] = ()) -> None:
        super().__init__(what)
        self.what, self.advice, self.quoted = what, advice, tuple(quoted)

    def __str__(self) -> str:
        lines = [f"error: {self.what}", f"  what to do: {self.advice}"]
        if self.quoted:
            lines += ["  the tool's last lines:", *(f"    | {line[:WIDTH]}" for line in self.quoted)]
        return "\n".join(lines)


def interpreter(venv: Path) -> Path:
    """The environment's Python."""
    return venv / "Scripts" / "python.exe" if os.name == "nt" else venv / "bin" / "python"


def ensure(root: Path, *, reinstall: bool = False) -> Path:
    """Make sure that the environment is there and whole.

    Args:
        root: The repository.
        reinstall: Throw the environment away and make it again.

    Returns:
        The environment's interpreter.

    Raises:
        NotFit: Disk, network or Python is not fit, or torch and torchvision do not match.
    """
    venv = root / ".venv"
    if not reinstall and _ready(root, venv):
        _check_pair(root, venv)
        return interpreter(venv)
    with _alone(root / "pyproject.toml"):
        if reinstall or not _ready(root, venv):  # another call may have made it meanwhile
            _make(root, venv, reinstall)
    return interpreter(venv)


def _make(root: Path, venv: Path, reinstall: bool) -> None:
    say(f"environment: {venv} (Python {sys.version.split()[0]})")
    _check_space(root, venv)
    marker = venv / MARKER
    cut_short = marker.read_text(encoding="utf-8") if marker.exists() else ""
    if cut_short:
        say("the last installation did not finish: mending it")
    # What cannot even start (the Python it was made from is gone, say) is worth nothing: begin again.
    # An environment that a person made is not cleared unasked: its packages are laid anew instead.
    clear = reinstall or cut_short == OURS or not _runs(venv, "")
    _make_venv(root, venv, clear)
    marker.write_text(OURS if clear else THEIRS, encoding="utf-8")
    (venv / STAMP).unlink(missing_ok=True)
    _install(root, venv, anew=cut_short == THEIRS)
    _check_pair(root, venv)
    marker.unlink()
    say("environment: ready")


def _stamp(root: Path) -> dict[str, str]:
    """What the environment was made from: only what bears on the installation, lint settings do not."""
    data = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    relevant = {key: data.get(key) for key in ("build-system", "project")}
    digest = hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()
    return {"target": TARGET, "pyproject": digest, "root": str(root)}


def _ready(root: Path, venv: Path) -> bool:
    if (venv / MARKER).exists() or not interpreter(venv).exists():
        return False
    return _stamped(venv).items() >= _stamp(root).items()


def _stamped(venv: Path) -> dict[str, str]:
    try:
        return dict(json.loads((venv / STAMP).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Hold a lock on a file: two commands started at once must not fill one environment."""
    try:
        import fcntl
    except ImportError:  # not POSIX; uv has a lock of its own
        yield
        return
    with file.open("rb") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another call is making the environment: waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _check_space(root: Path, venv: Path) -> None:
    with_cuda = sys.platform == "linux" and os.environ.get("UV_TORCH_BACKEND") != "cpu"
    fresh = _distribution(venv, "torch") is None
    needed = (SPACE_CUDA if with_cuda else SPACE_CPU) if fresh else SPACE_UPDATE
    cache = Path(os.environ.get("UV_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for place, role in ((root, "the environment"), (cache, "the package cache")):
        while not place.exists():
            place = place.parent
        free = shutil.disk_usage(place).free / 1e9
        if free < needed:
            hint = " or set UV_TORCH_BACKEND=cpu for PyTorch's CPU build" if needed == SPACE_CUDA else ""
            raise NotFit(
                f"{role} at {place} needs about {needed:.0f} GB, and {free:.1f} GB are free",
                f"free some space, or put the repository (and UV_CACHE_DIR) on a larger disk{hint}",
            )
    say(f"disk: about {needed:.0f} GB needed, {shutil.disk_usage(root).free / 1e9:.0f} GB free")


def _make_venv(root: Path, venv: Path, clear: bool) -> None:
    if not clear and _runs(venv, "import pip"):
        return
    uv = shutil.which("uv")
    if importlib.util.find_spec("ensurepip") is not None:
        command = [sys.executable, "-m", "venv", *(["--clear"] if clear else []), str(venv)]
    elif uv is not None:
        mode = "--clear" if clear else "--allow-existing"
        command = [uv, "venv", "--seed", mode, "--python", sys.executable, str(venv)]
    else:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise NotFit(
            f"this Python ({sys.executable}) cannot make virtual environments: its module ensurepip is missing",
            f"on Debian or Ubuntu 'apt install python{version}-venv'; elsewhere install a complete Python, "
            "or uv, and call this again",
        )
    _try(command, "making the virtual environment", root)


def _install(root: Path, venv: Path, anew: bool) -> None:
    """Install the project with uv, or with pip where uv cannot be had or cannot do it."""
    python, label = str(interpreter(venv)), "installing fxprune and what it needs"
    pip = [
        python,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--no-input",
        "--retries",
        "2",
        "--timeout",
        "30",
    ]
    pip += ["install", "--progress-bar", "off"]
    fetched = not _runs(venv, "import uv")
    if fetched:
        try:
            run([*pip, "uv"], "getting uv, the installer", folder=root)
        except Failure as failure:
            if _meaning(failure)[0] in (DISK, NETWORK):
                raise _not_fit(failure) from failure
    if _runs(venv, "import uv"):
        # Compiled once here, or every process would compile torch's sources again where writing is barred.
        uv = [python, "-m", "uv", "pip", "install", "--python", python, "--compile-bytecode"]
        try:
            run([*uv, *(["--reinstall"] if anew else []), "-e", TARGET], label, folder=root)
            return
        except Failure as failure:
            what = _meaning(failure)[0]
            # pip has just reached an index if it brought uv: it may know a mirror that uv does not.
            if what == DISK or (what == NETWORK and not fetched):
                raise _not_fit(failure) from failure
            say("uv could not: trying pip, which has settings of its own")
    else:
        say("uv is not to be had: using pip, which takes longer")
    _try([*pip, *(["--force-reinstall"] if anew else []), "-e", TARGET], label, root)


def _check_pair(root: Path, venv: Path) -> None:
    """See that torch and torchvision fit together, and write the stamp if this is a new pair."""
    torch, vision = _distribution(venv, "torch"), _distribution(venv, "torchvision")
    if torch is None or vision is None:
        raise NotFit("torch or torchvision is missing from the environment", MEND)
    wanted = next((m[1] for r in vision.requires or () if (m := re.match(r"torch\b[ (]*([^;)]*)", r))), "")
    if not satisfies(torch.version, wanted):
        raise NotFit(
            f"torch {torch.version} and torchvision {vision.version} do not match: "
            f"this torchvision is built for torch {wanted}",
            MEND,
        )
    stamp = {**_stamp(root), "torch": torch.version, "torchvision": vision.version}
    if _stamped(venv) != stamp:
        _check_operator(root, venv)
        (venv / STAMP).write_text(json.dumps(stamp) + "\n", encoding="utf-8")


def satisfies(version: str, specifiers: str) -> bool:
    """Whether a version meets all specifiers, as ``">=2.14,!=2.14.1"``, by its release numbers alone.

    Example:
        >>> satisfies("2.15.0+cu132", "==2.15.0"), satisfies("2.13.0", ">=2.14.0,<3")
        (True, False)
    """
    mine = _release(version)
    for specifier in filter(None, (part.strip() for part in specifiers.split(","))):
        match = re.match(r"([=!<>~]=?)\s*([\w.]+)", specifier)
        if match and not COMPARE[match[1]](mine, _release(match[2])):
            return False
    return True


def _release(version: str) -> tuple[int, ...]:
    numbers = re.match(r"\d+(\.\d+)*", version)
    parts = [int(part) for part in numbers[0].split(".")] if numbers else []
    return tuple(parts + [0] * (4 - len(parts)))


COMPARE: dict[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "~=": operator.ge,
}


def _check_operator(root: Path, venv: Path) -> None:
    """Run one of torchvision's compiled operators: builds of equal version can still differ."""
    try:
        run([str(interpreter(venv)), "-c", PROBE], "checking torch and torchvision", folder=root)
    except Failure as failure:
        what = "torch and torchvision do not work together: torchvision.ops.nms fails"
        raise NotFit(what, MEND, failure.tail) from failure


def _distribution(venv: Path, name: str) -> importlib.metadata.Distribution | None:
    places = [str(p) for p in (*venv.glob("lib/python*/site-packages"), venv / "Lib" / "site-packages")]
    return next(iter(importlib.metadata.distributions(name=name, path=places)), None)


def _runs(venv: Path, code: str) -> bool:
    python = interpreter(venv)
    return python.exists() and subprocess.run([python, "-c", code], capture_output=True).returncode == 0


def _try(command: Sequence[str], label: str, root: Path) -> None:
    try:
        run(command, label, folder=root)
    except Failure as failure:
        raise _not_fit(failure) from failure


def _not_fit(failure: Failure) -> NotFit:
    what, advice = _meaning(failure)
    return NotFit(f"{failure.label} failed: {what}", advice, failure.tail)


def _meaning(failure: Failure) -> tuple[str, str]:
    text = "\n".join(failure.tail)
    default = (f"exit code {failure.code}", "see the last lines; the next call mends what is half done")
    return next(
        ((what, advice) for pattern, what, advice in ADVICE if re.search(pattern, text, re.IGNORECASE)),
        default,
    )
