"""Facts about runtimes, as data: what a plan and an export must know so that fewer channels mean less time.

onnxruntime's CPU convolutions work on blocks of channels, 16 with AVX-512 and 8 without.  What it costs to be off the
block was measured with ``python tools/runtime_facts.py`` on a machine of each kind (``tools/results/RUNTIME.md`` has the
table: onnxruntime 1.32).  The facts in short:

* Multiples of 4 run in blocks and cost as much as the next whole block (with AVX-512 24 as 32, 100 as 112).
* Other widths run another kernel and are slower than the next block: 127 channels 1.3 to 1.5 times as slow as 128;
  depthwise ones many times.
* Below one block 1x1 convolutions are up to 3 times slower than at one block, 3x3 about equal.
* A grouped convolution runs in blocks only if each group reads and makes whole blocks; with zeros between them, several
  narrow groups make one block (AVX-512, 8 channels a group: 2.2 times as fast).
* Linear layers have no steps.

``weights``, ``elements`` and ``node`` of the built-in facts are rounded by hand: ``fxprune calibrate`` measures 13 to 16, 2.4 to 2.6
and 1.0 to 2.2 with AVX-512, 18 to 19, 4.6 to 4.8 and 0.3 to 1.3 with AVX2.  There the last two are AVX-512's: whole nets
(``tools/results/LATENCY_MODEL.md``) take as long as these say, and longer than a layer alone lets expect.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fxprune.errors import PlanError
from fxprune.support.files import write_text
from fxprune.support.reading import regular_file, shown

__all__ = ["DEFAULT_TARGET", "Target", "check", "get", "measurable", "names"]

DEFAULT_TARGET = "onnxruntime-cpu"

FORMAT = "fxprune-target"
LONGEST = 1 << 16  # letters of a file of facts
LATER = {"node"}  # facts that earlier versions did not measure

Number = int | npt.NDArray[np.int64]
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


Curve = tuple[tuple[float, float], ...]
"""Widths in channels, ascending, and a speed at each."""


@dataclass(frozen=True)
class Facts:
    """How fast a runtime is on a machine, one thread.

    Attributes:
        block: Channels of a block; 1 where nothing is known: then no width is better than another.
        blocked: Billions of multiply-accumulates a second of convolutions in whole blocks, by channels.
        plain: The same off the block.
        pointwise: The same of 1x1 convolutions off the block.
        narrow: Of grouped convolutions off the block, by channels of a group.
        depthwise: Of depthwise convolutions in blocks, and off them.
        matrix: Of products of matrices.
        weights: Billions of bytes a second at which weights are read that are used once.
        elements: Billions of elements a second that an addition makes.
        node: Microseconds that every operator takes to be begun, between others.
    """

    block: int
    blocked: Curve = ((16, 100.0),)
    plain: Curve = ((16, 100.0),)
    pointwise: Curve = ((16, 100.0),)
    narrow: Curve = ((16, 100.0),)
    depthwise: tuple[float, float] = (100.0, 100.0)
    matrix: float = 100.0
    weights: float = 14.0
    elements: float = 2.5
    node: float = 2.0


_BLOCKS_OF_16 = Facts(
    block=16,
    blocked=((16, 55.0), (32, 83.0), (48, 95.0), (128, 100.0)),
    plain=((8, 34.0), (12, 33.0), (15, 38.0), (30, 40.0), (62, 58.0), (97, 65.0), (127, 67.0)),
    pointwise=((8, 7.0), (12, 9.0), (15, 11.0), (30, 43.0), (62, 67.0), (97, 70.0), (127, 73.0)),
    narrow=((2, 6.0), (4, 10.0), (8, 15.0), (12, 22.0), (24, 36.0), (48, 60.0)),
    depthwise=(40.0, 4.5),
    matrix=90.0,
)

_BLOCKS_OF_8 = Facts(
    block=8,
    blocked=((8, 21.0), (16, 34.0), (24, 40.0), (64, 44.0), (128, 45.0)),
    plain=((8, 22.0), (12, 19.5), (15, 19.0), (30, 26.0), (62, 30.0), (97, 34.0), (127, 34.0)),
    pointwise=((8, 30.0), (12, 19.0), (15, 22.0), (30, 26.0), (62, 33.0), (97, 36.0), (127, 38.0)),
    narrow=((2, 4.0), (4, 7.5), (12, 14.0)),
    depthwise=(20.0, 3.5),
    matrix=40.0,
    weights=18.0,
)

_QUARTER = 4
"""Channels: multiples of it run in blocks, filled up."""

_DIGITS = 6  # of a number of threads or samples

_MANY = 5040
"""A number of groups that most numbers divide."""


@dataclass(frozen=True)
class Target:
    """A runtime on a kind of machine.

    Attributes:
        name: Under which `get` knows it.
        facts: How fast it is.
        threads: Threads of one run.
        batch: Samples of one run.
        measurable: It is this machine.
    """

    name: str
    facts: Facts
    threads: int = 1
    batch: int = 1
    measurable: bool = False

    @property
    def channel_step(self) -> int:
        """Channels; widths of convolutions (per group) are best multiples of it."""
        return self.facts.block

    def filled(self, channels: Number) -> IntArray:
        """Channels up to the next whole block.

        Example:
            >>> int(get("onnxruntime-cpu-avx512").filled(100))
            112
        """
        block = self.facts.block
        return np.asarray(-(-np.asarray(channels) // block) * block)

    def convolution(self, inputs: Number, outputs: Number, taps: Number, groups: Number = 1) -> FloatArray:
        """Nanoseconds that a convolution takes at every pixel.

        Args:
            inputs: Channels that it reads, over all groups.
            outputs: Channels that it makes.
            taps: Pixels that its kernel reads.
            groups: Groups; all arguments may be arrays.

        Example:
            >>> avx512 = get("onnxruntime-cpu-avx512")
            >>> bool(avx512.convolution(98, 98, 9) > avx512.convolution(112, 112, 9))
            True
        """
        facts = self.facts
        inputs, outputs, taps, groups = np.broadcast_arrays(inputs, outputs, taps, groups)
        read, produced = inputs // groups, outputs // groups
        least = np.minimum(read, produced)
        macs = groups * read * produced * taps
        if facts.block == 1:
            return np.asarray(macs / _at(facts.blocked, least))
        full = np.minimum(self.filled(inputs), self.filled(outputs))
        quartered = (inputs % _QUARTER == 0) & (outputs % _QUARTER == 0)
        one = np.where(
            quartered & (least >= facts.block),
            self.filled(inputs) * self.filled(outputs) * taps / _at(facts.blocked, full),
            macs / np.where(taps > 1, _at(facts.plain, least), _at(facts.pointwise, least)),
        )
        whole = (read % facts.block == 0) & (produced % facts.block == 0)
        several = macs / np.where(whole, _at(facts.blocked, least), _at(facts.narrow, least))
        deep = np.where(
            quartered, self.filled(groups) * taps / facts.depthwise[0], groups * taps / facts.depthwise[1]
        )
        return np.where(groups == 1, one, np.where((read == 1) & (produced == 1), deep, several))

    def groups_together(self, groups: int, inputs: int, outputs: int) -> int:
        """How many neighbouring groups to make one, with zeros between them.

        Args:
            groups: Groups.
            inputs: Channels that each of them reads.
            outputs: Channels that each of them makes.

        Example:
            >>> target = get("onnxruntime-cpu-avx512")
            >>> target.groups_together(26, 8, 8), target.groups_together(13, 8, 8), target.groups_together(4, 32, 32)
            (2, 1, 1)
        """
        if inputs == outputs == 1:
            return 1
        divisors = np.array([n for n in range(1, groups + 1) if groups % n == 0])
        times = self.convolution(groups * inputs, groups * outputs, 1, groups // divisors)
        return int(divisors[np.argmin(times)])

    def merged_width(self, channels: int) -> int:
        """Channels of a group when as many groups are merged as is best.

        Example:
            >>> get("onnxruntime-cpu-avx512").merged_width(8)
            16
        """
        return channels * self.groups_together(_MANY, channels, channels)


def _at(curve: Curve, channels: Number) -> FloatArray:
    widths, speeds = zip(*curve, strict=True)
    return np.asarray(np.interp(channels, np.array(widths), np.array(speeds)))


def save(facts: Facts, machine: str, path: Path) -> None:
    """Write facts about a machine, which ``get`` reads by the file's path.

    Args:
        facts: As ``fxprune.onnx.calibrate`` measures them.
        machine: Where, in words.
        path: A ``.json`` file.
    """
    write_text(path, json.dumps({"format": FORMAT, "machine": machine, **asdict(facts)}, indent=1) + "\n")


def _load(path: Path) -> Facts:
    """Facts of a file.

    Raises:
        PlanError: It is none, or damaged.
    """
    advice = "write one with `fxprune calibrate --out FILE.json` on the machine that is meant"
    try:
        held = json.loads(regular_file(path, error=PlanError, advice=advice).read_text("utf-8")[:LONGEST])
    except ValueError as error:
        raise PlanError(f"{shown(path)} is no JSON: {error}", advice=advice) from error
    if not isinstance(held, dict) or held.pop("format", None) != FORMAT:
        raise PlanError(f"{shown(path)} holds no facts about a machine", advice=advice)
    held.pop("machine", None)
    names = {f.name for f in fields(Facts)}
    # What facts were added later a file may lack: then the value is the built-in one.
    if not names - LATER <= set(held) <= names or not all(
        _is_fact(name, value) for name, value in held.items()
    ):
        raise PlanError(f"{shown(path)} is damaged, or of another version of fxprune", advice=advice)
    return Facts(**{name: _tupled(value) for name, value in held.items()})  # type: ignore[arg-type]  # checked above


def _is_fact(name: str, value: object) -> bool:
    """A number above zero, a pair of them, or a curve of ascending widths."""
    if name == "block":
        return type(value) is int and 1 <= value <= 1024
    if name in ("matrix", "weights", "elements", "node"):
        return _is_speed(value)
    if not isinstance(value, list) or not value:
        return False
    if name == "depthwise":
        return len(value) == 2 and all(map(_is_speed, value))
    points = [p for p in value if isinstance(p, list) and len(p) == 2 and all(map(_is_speed, p))]
    widths = [p[0] for p in points]
    return len(points) == len(value) and widths == sorted(set(widths))


def _is_speed(value: object) -> bool:
    return type(value) in (int, float) and 0 < value < 1e9  # type: ignore[operator]


def _tupled(value: object) -> object:
    return tuple(map(_tupled, value)) if isinstance(value, list) else value


def get(name: str = DEFAULT_TARGET) -> Target:
    """The facts about a runtime.

    Args:
        name: One of `names`, or a file that ``fxprune calibrate`` wrote on the machine that is meant; on request with
            threads and batch: ``"onnxruntime-cpu?threads=2&batch=8"``.

    Raises:
        PlanError: There is no such target.

    Example:
        >>> get("onnxruntime-cpu-avx512").channel_step, get("onnxruntime-cpu?threads=2").threads
        (16, 2)
    """
    base, _, query = name.partition("?")
    counts = _counts(name, query)
    if base.endswith(".json"):
        runtime = Target(base, _load(Path(base)))
        return replace(runtime, threads=counts.get("threads", 1), batch=counts.get("batch", 1))
    _refuse_unknown(base)
    # When asked, not when imported: a plan may be for another machine.
    runtime = _this_machine() if base == DEFAULT_TARGET else _FIXED[base]
    return replace(runtime, threads=counts.get("threads", 1), batch=counts.get("batch", 1))


def check(name: str) -> None:
    """Refuse what ``get`` would refuse; which machine this is, is not asked, so that torch is not loaded.

    Raises:
        PlanError: There is no such target.

    Example:
        >>> check("onnxruntime-cpu?threads=2&batch=8")
    """
    base, _, query = name.partition("?")
    _counts(name, query)
    if base.endswith(".json"):
        _load(Path(base))
    else:
        _refuse_unknown(base)


def measurable(name: str) -> bool:
    """Whether a target is this machine.

    Example:
        >>> measurable("onnxruntime-cpu?threads=2"), measurable("any")
        (True, False)
    """
    return name.partition("?")[0] == DEFAULT_TARGET


def _refuse_unknown(base: str) -> None:
    if base != DEFAULT_TARGET and base not in _FIXED:
        raise PlanError(
            f"there is no target '{base}'",
            advice=f"choose from {', '.join(names())}, or a file of `fxprune calibrate`",
        )


def _counts(name: str, query: str) -> dict[str, int]:
    """Threads and batch."""
    counts = {}
    for part in query.split("&") if query else ():
        key, _, value = part.partition("=")
        if key not in ("threads", "batch") or not value.isdecimal() or not int(value[:_DIGITS]) > 0:
            raise PlanError(
                f"'{part}' in target '{name}' is neither threads=N nor batch=N",
                advice="write onnxruntime-cpu?threads=2&batch=8",
            )
        counts[key] = int(value[:_DIGITS])
    return counts


def names() -> tuple[str, ...]:
    """The known targets."""
    return (DEFAULT_TARGET, *_FIXED)


def _this_machine() -> Target:
    import torch  # only this asks it anything, and what names there are is asked on a command line

    wide = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return Target(DEFAULT_TARGET, (_AVX512 if wide else _AVX2).facts, measurable=True)


_AVX512 = Target("onnxruntime-cpu-avx512", _BLOCKS_OF_16)
_AVX2 = Target("onnxruntime-cpu-avx2", _BLOCKS_OF_8)
_ANY = Target("any", Facts(block=1))

_FIXED: Mapping[str, Target] = {target.name: target for target in (_AVX512, _AVX2, _ANY)}
