"""What the processes run that are killed: flows with a fan-out, whose tasks write down that they ran, and where."""

from __future__ import annotations

import asyncio
import os

from mbactor import Actor, endpoint
from mbactor.foreman import END, Flow, FlowOptions, FlowOutcome, Flows, Graph, task, workflow

NODES = ["first", "last", "left", "right"]


class Work(Actor):
    host = "work.example"
    concurrency = 256

    @endpoint
    async def begin(self, number: int) -> str:
        return await Flows(self).create(Work.chain, {"number": number}, FlowOptions(idempotency_key=f"n{number}"))

    @endpoint
    async def end(self, flow_key: str) -> FlowOutcome:
        return await Flows(self).poll(flow_key, "15s")

    @endpoint
    async def nodes(self, flow_key: str) -> list[tuple[str, str]]:
        return [(step.node, step.status) for step in await Flows(self).history(flow_key)]

    @endpoint
    async def count(self) -> int:
        page, count, flows = None, 0, Flows(self)
        while page is None or page.next_cursor:
            page = await flows.list(cursor=page.next_cursor if page else "")
            count += len(page.flows)
        return count

    async def _work(self, flow: Flow, name: str) -> None:
        await asyncio.sleep(0.02)
        runs = os.open("runs.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(runs, f"{flow.step_key} {name} {os.getpid()}\n".encode())
        os.close(runs)

    @task
    async def first(self, flow: Flow) -> dict[str, int]:
        await self._work(flow, "first")
        return {"sumDone": 1}

    @task
    async def left(self, flow: Flow) -> dict[str, int]:
        await self._work(flow, "left")
        return {"sumDone": 1}

    @task
    async def right(self, flow: Flow) -> dict[str, int]:
        await self._work(flow, "right")
        return {"sumDone": 1}

    @task
    async def last(self, flow: Flow, number: int) -> dict[str, int]:
        await self._work(flow, "last")
        return {"result": number * 2}

    @workflow
    def chain(self) -> Graph:
        graph = Graph("Chain")
        graph.add_transition_fan_out(Work.first, Work.left, Work.right)
        graph.add_transition(Work.left, Work.last)
        graph.add_transition(Work.right, Work.last)
        graph.set_fan_in(Work.last)
        graph.add_transition(Work.last, END)
        return graph
