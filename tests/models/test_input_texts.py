"""Texts of ``--input`` know torch's types of numbers without torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fxprune.errors import FxpruneError
from fxprune.models.input_texts import DTYPES, InputSpec, check_specs, input_file


@pytest.mark.parametrize("name", DTYPES)
def test_dtypes_are_torchs(name: str) -> None:
    """Under torch's name and its other one; size, smallest and largest value."""
    known, torchs = DTYPES[name], getattr(torch, name)
    assert getattr(torch, known.name) is torchs
    assert known.itemsize == torchs.itemsize
    assert known.decimal == torchs.is_floating_point
    if torchs != torch.bool:
        info = torch.finfo(torchs) if known.decimal else torch.iinfo(torchs)
        assert (known.low, known.high) == (info.min, info.max)


def test_ranges_end_where_the_type_does() -> None:
    assert InputSpec.parse("1x2:int8:-128..127").high == 127
    for text in ("1x2:int8:0..128", "1x2:uint8:-1..3", "1x2:float16:0..65505", "1x2:int64:0..0.5"):
        with pytest.raises(FxpruneError, match="does not hold this range"):
            InputSpec.parse(text)


def test_files_and_texts(tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    with pytest.raises(FxpruneError, match="there is no file"):
        check_specs([str(file)])
    file.write_bytes(b"")
    check_specs([str(file)])
    check_specs(["a=1x3", "b=1x4:int64"])
    assert input_file(["1x3"]) is None
    for texts, says in (
        (["1x3", str(file)], "cannot be combined"),
        (["a=1x3", "1x4"], "some --input have a name"),
        (["a=1x3", "a=1x4"], "two --input have one name"),
    ):
        with pytest.raises(FxpruneError, match=says):
            check_specs(texts)
