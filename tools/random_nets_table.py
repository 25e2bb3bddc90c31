"""What random nets have shown so far: a compact file that later runs add to, and the page of tables made from it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["COLUMNS", "FAILED", "Record", "page"]

COLUMNS = (
    "seed",
    "verdict",
    "plans",
    "modules",
    "units",
    "free",
    "judged",
    "seconds",
    "engine",
    "at",
    "said",
)
"""Of a compact row; ``at`` is when it was tried in seconds (a running number in the first ones), ``said`` is left out for what is right."""

FAILED = ("wrong", "crashed")

FOUND = (
    (
        "what works across the rows of a view (softmax, norms, sums)",
        "tests/coupling/test_rows.py::test_across_rows",
    ),
    ("rows that keep different cells", "tests/coupling/test_rows.py::test_rows_keep_different_cells"),
    ("rows that meet data", "tests/coupling/test_rows.py::test_rows_that_are_data"),
    (
        "channels that two layouts divide in two ways",
        "tests/coupling/test_rows.py::test_two_layouts_of_the_same_channels",
    ),
    (
        "an unbiased spread, or a squeezed axis, of one channel",
        "tests/planning/test_needs.py::test_a_plan_leaves_what_an_operator_needs",
    ),
    (
        "a single position picked by an index",
        "tests/coupling/test_rows.py::test_a_single_position_stays_the_one_that_was_picked",
    ),
    (
        "views that copy under the mask oracle",
        "tests/proof/test_masked.py::test_a_view_that_must_copy_keeps_what_is_gone",
    ),
    (
        "layers whose result nobody reads",
        "tests/graph/test_trace.py::test_what_nobody_reads_runs_on_what_is_left",
    ),
    (
        "a copy of the module that stumbles over code whose result nobody reads",
        "tests/graph/test_trace.py::test_code_that_does_not_run_on_what_is_left_is_no_module",
    ),
    (
        "a softmax over nothing, in the oracle of the graph",
        "tests/coupling/test_rows.py::test_a_softmax_over_nothing_does_not_outlast_its_product",
    ),
    (
        "constants around or in a channel that goes, in the mask oracle",
        "tests/proof/test_masked.py::test_literals_go_with_the_channel_that_they_stand_in",
    ),
    (
        "a copy of the module that is right on the example only",
        "tests/slimming/test_sameness.py::test_what_one_example_hides_another_shows",
    ),
    ("`torch.no_grad` in graphs that train", "tests/graph/test_trace.py::test_no_grad_holds_in_a_graph"),
    (
        "a product of everything with everything under a budget",
        "tests/planning/test_plan.py::test_a_square_loses_rows_and_columns_and_the_budget_is_met",
    ),
    (
        "a median over what is left, and numbers written in place where a channel is gone, in the mask oracle",
        "tests/proof/test_masked.py::test_statistics_run_over_what_is_left",
    ),
    (
        "padding that only a later layer reads, counted before it",
        "tests/testing/test_probes.py::test_arbitrary_channels",
    ),
    (
        "rows of one layout that are columns of another, under a budget",
        "tests/planning/test_plan.py::test_rows_of_one_layout_are_columns_of_another",
    ),
    (
        "weights so small that attention is a mean: a wrong scale of its logits did not show",
        "tests/slimming/test_sameness.py::test_what_is_small_on_the_example_is_compared",
    ),
    (
        "a copy of the module that is right and does more than was planned",
        "tests/slimming/test_sameness.py::test_a_copy_that_does_more_than_was_planned_is_not_taken",
    ),
    (
        "plans by hand of recorded models, whose code makes numbers of widths",
        "tests/slimming/test_rehearsal.py::test_a_plan_by_hand_is_rehearsed_before_it_is_applied",
    ),
    (
        "an index of a slim graph, in whose place its second slim took the first one's",
        "tests/slimming/test_slim_graph.py::test_a_second_slim_has_indices_of_its_own",
    ),
    (
        "padding that is ranked before a depthwise layer makes something of it",
        "tests/coupling/test_padding.py::test_padding_stays_where_it_is_counted_before_a_layer_makes_something_of_it",
    ),
    ("more reasons to stay than units", "tests/coupling/test_padding.py::test_more_reasons_than_units"),
    (
        "a conversion of types that is a copy, in the oracle of the graph",
        "tests/proof/test_verify_kinds.py::test_a_conversion_in_the_code_is_a_copy",
    ),
    (
        "a row overwritten in every channel of which one is gone, in the mask oracle",
        "tests/proof/test_masked.py::test_what_is_overwritten_stays_where_it_is_left",
    ),
    (
        "literals beside channels that are gone elsewhere, in the mask oracle",
        "tests/proof/test_masked.py::test_a_line_of_which_only_literals_are_left_is_in_doubt",
    ),
    (
        "a copy of a recorded model that would pick other channels of as many",
        "tests/slimming/test_rehearsal.py::test_a_copy_that_would_pick_other_channels_is_refused",
    ),
    (
        "products with a tensor that no layer owns, in the oracle of recorded models",
        "tests/proof/test_verify_kinds.py::test_recorded_models_with_parameters_of_their_own",
    ),
)
"""Kinds of faults that random nets showed, and the test that each became."""

Row = Mapping[str, object]
Compact = dict[str, object]


@dataclass
class Record:
    """What the file holds.

    Attributes:
        rows: The newest row of every seed.
        totals: For each state of the engine how many nets it tried, units that may not go by reason, and refusals.
    """

    rows: dict[int, Compact] = field(default_factory=dict)
    totals: dict[str, dict[str, Counter[str]]] = field(default_factory=dict)

    @staticmethod
    def read(path: Path) -> Record:
        """The record of a file; an empty one if there is none."""
        record = Record()
        for line in path.read_text("utf-8").splitlines() if path.exists() else ():
            entry = json.loads(line)
            if isinstance(entry, list):
                row = dict(zip(COLUMNS, entry, strict=False))
                record.rows[int(row["seed"])] = row
            else:
                engine = entry.pop("engine")
                record.totals[engine] = {name: Counter(counts) for name, counts in entry.items()}
        return record

    def write(self, path: Path) -> None:
        """Rows by seed, then the totals."""
        rows = [[row[name] for name in COLUMNS if name in row] for _, row in sorted(self.rows.items())]
        totals = [
            {"engine": engine, **{name: dict(counts.most_common()) for name, counts in counters.items()}}
            for engine, counters in self.totals.items()
        ]
        lines = (json.dumps(entry, separators=(",", ":")) for entry in (*rows, *totals))
        path.write_text("".join(f"{line}\n" for line in lines), "utf-8")

    def add(self, rows: Iterable[Row]) -> None:
        """Take complete rows of a sweep; those that are known already, or older than what is known, change nothing."""
        for row in rows:
            compact = _compact(row)
            seed = int(str(row["seed"]))
            known = self.rows.get(seed)
            if known is not None and int(str(known["at"])) >= int(str(row["at"])):
                continue
            self.rows[seed] = compact
            totals = self.totals.setdefault(str(row["engine"]), {})
            totals.setdefault("nets", Counter())["tried"] += 1
            totals.setdefault("pinned", Counter()).update(row["pinned"])  # type: ignore[call-overload]
            totals.setdefault("refused", Counter()).update(_said(row, ("refused",)))

    def total(self, name: str) -> Counter[str]:
        """The counts of all engines together."""
        return sum((counters.get(name, Counter()) for counters in self.totals.values()), Counter())


def _compact(row: Row) -> Compact:
    judged = row["judged"]
    said = "; ".join(_said(row, FAILED))[:60]
    short = {"judged": None if judged is None else round(float(str(judged)), 3), "said": said}
    compact = {name: short[name] if name in short else row[name] for name in COLUMNS}
    return compact if said else {name: value for name, value in compact.items() if name != "said"}


def _said(row: Row, verdicts: Sequence[str]) -> dict[str, int]:
    """Findings of some verdicts; the same one counts once a net."""
    findings = row["findings"]
    assert isinstance(findings, list)
    return dict.fromkeys((f"{stage}: {what}" for stage, _, v, what in findings if v in verdicts), 1)


# --- the page ----------------------------------------------------------------------------------


def page(record: Record, kinds: int, machine: str, engine: str) -> str:
    """Everything as Markdown.

    Args:
        record: What was found.
        kinds: Number of kinds of statements.
        machine: On which it was measured.
        engine: The state of the engine now.
    """
    rows = list(record.rows.values())
    total = {name: sum(int(str(row[name])) for row in rows) for name in ("plans", "modules", "units", "free")}
    judged = [float(str(row["judged"])) for row in rows if row["judged"] is not None]
    seconds = sum(float(str(row["seconds"])) for row in rows)
    states = Counter(str(row["engine"]) for row in rows)
    verdicts = Counter(str(row["verdict"]) for row in rows)
    return "\n".join(
        [
            "# Random nets",
            "",
            f"`python tools/random_nets.py --seeds 0:10000` adds to this; last on {machine}.",
            "",
            f"{len(rows)} nets (seeds {min(record.rows)} to {max(record.rows)}) of {kinds} kinds of statements, "
            f"{total['plans']} plans, {seconds / len(rows):.2f} s a net of one core.",
            "",
            "| nets | |",
            "|---|---|",
            *(f"| {v} | {verdicts[v]} |" for v in ("right", "refused", *FAILED)),
            "",
            "Right: both oracles agree with every plan's slim model, its cost is the predicted one, and by turns of the "
            "seeds the first plan's model equals the other kind of slim model, at another batch size and in training "
            "too, comes back from a file, or is pruned again. Refused: no plan was possible.",
            "",
            f"{total['modules']} of {total['plans']} slim models are copies of the user's module, the others graphs. The "
            f"oracle that knows no rules judged {sum(judged) / max(len(judged), 1):.1%} of the outputs. "
            f"{total['free']} of {total['units']} units may go ({total['free'] / max(total['units'], 1):.1%}; points of "
            "kernels apart).",
            "",
            "## States of the engine",
            "",
            "The newest row of every seed counts, and says what was so in the state of the engine that it names. What was "
            "wrong or crashed has been tried again in a state that came after.",
            "",
            "| engine | nets |",
            "|---|---|",
            *(
                f"| {e}{' (this one)' if e == engine else ''} | {n} ({n / len(rows):.1%}) |"
                for e, n in states.items()
            ),
            *_table(
                "Wrong or crashed", "stage", Counter(str(row["said"]) for row in rows if row.get("said")), 0
            ),
            "",
            "## Faults found, and the tests that they became",
            "",
            f"{len(FOUND)} kinds so far.",
            "",
            "| kind | test |",
            "|---|---|",
            *(f"| {kind} | `{test}` |" for kind, test in FOUND),
            *_table(
                "Units that may not go", "reason", record.total("pinned"), record.total("pinned").total()
            ),
            *_table("Refused", "stage and reason", record.total("refused"), 0),
            "",
        ]
    )


def _table(title: str, what: str, counts: Counter[str], whole: int) -> list[str]:
    if not counts:
        return []
    rows = [
        f"| {said.replace('|', '/')} | {count}{f' ({count / whole:.1%})' if whole else ''} |"
        for said, count in counts.most_common(30)
    ]
    rest = sum(count for _, count in counts.most_common()[30:])
    rows += [f"| others | {rest} |"] if rest else []
    return ["", f"## {title}", "", f"| {what} | |", "|---|---|", *rows]
