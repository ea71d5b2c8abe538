"""The workflow that a command is about, and where its graph comes from.

    workflow = workflow_of("shop.credit:Credit.approval", where)            # the code that is at hand
    workflow = workflow_of("https://credit.example:428/approval", where)    # whoever serves it in a running system
    graph = await workflow.graph()

A running system is asked on its control socket where a process of this user on this machine runs the file, and else by
the NATS server that the file names.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Protocol

import msgspec

from mbactor.cli.flows.database import Where, tell_warning
from mbactor.cli.flows.graphs import graph_of, reference_of
from mbactor.errors import BadRequest, NoSuchActor, Unavailable
from mbactor.foreman.features import WorkflowReference, workflow_address
from mbactor.foreman.model.flow import Flow
from mbactor.foreman.model.graph import Graph, GraphWarning
from mbactor.kernel.settings import environment
from mbactor.supervisor.operate.sockets import Running, folders, running
from mbactor.supervisor.system import ActorSystem
from mbactor.transport.nats_url import is_broker

LONGEST_ANSWER = 64 << 20
"""Bytes that a graph may have."""
LONGEST_WAIT = 25.0
"""Seconds until a process has answered: an ask of its own takes 20 at most."""


class Workflow(Protocol):
    """A workflow: the URL that its flows are created with, and its graph now. BadRequest says why there is none."""

    @property
    def url(self) -> str: ...
    async def graph(self) -> Graph: ...


def workflow_of(text: str, where: Where) -> Workflow:
    """The workflow at `module:Class.workflow`, or at its URL in the system that runs the file."""
    return OfSystem(text, where) if "://" in text else OfCode(text)


class OfCode:
    """A workflow of the code that is at hand."""

    def __init__(self, text: str) -> None:
        self._text = text

    @cached_property
    def _reference(self) -> WorkflowReference:
        return reference_of(self._text)

    @property
    def url(self) -> str:
        return self._reference.url

    async def graph(self) -> Graph:
        return await graph_of(self._reference)


class OfSystem:
    """A workflow that a running system is asked for."""

    def __init__(self, text: str, where: Where) -> None:
        self._text = text
        self._where = where

    @property
    def url(self) -> str:
        return str(workflow_address(self._text))

    async def graph(self) -> Graph:
        """Unavailable where there is nobody to ask, NoSuchActor where nobody serves it."""
        graph = Graph.from_json(await self._answer(self.url))
        graph.validate()
        return graph

    async def _answer(self, url: str) -> bytes:
        found = running(self._where.file, folders(environment()))
        systems = {one.system for one in found}
        if self._where.file is None and len(systems) > 1:
            raise Unavailable(f"several trees are running: {', '.join(sorted(systems))}; choose one by -f FILE")
        unserved: NoSuchActor | None = None
        for one in found:
            try:
                return await asked(one, url)
            except NoSuchActor as error:  # another process of the file may know it
                unserved = error
        if unserved is not None:
            raise unserved
        return await self._answer_by_server(url)

    async def _answer_by_server(self, url: str) -> bytes:
        topology = self._where.topology()
        if topology is None or not is_broker(topology.transport):
            which = "nothing is" if topology is None else f"{self._where.file} is not"
            raise Unavailable(
                f"{url} cannot be asked for its graph: {which} running; `mbactor run {self._where.file or 'FILE'}`"
                " starts it, or name the workflow by its code: MODULE:CLASS.WORKFLOW"
            )
        async with ActorSystem(
            "mbactor-flows", topology.transport, ack_window=topology.ack_window, max_body=topology.max_body
        ) as system:
            return (await system.request("POST", url)).body


async def asked(process: Running, url: str) -> bytes:
    """What an address in a process of this user answers to an empty request."""
    try:
        reader, writer = await asyncio.open_unix_connection(process.path, limit=LONGEST_ANSWER)
        try:
            async with asyncio.timeout(LONGEST_WAIT):
                writer.write(msgspec.json.encode({"ask": {"url": url}}) + b"\n")
                line = await reader.readline()
        finally:
            writer.close()
    except TimeoutError:
        raise Unavailable(f"{url}: process {process.pid} has not answered in {LONGEST_WAIT:g} s") from None
    except (OSError, ValueError) as error:
        raise Unavailable(f"{url}: process {process.pid} cannot be asked: {error}") from None
    if not line:
        raise Unavailable(f"{url}: process {process.pid} has stopped")
    answer = msgspec.json.decode(line)
    if "error" not in answer:
        return str(answer["body"]).encode()
    if answer.get("status") == NoSuchActor.status:
        raise NoSuchActor(url)
    if answer.get("status") == Unavailable.status:
        raise Unavailable(str(answer["error"]))
    raise BadRequest(f"{url} does not tell its graph: {answer['error']}")


class HostOf:
    """A host that has the graph of the one workflow that is to be started, and runs no task."""

    def __init__(self, workflow: Workflow) -> None:
        self._workflow = workflow

    async def load_graph(self, workflow: str, baggage: Mapping[str, Any]) -> Graph:  # noqa: ARG002
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GraphWarning)  # the engine tells of what is doubtful
            return await self._workflow.graph()

    async def execute_task(self, task_url: str, flow: Flow, time_budget: float) -> None:  # noqa: ARG002
        raise Unavailable(f"{task_url} cannot be run here: no actor runs in this command")


async def told_graph_of(workflow: Workflow) -> Graph:
    """Its graph; what is doubtful about it is told as a warning."""
    with warnings.catch_warnings(record=True) as doubts:
        warnings.simplefilter("always", GraphWarning)
        graph = await workflow.graph()
    for doubt in doubts:
        if issubclass(doubt.category, GraphWarning):
            tell_warning(str(doubt.message))
    return graph
