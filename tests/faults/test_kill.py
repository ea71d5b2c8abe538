"""The whole process is killed in the middle of its flows: none that was acknowledged is lost, none ends twice."""

from __future__ import annotations

import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.process import PATIENCE, serving

WORK = """
import asyncio
from mbactor import Actor, endpoint
from mbactor.foreman import END, Flow, FlowOutcome, Flows, Graph, task, workflow


class Work(Actor):
    host = "work.example"
    concurrency = 64

    @endpoint
    async def begin(self, number: int) -> str:
        return await Flows(self).create(Work.chain, {"number": number})

    @endpoint
    async def outcome(self, flow_key: str) -> FlowOutcome:
        return await Flows(self).poll(flow_key, "20s")

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
        await asyncio.sleep(0.01)
        with open("runs.txt", "a") as runs:
            runs.write(f"{flow.step_key} {name}\\n")

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
"""

TREE = """
version: 1
name: work
supervisor:
  children:
    - foreman: {database: "sqlite:///flows.db", workers: 2, lease: 1s}
    - actor: work:Work
    - gateway: {port: "${PORT}"}
"""

FLOWS = 200


def _begin(client: httpx.Client, url: str, number: int, keys: dict[int, str]) -> None:
    try:
        response = client.post(f"{url}/work.example/begin", json={"number": number})
    except httpx.HTTPError:
        return
    if response.status_code == 200:
        keys[number] = response.json()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_no_acknowledged_flow_is_lost_and_none_ends_twice(tmp_path: Path, seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    (tmp_path / "work.py").write_text(WORK)
    topology = tmp_path / "topology.yaml"
    topology.write_text(TREE)
    keys: dict[int, str] = {}
    deaths = sorted(chance.randrange(20, FLOWS - 20) for _ in range(2))
    begun = 0
    for death in [*deaths, None]:
        with serving(topology, tmp_path) as served, httpx.Client(timeout=PATIENCE) as client:
            url = served.url
            with ThreadPoolExecutor(16) as pool:
                asked = [pool.submit(_begin, client, url, n, keys) for n in range(begun, FLOWS)]
                while death is not None and len(keys) < death and not all(one.done() for one in asked):
                    time.sleep(0.001)
                if death is not None:
                    served.signal(signal.SIGKILL)
            begun = max(keys) + 1
            if death is None:
                _check(client, url, keys, tmp_path)
                served.signal(signal.SIGTERM)
                assert served.end() == 0, served.told()


def _check(client: httpx.Client, url: str, keys: dict[int, str], folder: Path) -> None:
    def ask(name: str, **arguments: Any) -> Any:
        response = client.post(f"{url}/work.example/{name}", json=arguments)
        assert response.status_code == 200, response.text
        return response.json()

    def ended(item: tuple[int, str]) -> None:
        number, key = item
        outcome = ask("outcome", flow_key=key)
        assert outcome["status"] == "completed", outcome
        assert outcome["state"] == {"number": number, "sumDone": 3, "result": number * 2}, outcome
        nodes = ask("nodes", flow_key=key)
        assert sorted(nodes) == [
            ["first", "completed"],
            ["last", "completed"],
            ["left", "completed"],
            ["right", "completed"],
        ]

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ended, keys.items()))
    assert ask("count") >= len(keys)
    ran = (folder / "runs.txt").read_text().splitlines()
    assert len({line.split()[0] for line in ran}) >= 4 * len(keys), "each step has a key of its own"
