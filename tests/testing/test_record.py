"""What sweeps over random nets leave behind: small rows that add up, and a page that says what it is of."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest
from random_nets_table import FOUND, Record, page

ROOT = Path(__file__).resolve().parents[2]


def row(
    seed: int, verdict: str = "right", engine: str = "0123abcd", at: int = 1_800_000_000
) -> dict[str, object]:
    what = "# parameters, predicted #"
    return {
        "seed": seed,
        "verdict": verdict,
        "plans": 4,
        "modules": 3,
        "units": 1084,
        "free": 551,
        "pinned": {"meets data": 500, "looked up": 33},
        "judged": 0.98765432,
        "findings": [["plan", "random units", "refused", "stays rectangular"]]
        + ([] if verdict == "right" else [["cost", "blocks=auto", verdict, what]] * 2),
        "kinds": ["conv2d"],
        "seconds": 1.234,
        "engine": engine,
        "at": at,
    }


def test_rows_add_up_and_are_small(tmp_path: Path) -> None:
    path, record = tmp_path / "nets.jsonl", Record()
    record.add([row(9_999), row(3, "wrong")])
    record.write(path)
    assert max(map(len, path.read_text().splitlines()[:2])) <= 120
    again = Record.read(path)
    again.add([row(9_999), row(3, "wrong")])
    assert again == record, "known rows change nothing"
    again.add([row(3, engine="new", at=1_800_000_001), row(3, "crashed", engine="older", at=1_700_000_000)])
    assert again.rows[3]["verdict"] == "right"
    assert "said" not in again.rows[3]
    assert again.total("pinned") == Counter({"meets data": 1500, "looked up": 99})
    assert again.totals["new"]["nets"] == Counter({"tried": 1})


def test_the_page_names_the_engines(tmp_path: Path) -> None:
    record = Record()
    record.add([row(1, engine="old"), row(2, engine="new"), row(3, engine="new"), row(4, "crashed", "new")])
    text = page(record, 400, "a machine", "new")
    assert "| old | 1 (25.0%) |" in text
    assert "| new (this one) | 3 (75.0%) |" in text
    assert "| crashed | 1 |" in text
    assert "| cost: # parameters, predicted # | 1 |" in text
    assert "2204 of 4336 units may go (50.8%" in text


@pytest.mark.parametrize("test", [test for _, test in FOUND])
def test_every_fault_has_its_test(test: str) -> None:
    path, _, name = test.partition("::")
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
