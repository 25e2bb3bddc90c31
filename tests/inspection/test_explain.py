"""The dependency graph, its files, explanations and tables, on networks whose ties are known."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import networkx as nx
import pytest
import torch
from torch import nn

from fxprune.errors import FxpruneError, PlanError
from fxprune.graph.trace import Trace, trace
from fxprune.inspection.explain import dependency_graph, explain, group_table, width_table
from fxprune.inspection.graph_files import write_graph
from fxprune.plans import Cost, Plan


class _Residual(nn.Module):
    """stem -> relu -> (a -> bn -> relu -> b) + identity -> head; a's output is read by b only."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a = nn.Conv2d(8, 4, 1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.b = nn.Conv2d(4, 8, 1, bias=False)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = self.b(torch.relu(self.bn(self.a(x)))) + x  # the residual add
        return self.head(x.mean((2, 3)))


ADD_LINE = next(
    n for n, line in enumerate(Path(__file__).read_text().splitlines(), 1) if "the residual add" in line
)
STREAM = {("stem.weight", 0), ("stem.bias", 0), ("a.weight", 1), ("b.weight", 0), ("head.weight", 1)}
INNER = {
    ("a.weight", 0),
    *((f"bn.{t}", 0) for t in ("weight", "bias", "running_mean", "running_var")),
    ("b.weight", 1),
}


@pytest.fixture(scope="module")
def traced() -> Trace:
    return trace(_Residual(), torch.zeros(1, 3, 8, 8))


def test_graph_has_the_groups_as_components(traced: Trace) -> None:
    graph = dependency_graph(traced)
    assert set(nx.node_connected_component(graph, ("stem.weight", 0))) == STREAM
    assert set(nx.node_connected_component(graph, ("bn.bias", 0))) == INNER
    assert graph.nodes["stem.weight", 0] == {
        "tensor": "stem.weight",
        "dim": 0,
        "size": 8,
        "group": "stem",
        "pinned": "",
    }
    assert "input" in graph.nodes["stem.weight", 1]["pinned"]
    ops = {data["op"] for _, _, data in graph.edges(("b.weight", 0), data=True)}
    assert "aten.add.Tensor" in ops


def test_graph_files_hold_the_same_graph(traced: Trace, tmp_path: Path) -> None:
    graph = dependency_graph(traced)
    data = json.loads(write_graph(graph, tmp_path / "g.json").read_text())
    linked = nx.node_link_graph(data, edges="edges")
    graphml = nx.read_graphml(write_graph(graph, tmp_path / "g.graphml"), force_multigraph=True)
    with warnings.catch_warnings():  # pydot's parser calls pyparsing by its old names
        warnings.simplefilter("ignore")
        [dot] = pytest.importorskip("pydot").graph_from_dot_file(write_graph(graph, tmp_path / "g.dot"))
    for read in (linked, graphml):
        assert read.number_of_nodes() == graph.number_of_nodes()
        assert read.number_of_edges() == graph.number_of_edges()
        assert read.nodes["stem.weight[0]"]["size"] == 8
    assert len(dot.get_edges()) == graph.number_of_edges()
    assert sum(len(box.get_nodes()) for box in dot.get_subgraphs()) + len(dot.get_nodes()) - 1 >= len(graph)
    assert '"stem.weight[0]"' in (tmp_path / "g.dot").read_text()


def test_graph_file_of_an_unknown_kind(traced: Trace, tmp_path: Path) -> None:
    with pytest.raises(FxpruneError, match=r"\.dot, \.graphml, \.json"):
        write_graph(dependency_graph(traced), tmp_path / "g.png")
    with pytest.raises(FxpruneError, match="does not exist"):
        write_graph(dependency_graph(traced), tmp_path / "none" / "g.dot")
    assert not list(tmp_path.iterdir())


def test_explain_gives_every_member_a_chain(traced: Trace) -> None:
    why = explain(traced, "stem.weight")
    assert why.axis == ("stem.weight", 0)
    assert [group.name for group in why.groups] == ["stem"]
    assert set(why.chains) == STREAM - {why.axis}
    assert not why.pins
    [to_stream] = [tie for tie in why.chains["b.weight", 0] if "add" in tie.op]
    assert to_stream.source.startswith(f"test_explain.py:{ADD_LINE}")
    for axis, chain in why.chains.items():  # each chain leads from the axis asked about to its member
        here = why.axis
        for tie in chain:
            assert here in (tie.a, tie.b)
            here = tie.b if here == tie.a else tie.a
        assert here == axis


def test_explain_reads_well(traced: Trace) -> None:
    text = str(explain(traced, "bn.weight"))
    assert "bn.weight[0] has 4 positions" in text
    assert "group 'a': 4 units on 6 axes, removing equals zeroing" in text
    assert f"test_explain.py:{ADD_LINE}" in text
    assert text.count("\n") < 10


def test_explain_by_name_and_negative_dim(traced: Trace) -> None:
    assert explain(traced, "a.weight", dim=-3).axis == ("a.weight", 1)


