"""The mutation test: break the engine on purpose, one fault at a time, and see who notices.

    python tools/mutate.py                    # every fault, into tools/results/MUTATION.md
    python tools/mutate.py --only pad roll    # faults whose family or name holds one of the words
    python tools/mutate.py --oracle masks     # slim models are proved by the second oracle alone, rules are believed

A fault counts as caught where the library itself stops: its proof fails (``verify``), or an earlier step
refuses or breaks down (``engine``).  Where only a law or an expectation of the tests notices, the table says so (``laws``).
Some faults are made from the table of rules (``fxprune.testing.mutation``), the others are written by hand in
``tests/testing/faults``.  The command may
be stopped at any moment and goes on where it was; ``--anew`` begins again.  Verdicts of earlier states of the engine stay until
their faults are tried again, and the page counts them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

import torch
import torchvision  # noqa: F401 - some rules are for its operators
from machine_note import machine_note

from fxprune.proof.compare import OracleName
from fxprune.testing.mutation.verdict import verdict

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "tools" / "results"
PROVED: Mapping[str, tuple[OracleName, ...]] = {
    "both": ("graph", "masks"),
    "masks": ("masks",),
    "graph": ("graph",),
}
FIRST, ALL = 8, 500
"""Networks that are tried at once, and those for a fault that these did not show."""

BESIDE = {"cost", "scaling"}
"""Parts that no slice depends on: predicted costs, and GAL's factors folded into weights after training."""

TITLES = {
    "both": "Both oracles",
    "masks": "The second oracle alone (`--oracle masks`)",
    "graph": "The first oracle alone (`--oracle graph`)",
}

ALONE = (
    "The walk believes every rule here: nobody compares shapes or keeps account of labels before a slim model is made. "
    "An earlier step counts only where the proof caught the fault on no other network."
)

WHO = ("verify", "engine", "laws", "nothing")
Row = dict[str, object]


def _digest() -> str:
    """Of the engine and the faults: verdicts of another one do not count."""
    found = hashlib.sha256()
    for folder in (ROOT / "fxprune", ROOT / "tests" / "testing"):
        for path in sorted(folder.rglob("*.py")):
            found.update(path.read_bytes())
    return found.hexdigest()[:12]


def _known(path: Path) -> dict[str, Row]:
    """Verdicts of earlier runs, of whatever state of the engine."""
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines]
    return {str(row["name"]): row for row in rows}


def _rows_of(folder: Path, oracle: str) -> Path:
    return folder / ("mutation.jsonl" if oracle == "both" else f"mutation_{oracle}.jsonl")


def _section(oracle: str, rows: Sequence[Mapping[str, object]], digest: str) -> list[str]:
    """The table by family, and every fault that the library did not notice."""
    earlier = sum(r["digest"] != digest for r in rows)
    counts = Counter((str(r["family"]), str(r["by"])) for r in rows)
    totals = Counter(str(r["by"]) for r in rows)
    caught = totals["verify"] + totals["engine"]
    noticed = caught + totals["laws"]
    families = sorted({str(r["family"]) for r in rows})
    about = [r for r in rows if r["family"] not in BESIDE]
    judged = [r for r in about if r["by"] != "engine"]
    proved = sum(r["by"] == "verify" for r in about)
    stopped = proved + len(about) - len(judged)
    lines = [
        f"## {TITLES[oracle]}",
        "",
        *([] if oracle == "both" else [ALONE, ""]),
        *(
            [f"{earlier} of {len(rows)} verdicts are of earlier states of the engine and its proof.", ""]
            if earlier
            else []
        ),
        f"{len(rows)} seeded faults. The library itself caught {caught} ({caught / max(len(rows), 1):.1%}), "
        f"its laws and expected results {totals['laws']} more: {noticed / max(len(rows), 1):.1%}. "
        f"{totals['nothing']} survived.",
        "",
        f"Of the {len(about)} faults that can make a slice wrong (all but those in {' and '.join(sorted(BESIDE))}, "
        f"which no slice depends on) the library itself caught {stopped}: {stopped / max(len(about), 1):.1%}. "
        f"With {len(about) - len(judged)} an earlier step refuses or breaks down before there is a slim model to judge; "
        f"of the other {len(judged)} the proof caught {proved}: {proved / max(len(judged), 1):.1%}.",
        "",
        "| part of the engine | faults | caught by the proof | by an earlier step | only by laws | survived |",
        "|" + "---|" * 6,
        *(
            f"| {f} | {sum(counts[f, w] for w in WHO)} | " + " | ".join(str(counts[f, w]) for w in WHO) + " |"
            for f in families
        ),
        f"| **all** | {len(rows)} | " + " | ".join(str(totals[w]) for w in WHO) + " |",
    ]
    for title, who in (("Survivors", "nothing"), ("Noticed by laws only", "laws")):
        its = [r for r in rows if r["by"] == who]
        lines += ["", f"### {title}", "", "| fault | what is wrong | why |", "|---|---|---|"] if its else []
        lines += [
            f"| {_as_code(str(r['name']))} | {r['broken']} | {r['why'] or r['how']} |".replace("\n", " ")
            for r in its
        ]
    return [*lines, ""]


