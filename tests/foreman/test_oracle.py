"""Random valid graphs with tasks that do everything a task may: the engine ends as a plain interpreter says."""

from __future__ import annotations

import asyncio
import os
import random
from contextlib import suppress
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mbactor.errors import FlowConflict
from mbactor.testing import VirtualTimeLoop
from mbactor.testing.postgres import PostgresServer
from tests.foreman.oracle import PROGRAMS, Program, expected
from tests.foreman.world import a_world
from tests.long import usual_or_long

EXAMPLES = int(os.environ.get("MBACTOR_ORACLE", usual_or_long(50, 20_000)))
USUAL = settings(
    max_examples=EXAMPLES, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example], phases=[phase for phase in Phase if phase != Phase.explain],
)  # fmt: skip


async def run(program: Program, url: str, workers: int, seed: int) -> tuple[str, dict[str, Any]]:
    """What the engine makes of it; interrupts are answered in an order by the seed, by step key or without."""
    order = random.Random(seed)
    async with a_world(url, workers=workers, poll_interval=0.05) as world:
        for name, graph in program.graphs.items():
            assert graph.problems() == []
            world.host.graphs[name] = graph
        world.host.tasks.update(program.tasks)
        key = await world.engine.create("root", program.state)
        while (outcome := await world.engine.wait(key)).status == "interrupted":
            if not outcome.interrupts:
                continue
            step_key, payload = order.choice(outcome.interrupts)
            if order.random() < 0.5:
                step_key, payload = outcome.interrupts[0]
            with suppress(FlowConflict):  # its branch was given up meanwhile
                await world.engine.resume(key, payload["number"] + 10, step_key)
    state = dict(outcome.state)
    if "on_err" in state:
        state["on_err"] = True
    return outcome.status, state


def check(program: Program, got: tuple[str, dict[str, Any]]) -> None:
    wanted = expected(program)
    if wanted.state is not None:
        assert got == (wanted.status, wanted.state)
    else:
        assert got[0] in {"completed", "failed"}


@given(PROGRAMS, st.sampled_from([1, 2, 8]), st.integers(0, 1_000))
@USUAL
@pytest.mark.timeout(usual_or_long(300, 7200))
def test_the_engine_ends_as_the_oracle_says(body: list[Any], workers: int, seed: int) -> None:
    program = Program(body)
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        check(program, runner.run(run(program, "sqlite://", workers, seed)))


@given(PROGRAMS, st.integers(0, 1_000))
@settings(USUAL, max_examples=max(5, EXAMPLES // 10), derandomize=True)
@pytest.mark.timeout(usual_or_long(300, 7200))
def test_it_does_so_on_postgresql(mbactor_postgres_server: PostgresServer, body: list[Any], seed: int) -> None:
    program = Program(body, pace=0.02)
    with asyncio.Runner() as runner:
        check(program, runner.run(run(program, _url(mbactor_postgres_server), 2, seed)))


@cache
def _url(server: PostgresServer) -> str:
    return server.fresh()
