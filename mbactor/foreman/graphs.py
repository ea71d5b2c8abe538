"""The graphs that flows run on: loaded from the host, checked, frozen, and found again by their hash.

A flow keeps the graph it was created with, whatever becomes of the workflow's code. Equal graphs are stored, parsed
and validated once.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import msgspec

from mbactor import observe
from mbactor.errors import FlowNotFound, InvalidGraph
from mbactor.foreman.host import Host
from mbactor.foreman.model.graph import Graph
from mbactor.foreman.store.rows import Json
from mbactor.foreman.store.store import Store

MOST_KEPT = 1_024


class FrozenGraph(msgspec.Struct, frozen=True):
    """A valid graph that nobody changes any more, and the form in which it is stored."""

    hash: str
    json: Json
    graph: Graph


class Graphs:
    """The graphs of a store. Bounded: what was not used for long is read again."""

    def __init__(self, store: Store, host: Host) -> None:
        self._store = store
        self._host = host
        self._known: OrderedDict[str, Graph] = OrderedDict()
        self._asked: dict[str, asyncio.Future[Graph]] = {}

    async def load(self, workflow: str, baggage: Mapping[str, Any]) -> FrozenGraph:
        """The graph that the host has for the workflow now. InvalidGraph where it cannot run."""
        graph = await self._ask(workflow, baggage)
        if graph is None:
            raise FlowNotFound(f"workflow {workflow!r} has no graph")
        text = graph.to_json().encode()
        graph_hash = hashlib.sha256(text).hexdigest()
        if graph_hash not in self._known:
            _check(graph)
            self._keep(graph_hash, Graph.from_json(text))
        return FrozenGraph(graph_hash, text, self._known[graph_hash])

    async def _ask(self, workflow: str, baggage: Mapping[str, Any]) -> Graph | None:
        """The host's graph. Creations at the same moment, without baggage to tell them apart, share one question.

        Whoever asks first waits like the others: so all go on in one turn of the loop, and their flows are one batch.
        """
        if baggage:
            return await self._host.load_graph(workflow, baggage)
        asked = self._asked.get(workflow)
        if asked is None:
            asked = asyncio.ensure_future(self._host.load_graph(workflow, baggage))
            self._asked[workflow] = asked
            asked.add_done_callback(lambda _: self._asked.pop(workflow, None))
        return await asyncio.shield(asked)

    async def get(self, graph_hash: str) -> Graph:
        """The frozen graph of a flow."""
        if graph_hash not in self._known:
            text = await self._store.graph(graph_hash)
            if text is None:
                raise InvalidGraph(graph_hash, ["the flow's graph is missing in the database"])
            self._keep(graph_hash, Graph.from_json(text))
        self._known.move_to_end(graph_hash)
        return self._known[graph_hash]

    def _keep(self, graph_hash: str, graph: Graph) -> None:
        self._known[graph_hash] = graph
        while len(self._known) > MOST_KEPT:
            self._known.popitem(last=False)


def _check(graph: Graph) -> None:
    """As `Graph.validate`, but what is doubtful goes to the log: a warning made an error would refuse the flow."""
    problems = graph.problems()
    if problems:
        raise InvalidGraph(graph.name, problems)
    for doubt in graph.warnings():
        observe.emit("foreman.doubtful", graph=graph.name, text=doubt)
