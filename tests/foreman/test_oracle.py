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
from mbactor.foreman.keys import Key, parse_key
from mbactor.foreman.model.outcome import FlowOutcome
from mbactor.testing import VirtualTimeLoop
from mbactor.testing.postgres import PostgresServer
from tests.foreman.interpreter import expected
from tests.foreman.oracle import FANNED, PROGRAMS, Program, healthy
from tests.foreman.world import World, a_world, compared
from tests.long import usual_or_long

EXAMPLES = int(os.environ.get("MBACTOR_ORACLE", usual_or_long(50, 20_000)))
USUAL = settings(
    max_examples=EXAMPLES, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example], phases=[phase for phase in Phase if phase != Phase.explain],
)  # fmt: skip


MOST_TRIES = 20


async def run(
    program: Program, url: str, workers: int, seed: int, *, heals: bool = False, again: int = 0
) -> tuple[str, dict[str, Any]]:
    """What the engine makes of it; interrupts are answered in an order by the seed, by step key or without.

    Where it `heals`, what failed is run again. So many times something that has ended is run `again`, there or in a
    fork.
    """
    async with a_world(url, workers=workers, poll_interval=0.05) as world:
        with compared(world.store):
            return await ended(world, program, random.Random(seed), heals=heals, again=again)


async def ended(
    world: World, program: Program, order: random.Random, *, heals: bool, again: int
) -> tuple[str, dict[str, Any]]:
    for name, graph in program.graphs.items():
        assert graph.problems() == []
        world.host.graphs[name] = graph
    world.host.tasks.update(program.tasks)
    key = await world.engine.create("root", program.state)
    tries = 0
    while True:
        outcome = await world.engine.wait(key)
        if again and order.random() < (0.3 if outcome.status == "interrupted" else 1.0):
            again -= 1
            key = await run_again(world, key, order)
        elif outcome.status == "interrupted":
            await answer(world, outcome, order)
        elif heals and outcome.status == "failed" and tries < MOST_TRIES:
            tries, program.healed = tries + 1, True
            await getattr(world.engine.recovery, order.choice(["recover", "retry"]))(key)
        else:
            break
        await world.check()
    state = dict(outcome.state)
    if "on_err" in state:
        state["on_err"] = True
    return outcome.status, state


async def answer(world: World, outcome: FlowOutcome, order: random.Random) -> None:
    if not outcome.interrupts:
        return
    step_key, payload = order.choice(outcome.interrupts)
    if order.random() < 0.5:
        step_key, payload = outcome.interrupts[0]
    with suppress(FlowConflict):  # its branch was given up meanwhile
        await world.engine.resume(outcome.flow_key, payload["number"] + 10, step_key)


async def run_again(world: World, key: str, order: random.Random) -> str:
    """Some step of the flow, or of those it called, that has ended; the key of the flow that it is run again in."""
    flow = parse_key(key)
    tree = "SELECT id FROM mbactor_flow WHERE id = ? OR root_id = ?"
    rows = await world.sql(
        f"SELECT id, token FROM mbactor_step WHERE flow_id IN ({tree}) AND status = 'completed' ORDER BY id",
        flow.id, flow.id,
    )  # fmt: skip
    if rows:
        step_key = str(Key(flow.shard, *order.choice(rows)))
        if order.random() < 0.3 and (await world.engine.snapshot(key)).status == "completed":
            return await world.engine.recovery.fork(step_key)
        await world.engine.recovery.restart_from(step_key)
    return key


def check(program: Program, got: tuple[str, dict[str, Any]], *, heals: bool = False) -> None:
    wanted = expected(program, heals=heals)
    if wanted.state is not None:
        assert got == (wanted.status, wanted.state)
    else:
        assert got[0] in ({wanted.status} if wanted.status else {"completed", "failed"})


@given(PROGRAMS, st.sampled_from([1, 2, 8]), st.integers(0, 1_000))
@USUAL
@pytest.mark.timeout(usual_or_long(600, 7200))
def test_the_engine_ends_as_the_oracle_says(body: list[Any], workers: int, seed: int) -> None:
    program = Program(body)
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        check(program, runner.run(run(program, "sqlite://", workers, seed)))


@given(PROGRAMS, st.integers(0, 1_000))
@settings(USUAL, max_examples=max(5, EXAMPLES // 10), derandomize=True)
@pytest.mark.timeout(usual_or_long(600, 7200))
def test_it_does_so_on_postgresql(mbactor_postgres_server: PostgresServer, body: list[Any], seed: int) -> None:
    program = Program(body, pace=0.02)
    with asyncio.Runner() as runner:
        check(program, runner.run(run(program, _url(mbactor_postgres_server), 2, seed)))


@cache
def _url(server: PostgresServer) -> str:
    return server.fresh()


@given(FANNED, st.sampled_from([1, 2, 8]), st.integers(0, 1_000))
@settings(USUAL, max_examples=max(5, EXAMPLES // 2))
@pytest.mark.timeout(usual_or_long(600, 7200))
def test_what_failed_and_is_recovered_ends_as_if_it_had_not_failed(body: list[Any], workers: int, seed: int) -> None:
    program = Program(body)
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        check(program, runner.run(run(program, "sqlite://", workers, seed, heals=True)), heals=True)


@given(FANNED, st.sampled_from([1, 2, 8]), st.integers(0, 1_000), st.integers(1, 3))
@settings(USUAL, max_examples=max(5, EXAMPLES // 2))
@pytest.mark.timeout(usual_or_long(600, 7200))
def test_whatever_is_run_again_in_its_flow_or_in_a_fork_it_ends_the_same(
    body: list[Any], workers: int, seed: int, again: int
) -> None:
    program = Program(healthy(body))
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        check(program, runner.run(run(program, "sqlite://", workers, seed, again=again)))
