"""Texts of ``--input`` as what they say: shape, dtype, range of values, name of the argument, or a file.

Nothing here needs torch, so that a text that says nothing is refused before torch is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import psutil

from fxprune.errors import FxpruneError
from fxprune.support.reading import regular_file, shown

__all__ = ["DTYPES", "FORMS", "Dtype", "InputSpec", "check_specs", "input_file", "parse_specs"]

FORMS = "write 1x3x224x224, 1x128:int64, 1x128:int64:0..30521, name=1x128:int64, or an .npz or .pt file"
_SPEC = re.compile(
    r"(?:(?P<name>[A-Za-z_]\w*)=)?"
    r"(?P<shape>\d+(?:[x,]\d+)*)"
    r"(?::(?P<dtype>[a-z]+\d*))?"
    r"(?::(?P<low>-?[\d.]+?)\.\.(?P<high>-?[\d.]+))?"
)
_FILES = (".npz", ".npy", ".pt", ".pth")
_DIGITS, _DIMENSIONS = 18, 64  # of a size, and most dimensions a tensor can have
_LARGEST = 2.0**62


@dataclass(frozen=True)
class Dtype:
    """A type of numbers.

    Attributes:
        name: As torch calls it.
        itemsize: Bytes of a number.
        low: The smallest finite value.
        high: The largest one.
        decimal: It holds fractions.
    """

    name: str
    itemsize: int
    low: float
    high: float
    decimal: bool = False


def _decimal(name: str, itemsize: int, high: float) -> Dtype:
    return Dtype(name, itemsize, -high, high, decimal=True)


def _signed(bits: int) -> Dtype:
    return Dtype(f"int{bits}", bits // 8, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


_ALL = (
    _decimal("float32", 4, (2 - 2.0**-23) * 2.0**127),
    _decimal("float64", 8, (2 - 2.0**-52) * 2.0**1023),
    _decimal("float16", 2, 65504.0),
    _decimal("bfloat16", 2, (2 - 2.0**-7) * 2.0**127),
    *(_signed(bits) for bits in (64, 32, 16, 8)),
    Dtype("uint8", 1, 0, 255),
    Dtype("bool", 1, 0, 1),
)
_OTHER_NAMES = {"float": "float32", "double": "float64", "half": "float16", "long": "int64", "int": "int32"}
_BY_NAME = {dtype.name: dtype for dtype in _ALL}

DTYPES: Mapping[str, Dtype] = {**_BY_NAME, **{name: _BY_NAME[of] for name, of in _OTHER_NAMES.items()}}
"""By every name that a text may give them."""


@dataclass(frozen=True)
class InputSpec:
    """One tensor to make up.

    Attributes:
        name: Of the argument; empty where its place says which.
        shape: Sizes.
        dtype: Type of its numbers.
        low: Smallest value, None where none was asked for.
        high: Largest value, likewise.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Dtype
    low: float | None
    high: float | None

    @staticmethod
    def parse(text: str) -> InputSpec:
        """What a text says.

        Raises:
            FxpruneError: Nothing, or what no tensor can be; or there is not the memory for it.

        Example:
            >>> spec = InputSpec.parse("ids=1x128:int64:0..30521")
            >>> spec.name, spec.shape, spec.dtype.name, spec.high
            ('ids', (1, 128), 'int64', 30521.0)
        """
        match = _SPEC.fullmatch(text.strip())
        if match is None:
            raise FxpruneError(f"--input '{shown(text)}' is not a shape or a file", advice=FORMS)
        sizes = re.split("[x,]", match["shape"])
        if max(map(len, sizes)) > _DIGITS or len(sizes) > _DIMENSIONS:
            raise FxpruneError(f"--input '{shown(text)}' is too large to be a shape", advice=FORMS)
        shape = tuple(map(int, sizes))
        if 0 in shape:
            raise FxpruneError(f"--input '{text}' has a dimension of size 0", advice=FORMS)
        if match["dtype"] and match["dtype"] not in DTYPES:
            raise FxpruneError(
                f"--input '{text}': no dtype '{match['dtype']}'", advice=f"choose from {', '.join(DTYPES)}"
            )
        dtype = DTYPES[match["dtype"] or "float32"]
        # Numbers are drawn as float32 or int64 before they get their own dtype.
        needed, free = prod(shape) * (8 + dtype.itemsize), psutil.virtual_memory().available
        if needed > free:
            raise FxpruneError(
                f"--input '{shown(text)}' takes {needed / 2**30:,.1f} GiB, and {free / 2**30:,.1f} are free",
                advice="give a smaller shape",
            )
        low, high = _range(match["low"], match["high"], dtype, shown(text))
        return InputSpec(match["name"] or "", shape, dtype, low, high)


def input_file(specs: Sequence[str]) -> Path | None:
    """The file that holds all the arguments; None where they are texts.

    Raises:
        FxpruneError: There is more beside a file.
    """
    files = [spec for spec in specs if Path(spec).suffix in _FILES]
    if files and len(specs) > 1:
        raise FxpruneError(
            f"--input {files[0]} cannot be combined with other --input",
            advice="a file holds all the arguments; put them into one .npz",
        )
    return Path(files[0]) if files else None


def parse_specs(specs: Sequence[str]) -> tuple[InputSpec, ...]:
    """What texts say, one an argument.

    Raises:
        FxpruneError: One cannot be read, or they do not go together.
    """
    parsed = tuple(map(InputSpec.parse, specs))
    named = [spec for spec in parsed if spec.name]
    if named and len(named) < len(parsed):
        raise FxpruneError(
            "some --input have a name and some have not",
            advice="name all of them (input_ids=1x128:int64) or none",
        )
    if len({spec.name for spec in named}) < len(named):
        raise FxpruneError("two --input have one name", advice="name every argument once")
    return parsed


def check_specs(specs: Sequence[str]) -> None:
    """Refuse what ``example_inputs`` would refuse of the texts alone.

    Raises:
        FxpruneError: A text cannot be read, or there is no such file.
    """
    file = input_file(specs)
    if file is None:
        parse_specs(specs)
    else:
        regular_file(file)


def _range(low: str | None, high: str | None, dtype: Dtype, text: str) -> tuple[float | None, float | None]:
    """Bounds of the values to draw, None where none were asked for."""
    if low is None or high is None:
        return None, None
    try:
        bounds = float(low), float(high)
    except ValueError as error:
        raise FxpruneError(f"--input '{text}': the range is not low..high", advice=FORMS) from error
    if bounds[0] > bounds[1]:
        raise FxpruneError(f"--input '{text}': the range is empty", advice=FORMS)
    if dtype.name == "bool":
        raise FxpruneError(f"--input '{text}': truth values have no range", advice=FORMS)
    whole = dtype.decimal or all(bound.is_integer() for bound in bounds)
    # One below the largest integer: the end of a range is not drawn.
    if not (whole and dtype.low <= bounds[0] and bounds[1] <= min(dtype.high, _LARGEST)):
        raise FxpruneError(f"--input '{text}': {dtype.name} does not hold this range", advice=FORMS)
    return bounds