def test_explain_by_the_names_that_the_tables_print(traced: Trace) -> None:
    """A group is its first producer's axis, also where that is not dimension 0; other modules are their weight."""
    for row in group_table(traced):
        assert row.name in [group.name for group in explain(traced, row.name).groups]
    assert explain(traced, "stem").axis == ("stem.weight", 0)
    assert explain(traced, "stem", dim=1).axis == ("stem.weight", 1)
    assert explain(traced, "b").axis == ("b.weight", 0)  # in the group 'stem'
    net = nn.Sequential(nn.ConvTranspose2d(3, 8, 1), nn.Conv2d(8, 2, 1))
    transposed = trace(net, torch.zeros(1, 3, 5, 5))
    assert [row.name for row in group_table(transposed)] == ["0", "0:1", "1"]
    assert explain(transposed, "0:1").axis == ("0.weight", 1)


def test_python_is_not_told_of_flags(traced: Trace) -> None:
    with pytest.raises(FxpruneError) as caught:
        explain(traced, "stem.weight", dim=9)
    assert caught.value.advice == "its dimensions are 0 to 3"


@pytest.mark.parametrize(
    ("tensor", "dim", "kind", "says"),
    [
        ("stem.weight", 1, "input", "the callers of the model decide"),
        ("head.weight", 0, "output", "nothing inside the model"),
        ("stem.weight", 2, "contract", "kernel"),
    ],
)
def test_explain_what_is_pinned(traced: Trace, tensor: str, dim: int, kind: str, says: str) -> None:
    why = explain(traced, tensor, dim=dim)
    assert [pin.kind for pin in why.pins] == [kind]
    assert "cannot be pruned" in str(why)
    assert says in str(why)
    assert "test_explain.py" in str(why)


def test_explain_a_scalar_buffer_has_no_channels(traced: Trace) -> None:
    with pytest.raises(FxpruneError, match="a scalar has no channels"):
        explain(traced, "bn.num_batches_tracked")


@pytest.mark.parametrize(
    ("tensor", "dim", "says"),
    [
        ("stem.wieght", 0, r"no tensor, group or module 'stem.wieght'[\s\S]*did you mean 'stem.weight"),
        ("stem.weight", 4, r"has 4 dimensions, there is no dim 4\n.*\n.*its dimensions are 0 to 3$"),
        ("stem:2", 1, "'stem:2' is a group, whose axes are given"),
        ("", 0, "no tensor, group or module ''"),
    ],
)
def test_explain_refuses(traced: Trace, tensor: str, dim: int, says: str) -> None:
    with pytest.raises(FxpruneError, match=says):
        explain(traced, tensor, dim=dim)


def test_every_name_of_the_table_is_explained(traced: Trace) -> None:
    for row in group_table(traced):
        why = explain(traced, row.name)
        assert row.name in [group.name for group in why.groups]
        assert why.axis in row.members


def test_explain_a_module(traced: Trace) -> None:
    assert explain(traced, "bn").axis == ("bn.weight", 0)
    assert explain(traced, "a").axis == ("a.weight", 0)
    assert explain(traced, "a", dim=1).axis == ("a.weight", 1)


def test_a_module_of_modules_lists_its_tensors() -> None:
    net = nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), nn.Linear(4, 2))
    with pytest.raises(
        FxpruneError, match=r"'0' is a module without tensors of its own\n.*0.0.weight, 0.0.bias$"
    ):
        explain(trace(net, torch.zeros(1, 3)), "0")


def test_explain_a_tied_tensor_by_either_name() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(11, 6)
            self.head = nn.Linear(6, 11, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.embed(ids))

    traced = trace(Tied(), torch.zeros(1, 3, dtype=torch.int64))
    assert explain(traced, "head.weight", dim=1).axis == ("embed.weight", 1)


def test_group_table_shares(traced: Trace) -> None:
    rows = {row.name: row for row in group_table(traced)}
    params = sum(p.numel() for p in traced.model.parameters())
    # a.weight (8x4), bn.weight, bn.bias, b.weight (4x8)
    assert rows["a"].params_share == pytest.approx((32 + 4 + 4 + 32) / params)
    macs = 64 * (3 * 9 * 8 + 8 * 4 + 4 * 8) + 8 * 5
    assert rows["a"].macs_share == pytest.approx(64 * (32 + 32) / macs)
    assert rows["stem"].macs_share == pytest.approx(1.0)  # everything hangs on the stream
    assert rows["a"].width == 4
    assert set(rows["a"].members) == INNER
    assert rows["a"].exact
    assert rows["a"].pinned is None
    assert json.loads(json.dumps(rows["head"].as_json()))["pinned"]["kind"] == "output"


def test_group_table_shows_blocks() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 3, groups=4), nn.Conv2d(12, 2, 1))
    rows = {row.name: row for row in group_table(trace(net, torch.zeros(1, 3, 5, 5)))}
    assert "4x3" in {block for row in rows.values() for block in row.blocks}


def test_width_table(traced: Trace) -> None:
    kept = dict.fromkeys(INNER, (0, 2))
    plan = Plan(kept, Cost(1, 1), Cost(1, 1), traced.fingerprint)
    assert {row.name: (row.before, row.after) for row in width_table(traced, plan)} == {
        "stem": (8, 8),
        "a": (4, 2),
    }
    with pytest.raises(PlanError, match="another model"):
        width_table(traced, Plan(kept, Cost(1, 1), Cost(1, 1), "other"))
