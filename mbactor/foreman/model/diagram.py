"""Graphs as Mermaid text (pure).

All text of authors (names, conditions) is escaped, so that nothing in it can break the diagram or bring markup, an icon
or a formula into a page. A graph need not be valid to be drawn.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from mbactor.foreman.model.join import Join
from mbactor.foreman.model.transition import END, Node, Transition

if TYPE_CHECKING:
    from mbactor.foreman.model.graph import Graph

Direction = Literal["LR", "TD"]

STYLES: Mapping[str, str] = {
    "task": "fill:#eef4ff,stroke:#4a6fa5,color:#1a2b42",
    "term": "fill:#f4f4f4,stroke:#888,color:#333",
    "link": "stroke:#888",
}
"""How tasks, circles and diamonds, and edges look."""

_CODES = {
    "#": "#35;", '"': "#quot;", "'": "#39;", "<": "#lt;", ">": "#gt;", "`": "#96;", "[": "#91;", "]": "#93;",
    "{": "#123;", "}": "#125;", "(": "#40;", ")": "#41;", "|": "#124;", "\\": "#92;", "&": "#38;", "$": "#36;",
    ":": "#58;",
}  # fmt: skip
_ESCAPES = str.maketrans(_CODES)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_IN_TITLE = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})
_STYLE = re.compile(r"[\w#:,.% -]*")


def escape(text: str) -> str:
    """The text as a label of a Mermaid diagram, on one line."""
    return _shown(text).translate(_ESCAPES)


def head(title: str | None, kind: str) -> Iterator[str]:
    """The first lines of a diagram. A title is YAML, where Mermaid's own codes mean nothing."""
    if title:
        yield "---"
        yield f"title: {json.dumps(_shown(title)).translate(_IN_TITLE)}"
        yield "---"
    yield kind


def _shown(text: str) -> str:
    return _SURROGATE.sub("\ufffd", _UNPRINTABLE.sub(" ", text))


def graph_mermaid(
    graph: Graph | None,
    *,
    direction: Direction = "LR",
    title: bool = True,
    link: str | None = None,
    styles: Mapping[str, str] | None = None,
) -> str:
    """The graph as a flowchart; "" for None. `link` makes each node a link to `?<link>=<its name>`, `styles` replaces
    some of `STYLES`.
    """
    if graph is None:
        return ""
    looks = _checked_styles(styles or {})
    return "\n".join(_GraphChart(graph, looks).lines(direction, graph.name if title else None, link)) + "\n"


def _checked_styles(given: Mapping[str, str]) -> Mapping[str, str]:
    for name, style in given.items():
        if name not in STYLES:
            raise ValueError(f"styles has no {name!r}; expected some of {', '.join(STYLES)}")
        if not _STYLE.fullmatch(style):
            raise ValueError(f"styles[{name!r}] is {style!r}; expected something like {STYLES[name]!r}")
    return {**STYLES, **given}


class _GraphChart:
    def __init__(self, graph: Graph, styles: Mapping[str, str]) -> None:
        self.graph = graph
        self.styles = styles
        self.nodes = {node.name: node for node in graph.nodes}
        for edge in graph.transitions:
            for name in (edge.source, edge.target):
                if name != END:
                    self.nodes.setdefault(name, Node(name, name))
        self.ids = {name: f"t{index}" for index, name in enumerate(self.nodes)}

    def lines(self, direction: Direction, title: str | None, link: str | None) -> Iterator[str]:
        yield from head(title, f"graph {direction}")
        yield f"    classDef task {self.styles['task']}"
        yield f"    classDef term {self.styles['term']}"
        yield f"    linkStyle default {self.styles['link']}"
        yield "    _start(( )):::term"
        for name, node in self.nodes.items():
            yield from self.shapes(name, node)
        if self.graph.entry_point in self.ids:
            yield f"    _start --> {self.entrance(self.graph.entry_point)}"
        yield from self.arrows()
        if any(edge.target == END for edge in self.graph.transitions):
            yield "    _end(( )):::term"
        if link is not None:
            for name, id in self.ids.items():
                yield f'    click {id} "?{quote(link, safe="")}={quote(name, safe="")}"'

    def shapes(self, name: str, node: Node) -> Iterator[str]:
        id, label = self.ids[name], escape(_label_of(node))
        yield f'    {id}[["{label}"]]:::task' if node.subgraph else f'    {id}["{label}"]:::task'
        if node.fan_in:
            reduce = "reduce" if node.join == Join.ALL else f"reduce: {node.join}"
            yield f'    {id}_reduce(("{reduce}")):::term'
            yield f"    {id}_reduce --> {id}"
        for kind in ("switch", "when"):
            if any(edge.kind == kind for edge in self.graph.out(name)):
                yield f'    {id}_{kind}{{"{kind}"}}:::term'
                yield f"    {id} --> {id}_{kind}"

    def arrows(self) -> Iterator[str]:
        labels: dict[tuple[str, str], list[str]] = {}
        for edge in self.graph.transitions:
            if edge.source in self.ids:
                text = _edge_label(edge)
                labels.setdefault((self.exit(edge), self.entrance(edge.target)), []).extend([text] if text else [])
        for (source, target), texts in labels.items():
            yield f'    {source} -->|"{" | ".join(texts)}"| {target}' if texts else f"    {source} --> {target}"

    def exit(self, edge: Transition) -> str:
        id = self.ids[edge.source]
        return f"{id}_{edge.kind}" if edge.kind in {"switch", "when"} else id

    def entrance(self, name: str) -> str:
        if name == END:
            return "_end"
        return f"{self.ids[name]}_reduce" if self.nodes[name].fan_in else self.ids[name]


def _label_of(node: Node) -> str:
    """The name; of one that is a URL only the path."""
    _, is_url, rest = node.name.partition("://")
    return rest.partition("/")[2] or rest if is_url else node.name


def _edge_label(edge: Transition) -> str:
    match edge.kind:
        case "switch" | "when":
            when = (edge.when or "").strip()
            return "default" if edge.kind == "switch" and when.lower() == "true" else escape(when)
        case "for_each":
            return "for each" if edge.max_parallel is None else f"for each, {edge.max_parallel} at once"
        case "on_error":
            return "onError"
        case "on_timeout":
            return "onTimeout"
        case "goto":
            return "goto"
        case _:
            return ""
