"""A small seeded part of tools/fuzz_readers.py: damaged files are read or refused, and nothing else."""

from __future__ import annotations

import random
from pathlib import Path

import fuzz_readers
import pytest

READERS = {reader.name: reader for reader in fuzz_readers.readers()}


@pytest.fixture(scope="module", autouse=True)
def _recipe() -> None:
    fuzz_readers._RECIPE_FILE.write_text(fuzz_readers._RECIPE, encoding="utf-8")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
def test_reader(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    reader = READERS[name]
    seeds = random.Random(name).sample(range(1_000_000, 9_000_000), 8 if reader.share < 0.5 else 60)
    found = [(n, fuzz_readers.judge(reader, fuzz_readers.damaged(reader, 0, n), tmp_path)) for n in seeds]
    assert [pair for pair in found if pair[1] not in ("read", "refused")] == []
    if name != "program (pt2)":
        assert fuzz_readers.judge(reader, reader.valid, tmp_path) == "read"


def test_the_judge_can_find(tmp_path: Path) -> None:
    def fails(path: Path) -> object:
        return {}[path]

    bad = fuzz_readers.Reader("bad", b"x", fails)
    assert fuzz_readers.judge(bad, b"x", tmp_path).startswith("KeyError")
    counts, found, _ = fuzz_readers.block(bad, 0, range(3))
    assert counts["found"] == 3 and sorted(found) == [0, 1, 2]
