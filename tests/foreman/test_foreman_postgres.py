"""The Foreman on PostgreSQL, as a user has it: through actors, with the fixtures of the testing kit."""

from __future__ import annotations

import asyncio
import time

from mbactor import Actor, ActorSystem
from mbactor.foreman import END, Flow, Flows, Foreman, Graph, task, workflow


class Sums(Actor):
    host = "sums.example"

    @task
    async def spread(self, numbers: list[int]) -> None: ...

    @task
    async def double(self, item: int) -> dict[str, int]:
        return {"sum_doubles": 2 * item}

    @task
    async def approve(self, flow: Flow) -> None:
        flow["approved"] = flow.interrupt({"sum": flow["sum_doubles"]})

    @workflow
    def doubling(self) -> Graph:
        graph = Graph("Doubling")
        graph.add_transition_for_each(Sums.spread, Sums.double, for_each="numbers")
        graph.add_transition(Sums.double, Sums.approve)
        graph.set_fan_in(Sums.approve)
        graph.add_transition(Sums.approve, END)
        return graph


async def test_flows_run_on_postgres_and_go_on_where_the_foreman_is_another(
    mbactor: ActorSystem, mbactor_postgres: str
) -> None:
    first = await mbactor.spawn(Foreman, database=mbactor_postgres, workers=2)
    await mbactor.spawn(Sums)
    flows = Flows(mbactor)
    outcome = await flows.run(Sums.doubling, {"numbers": [1, 2, 3]})
    assert [payload for _, payload in outcome.interrupts] == [{"sum": 12}]
    first.close(await first.stop())
    await mbactor.spawn(Foreman, database=mbactor_postgres, workers=2)
    await flows.resume(outcome.flow_key, True)
    outcome = await flows.wait(outcome.flow_key)
    assert (outcome.status, outcome.state["approved"]) == ("completed", True)
    history = await flows.history(outcome.flow_key)
    assert [step.node for step in history] == ["spread", "double", "double", "double", "approve"]


async def test_a_test_with_a_postgres_runs_in_real_time(mbactor_postgres: str) -> None:
    assert mbactor_postgres.startswith("postgresql://")
    before = time.monotonic()
    await asyncio.sleep(0.02)
    assert time.monotonic() - before > 0.01
