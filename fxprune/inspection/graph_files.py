"""The dependency graph as a file: DOT for Graphviz, GraphML for graph editors, JSON for scripts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import networkx as nx

from fxprune.errors import FxpruneError
from fxprune.escaping import dot, xml
from fxprune.plans import Axis
from fxprune.support.files import atomic_path, check_writable

__all__ = ["write_graph"]


def write_graph(graph: nx.MultiGraph[Axis], path: str | Path) -> Path:
    """Write a dependency graph; the suffix decides: ``.dot``, ``.graphml`` or ``.json`` (node-link).

    Nodes are called ``layer.weight[0]``; an edge's ``source`` is its ``source_line`` in the file.

    Args:
        graph: From ``dependency_graph``.
        path: The file to write; nothing is left of it on failure.

    Returns:
        The path.

    Raises:
        FxpruneError: Another suffix, or the file cannot be written.
    """
    path = check_graph_path(path)
    with atomic_path(path) as temporary:
        _WRITERS[path.suffix](_named(graph), temporary)
    return path


def check_graph_path(path: str | Path) -> Path:
    """Refuse what ``write_graph`` would refuse, before any work is done for it.

    Raises:
        FxpruneError: No such format, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in _WRITERS:
        raise FxpruneError(
            f"{path} does not say which format the graph should have",
            advice=f"end the file name with {', '.join(_WRITERS)}",
        )
    check_writable(path)
    return path


def _named(graph: nx.MultiGraph[Axis]) -> nx.MultiGraph[str]:
    """The graph with texts for nodes, as files want them."""
    named: nx.MultiGraph[str] = nx.relabel_nodes(graph, {axis: f"{axis[0]}[{axis[1]}]" for axis in graph})
    for _, _, data in named.edges(data=True):
        # "source" is one end of an edge in node-link JSON, which would overwrite the user's line.
        data["source_line"] = data.pop("source")
    return named


def _write_json(graph: nx.MultiGraph[str], path: Path) -> None:
    path.write_text(json.dumps(nx.node_link_data(graph, edges="edges"), indent=1), encoding="utf-8")


def _write_graphml(graph: nx.MultiGraph[str], path: Path) -> None:
    clean: nx.MultiGraph[str] = nx.relabel_nodes(graph, {node: xml(node) for node in graph})
    held = [data for _, data in clean.nodes(data=True)] + [data for _, _, data in clean.edges(data=True)]
    for data in held:
        data.update({key: xml(value) for key, value in data.items() if isinstance(value, str)})
    nx.write_graphml(clean, path)


def _write_dot(graph: nx.MultiGraph[str], path: Path) -> None:
    """Graphviz, one box per group, grey where pinned.  By hand: networkx would need pydot here."""
    clusters: dict[str, list[str]] = {}
    for node, data in graph.nodes(data=True):
        clusters.setdefault(data["group"], []).append(node)
    lines = [
        "graph fxprune {",
        "  rankdir=LR; compound=true; node [shape=box, style=filled, fontname=Helvetica];",
    ]
    for number, (group, nodes) in enumerate(clusters.items()):
        boxed = bool(group)
        lines += [f"  subgraph cluster_{number} {{ label={dot(group)};"] if boxed else []
        for node in nodes:
            data = graph.nodes[node]
            color = "lightgrey" if data["pinned"] or not boxed else "lightblue"
            label, hint = dot(f"{node}\n{data['size']}"), dot(data["pinned"])
            lines.append(f"    {dot(node)} [label={label}, fillcolor={color}, tooltip={hint}];")
        lines += ["  }"] if boxed else []
    for a, b, data in graph.edges(data=True):
        label, hint = (
            dot(data["op"].removeprefix("aten.")),
            dot(f"{data['node']} {data['source_line']}"),
        )
        lines.append(f"  {dot(a)} -- {dot(b)} [label={label}, tooltip={hint}];")
    path.write_text("\n".join([*lines, "}", ""]), encoding="utf-8")


_WRITERS: Mapping[str, Callable[[nx.MultiGraph[str], Path], None]] = {
    ".dot": _write_dot,
    ".graphml": _write_graphml,
    ".json": _write_json,
}
