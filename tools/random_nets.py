"""Random nets by the thousand: ``python tools/random_nets.py --seeds 0:10000 --jobs 2``.

Every net is written from a seed, pruned in several ways and checked (``fxprune.testing``).  Rows go into
``out/random_nets/rows.jsonl`` one by one: the command may be stopped at any moment and goes on where it was.  At its
end, or with ``--table``, they are added to ``tools/results/random_nets.jsonl``, from which ``tools/results/RANDOM_NETS.md`` is
made; seeds that have a row there are not tried again, unless with ``--anew`` their row is of another engine.  With
``--shrink`` failing nets are made small (a minute each) and written to ``out/random_nets/corpus``, from where
``--corpus`` tries them again.

    python tools/random_nets.py --seeds 0:500            # sweep, then the table
    python tools/random_nets.py --again --shrink         # only the seeds that were wrong or crashed so far
    python tools/random_nets.py --corpus out/random_nets/corpus
    python tools/random_nets.py --show 17                # one net: its source and what came of it
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from random_nets_table import FAILED, Record, page

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "out" / "random_nets"
ROWS = FOLDER / "rows.jsonl"
RESULTS = ROOT / "tools" / "results" / "random_nets.jsonl"
PAGE = ROOT / "tools" / "results" / "RANDOM_NETS.md"
LIMIT_S = 120
"""Seconds for one net; beyond, it counts as crashed."""

CHUNK = 8
"""Seeds that a process takes at once."""

Row = dict[str, object]


class TooLong(Exception):
    """A net took more than its time."""


def digest(*folders: str) -> str:
    """Of the source that a verdict depends on."""
    found = hashlib.sha256()
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            found.update(path.read_bytes())
    return found.hexdigest()[:8]


def _prepare() -> None:
    import torch
    import torchvision  # noqa: F401 - some rules are for its operators

    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, _too_long)


def _too_long(*_: object) -> None:
    raise TooLong(f"more than {LIMIT_S} s")


# --- one net -----------------------------------------------------------------------------------


def try_seed(seed: int, *, small: bool, folder: Path) -> Row:
    """Check the net of a seed; what fails is made small and written down."""
    from fxprune.testing import check, random_net, shrink

    began = time.process_time()
    net = random_net(seed)
    signal.alarm(LIMIT_S)
    try:
        report = check(net)
    finally:
        signal.alarm(0)
    bad = {f.what: f for f in report.findings if f.verdict in FAILED}
    for number, finding in enumerate(bad.values()) if small else ():
        folder.mkdir(parents=True, exist_ok=True)
        text = shrink(net, finding, tries=60).text
        (folder / f"seed_{seed}{'abcdefgh'[number % 8]}.py").write_text(text, "utf-8")
    return {
        "seed": seed,
        "verdict": report.verdict,
        "plans": report.plans,
        "modules": report.modules,
        "units": report.units,
        "free": report.free,
        "pinned": dict(report.pinned),
        "judged": sum(report.judged) / len(report.judged) if report.judged else None,
        "findings": [[f.stage, f.how, f.verdict, f.what] for f in report.findings],
        "kinds": list(report.kinds),
        "seconds": round(time.process_time() - began, 3),
        "at": int(time.time()),
    }


def _chunk(seeds: Sequence[int], small: bool, folder: str) -> list[Row]:
    return [try_seed(seed, small=small, folder=Path(folder)) for seed in seeds]


def sweep(seeds: Sequence[int], jobs: int, *, small: bool) -> None:
    """Try every seed that has no row yet and write its row."""
    engine = digest("fxprune")
    FOLDER.mkdir(parents=True, exist_ok=True)
    chunks = [seeds[k : k + CHUNK] for k in range(0, len(seeds), CHUNK)]
    with ROWS.open("a", encoding="utf-8") as file:
        for done in _results(chunks, jobs, small):
            for row in done:
                row["engine"] = engine
                file.write(json.dumps(row) + "\n")
                if row["verdict"] in FAILED:
                    print(row["seed"], row["verdict"], _worst(row), flush=True)
            file.flush()


def _worst(row: Row) -> str:
    findings = row["findings"]
    assert isinstance(findings, list)
    return "; ".join(dict.fromkeys(f"{stage}: {what}" for stage, _, v, what in findings if v != "refused"))


def _results(chunks: Sequence[Sequence[int]], jobs: int, small: bool) -> Iterator[list[Row]]:
    folder = str(FOLDER / "corpus")
    if jobs == 1:
        _prepare()
        yield from (_chunk([seed], small, folder) for chunk in chunks for seed in chunk)
        return
    with ProcessPoolExecutor(jobs, initializer=_prepare) as pool:
        yield from pool.map(_chunk, chunks, [small] * len(chunks), [folder] * len(chunks))


def known(paths: Sequence[Path]) -> Record:
    """What the results hold, with the rows of sweeps."""
    record = Record.read(RESULTS)
    for path in paths:
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        record.add(
            json.loads(line) for line in lines if line.endswith("}")
        )  # a kill may have cut the last one
    return record


# --- the corpus --------------------------------------------------------------------------------


def try_corpus(folder: Path) -> int:
    """Check nets that failed once; returns how many still do."""
    from fxprune.testing import check, from_source

    _prepare()
    failing = 0
    for path in sorted(folder.glob("*.py")):
        net = from_source(path.read_text("utf-8"), name=path.name)
        report = check(net, removal=_removed(net.source), onnx=False)
        plans = report if report.verdict in FAILED else check(net, onnx=False)
        failing += plans.verdict in FAILED
        said = next((f.said for f in plans.findings), "").splitlines()
        print(f"{path.name:28} {plans.verdict:8} {said[0][:100] if said else ''}", flush=True)
    return failing


def _removed(source: str) -> dict[tuple[str, int], list[int]] | None:
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "REMOVED":
            removal: dict[tuple[str, int], list[int]] = ast.literal_eval(node.value)
            return removal or None
    return None


# --- the command -------------------------------------------------------------------------------


def show(seed: int) -> int:
    """Print one net and its report."""
    from fxprune.testing import check, random_net

    _prepare()
    net = random_net(seed)
    print(net.source)
    report = check(net)
    print(f"# {report.verdict}: {report.plans} plans, {report.free} of {report.units} units free")
    for finding in report.findings:
        print(
            f"# {finding.stage}, {finding.how}: {finding.verdict}\n#   "
            + finding.said.replace("\n", "\n#   ")
        )
    return int(report.verdict in FAILED)


def main() -> int:
    """Parse the command and run it; 1 if anything is wrong or crashed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="0:100", help="A:B, B left out")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--anew", action="store_true", help="rows of earlier engines do not count")
    parser.add_argument(
        "--again", action="store_true", help="only seeds that failed when they were last tried"
    )
    parser.add_argument("--shrink", action="store_true", help="make failing nets small and keep them")
    parser.add_argument("--table", action="store_true", help="only write results and table")
    parser.add_argument("--rows", type=Path, action="append", default=[], help="rows of a sweep elsewhere")
    parser.add_argument("--corpus", type=Path, help="try the nets of a folder")
    parser.add_argument("--show", type=int, help="print the net of one seed and its report")
    options = parser.parse_args()
    if options.show is not None:
        return show(options.show)
    if options.corpus is not None:
        return int(try_corpus(options.corpus) > 0)
    if not options.table:
        sweep(_wanted(options, known([ROWS, *options.rows])), options.jobs, small=options.shrink)
    return _conclude(known([ROWS, *options.rows]))


def _wanted(options: argparse.Namespace, record: Record) -> list[int]:
    """Seeds that are to be tried."""
    if options.again:
        return [seed for seed, row in record.rows.items() if row["verdict"] in FAILED]
    first, _, last = options.seeds.partition(":")
    engine = digest("fxprune")
    done = {s for s, row in record.rows.items() if not options.anew or row["engine"] == engine}
    return [seed for seed in range(int(first), int(last)) if seed not in done]


def _conclude(record: Record) -> int:
    """Write results and table; 1 if anything is wrong or crashed."""
    from machine_note import machine_note

    from fxprune.testing.nets.statements import STATEMENTS

    if record.rows:
        record.write(RESULTS)
        PAGE.write_text(page(record, len(STATEMENTS), machine_note(), digest("fxprune")), "utf-8")
    verdicts = Counter(str(row["verdict"]) for row in record.rows.values())
    print(f"{dict(verdicts)}; {PAGE}")
    return int(any(verdicts[v] for v in FAILED))


if __name__ == "__main__":
    sys.exit(main())
