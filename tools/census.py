"""Census: every torchvision model through trace, couple, plan, slim and verify, one process a model.

``python tools/census.py`` measures what is not in ``tools/results/census.jsonl`` yet and writes ``tools/results/CENSUS.md``.
It may be stopped at any moment: finished models are kept, and the next call goes on.  One model of each
family of timm: ``python tools/census.py --kind timm --out tools/results/census_timm.jsonl`` (needs the ``peers`` extra).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path

from census_models import KINDS, TORCHVISION, case, names
from census_table import problems_of, table

__all__ = ["main"]

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "tools" / "results" / "census.jsonl"
WORKER = Path(__file__).with_name("census_measure.py")
TIMEOUT_S = 1800.0
TAIL = 400  # characters of a crashed process's last words that are kept

Row = dict[str, object]


# Parts of the package that no row depends on.
BESIDE = {"bench", "cli", "demo", "inspection", "regularizers", "report", "testing", "training"}


def engine_digest() -> str:
    """Digest of the engine's source: rows of another engine are recognised by it."""
    digest = hashlib.sha256()
    package = ROOT / "fxprune"
    for path in sorted(package.rglob("*.py")):
        if path.relative_to(package).parts[0].removesuffix(".py") not in BESIDE:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def chosen(kinds: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """Models of the kinds (torchvision's if none is named) whose names fit a pattern."""
    return [
        name
        for kind in kinds or TORCHVISION
        for name in names(kind)
        if not patterns or any(fnmatch(name, p) for p in patterns)
    ]


def read(path: Path) -> dict[str, Row]:
    """The newest row of every model in a file; a line cut short by a kill is skipped."""
    rows: dict[str, Row] = {}
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        rows[str(row["model"])] = row
    return rows


def measured(name: str, *, onnx: bool, timeout_s: float) -> Row:
    """The row of one model, from a process of its own."""
    command = [sys.executable, str(WORKER), name, *(["--onnx"] if onnx else [])]
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": paths}
    started = time.monotonic()
    failure = ""
    row: Row = {}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=environment)
        lines = done.stdout.strip().splitlines()
        try:
            row = json.loads(lines[-1]) if lines else {}
        except json.JSONDecodeError:
            row = {}
        if not row:
            failure = f"the process ended with {done.returncode}: {done.stderr.strip()[-TAIL:]}"
    except subprocess.TimeoutExpired:
        failure = f"no answer in {timeout_s:.0f} s"
    if failure:
        row = {"model": name, "kind": case(name).kind, "problems": [failure]}
    return {**row, "total_s": round(time.monotonic() - started, 1), "engine": engine_digest()}


def wanted(model_names: Iterable[str], rows: Mapping[str, Row], options: argparse.Namespace) -> list[str]:
    """Models that have no row yet, or one that the options ask to make anew."""
    engine = engine_digest()

    def stale(row: Row) -> bool:
        return (
            options.anew
            or (options.failed and bool(problems_of(row)))
            or (options.stale and row.get("engine") != engine)
            or (options.onnx and row["kind"] == "classification" and "onnx" not in row)
        )

    return [name for name in model_names if name not in rows or stale(rows[name])]


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--kind", nargs="*", default=[], choices=list(KINDS), help="only models of these kinds"
    )
    parser.add_argument(
        "--models", nargs="*", default=[], metavar="PATTERN", help="only names that fit, as resnet*"
    )
    parser.add_argument(
        "--out", type=Path, default=OUT, help="rows, one line of JSON each (default: %(default)s)"
    )
    parser.add_argument("--jobs", type=int, default=1, help="models at a time; each needs 1 to 12 GB")
    parser.add_argument("--timeout", type=float, default=TIMEOUT_S, metavar="S", help="seconds for one model")
    parser.add_argument("--onnx", action="store_true", help="export classification models too, and compare")
    parser.add_argument("--anew", action="store_true", help="measure models again that have a row")
    parser.add_argument("--failed", action="store_true", help="measure those again that had a problem")
    parser.add_argument(
        "--stale", action="store_true", help="measure those again whose row is of another engine"
    )
    parser.add_argument(
        "--table", action="store_true", help="only write the table of the rows that are there"
    )
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Measure, write rows and table; 1 if a model has a problem."""
    options = _arguments(given)
    out: Path = options.out
    out.parent.mkdir(parents=True, exist_ok=True)
    rows = read(out)
    asked = chosen(options.kind, options.models)
    todo = [] if options.table else wanted(asked, rows, options)
    print(f"{len(asked)} models, {len(todo)} to measure, rows in {out}", flush=True)
    with out.open("a", encoding="utf-8") as file, ThreadPoolExecutor(options.jobs) as pool:
        results = pool.map(lambda n: measured(n, onnx=options.onnx, timeout_s=options.timeout), todo)
        for number, row in enumerate(results, 1):
            file.write(json.dumps(row) + "\n")
            file.flush()
            rows[str(row["model"])] = row
            print(f"[{number}/{len(todo)}] {_line(row)}", flush=True)
    page = out.with_name(f"{out.stem.upper()}.md")
    page.write_text(table(list(rows.values())), "utf-8")
    bad = [name for name in asked if name not in rows or problems_of(rows[name])]
    print(f"{len(asked) - len(bad)} of {len(asked)} models without a problem; {page}")
    return int(bool(bad))


def _line(row: Row) -> str:
    """Progress: one model."""
    problems = problems_of(row)
    proof = row.get("uniform")
    error = f"error {proof['error']:.1e}" if isinstance(proof, dict) else ""
    state = "ok" if not problems else f"{len(problems)} problems: {'; '.join(problems)[:300]}"
    return f"{row['model']} ({row['total_s']} s) {error} {state}"


if __name__ == "__main__":
    sys.exit(main())