def _page(folder: Path, names: Sequence[str], digest: str) -> str:
    """A section for every choice of oracles of which there are rows."""
    lines = ["# Mutation test", "", f"`python tools/mutate.py` wrote this: {machine_note()}.", ""]
    for oracle in PROVED:
        path = _rows_of(folder, oracle)
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
        by_name = {str(row["name"]): row for row in rows}
        found = [by_name[n] for n in names if n in by_name]
        lines += _section(oracle, found, digest) if found else []
    return "\n".join(lines).rstrip() + "\n"


def _as_code(name: str) -> str:
    """An operator's name as code: pages take ``:eye:`` for a picture."""
    return re.sub(r"[a-z_]+::\w+", lambda op: f"`{op.group()}`", name)


def main() -> int:
    """Try the faults, write rows and page; 1 if fewer than 95 % are noticed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", default=[], metavar="WORD", help="faults that hold one of these")
    parser.add_argument("--anew", action="store_true", help="forget verdicts that are there")
    parser.add_argument("--oracle", choices=PROVED, default="both", help="who proves slim models")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="folder of rows and page (default: %(default)s)"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    sys.path.insert(0, str(ROOT / "tests"))
    table, subjects = (
        import_module("testing.faults.mutants"),
        import_module("testing.faults.networks").subjects(),
    )
    faults = table.mutants()
    alone = table.ALONE if given.oracle == "masks" else {}
    chosen = [m for m in faults if not given.only or any(w in f"{m.family} {m.name}" for w in given.only)]
    digest = _digest()
    path = _rows_of(given.out, given.oracle)
    path.parent.mkdir(parents=True, exist_ok=True)
    known = {} if given.anew else _known(path)
    rows = {m.name: known[m.name] for m in faults if m.name in known}
    todo = [m for m in chosen if rows.get(m.name, {}).get("digest") != digest]
    print(f"{len(chosen)} faults, {len(todo)} to try, rows in {path}", flush=True)
    oracles = PROVED[given.oracle]
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows.values())
        for number, fault in enumerate(todo, 1):
            found = verdict(fault, subjects, most=FIRST, oracles=oracles)
            explained = fault.why or alone.get(fault.name, "")
            if found.by in ("laws", "nothing") and not explained:
                found = verdict(fault, subjects, most=ALL, oracles=oracles)
            rows[fault.name] = row = {
                "name": fault.name,
                "family": fault.family,
                "broken": fault.broken,
                "by": found.by,
                "net": found.net,
                "how": found.how,
                "seconds": round(found.seconds, 2),
                "why": explained,
                "digest": digest,
            }
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(
                f"[{number}/{len(todo)}] {found.by:8} {fault.family}: {fault.name}  {found.how[:90]}",
                flush=True,
            )
    kept = [rows[m.name] for m in faults if m.name in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in kept), "utf-8")
    page = given.out / "MUTATION.md"
    page.write_text(_page(given.out, [m.name for m in faults], digest), "utf-8")
    unnoticed = sum(r["by"] == "nothing" for r in kept)
    print(f"{len(kept) - unnoticed} of {len(kept)} faults noticed; {page}")
    return int(unnoticed > 0.05 * len(kept))


if __name__ == "__main__":
    sys.exit(main())
