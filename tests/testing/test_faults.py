"""Faults strike at a seam: they fail, hold or kill at the passage they were told."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mbactor import Actor, ActorSystem
from mbactor.foreman import END, Flows, Foreman, Graph, task, workflow
from mbactor.seams import checkpoint
from mbactor.testing import faults
from tests.process import ROOT

SEAM = "foreman.settle.before"


class Pair(Actor):
    host = "pair.example"

    @task
    async def first(self) -> dict[str, int]:
        return {"sumRan": 1}

    @task
    async def second(self) -> dict[str, int]:
        return {"done": 1}

    @workflow
    def both(self) -> Graph:
        graph = Graph("Both")
        graph.add_transition_chain(Pair.first, Pair.second, END)
        return graph


async def passes(**fields: object) -> bool:
    try:
        await checkpoint(SEAM, **fields)
    except OSError:
        return False
    return True


async def test_the_passage_that_was_told_fails_and_no_other(mbactor_loop: object) -> None:
    with faults.failing(SEAM, OSError("disk full"), at=2, times=2) as passages:
        assert [await passes() for _ in range(5)] == [True, False, False, True, True]
    assert (passages.passed, passages.hit) == (5, 2)
    assert await passes()


async def test_all_passages_from_there_on_fail_where_that_is_asked_for(mbactor_loop: object) -> None:
    with faults.failing(SEAM, OSError, at=2, times=None):
        assert [await passes() for _ in range(4)] == [True, False, False, False]


async def test_only_passages_whose_fields_fit_are_counted(mbactor_loop: object) -> None:
    with faults.failing(SEAM, OSError, at=2, node="b"):
        assert [await passes(node=node) for node in "babb"] == [True, True, False, True]


async def test_a_field_that_the_seam_does_not_have_is_refused(mbactor_loop: object) -> None:
    with faults.failing(SEAM, OSError, nod="b"), pytest.raises(KeyError, match="no field 'nod'; it has node, status"):
        await passes(node="b", status="completed")


def test_an_unknown_seam_and_a_count_below_one_are_refused() -> None:
    with (
        pytest.raises(KeyError, match="no seam is called 'foreman.nowhere'"),
        faults.failing("foreman.nowhere", OSError),
    ):
        pass
    with pytest.raises(ValueError, match="at=0, times=1: whole numbers from 1 on"), faults.failing(SEAM, OSError, at=0):
        pass


async def test_who_is_held_goes_on_when_released_and_at_the_end_of_the_block(mbactor_loop: object) -> None:
    with faults.holding(SEAM) as held:
        first = asyncio.ensure_future(passes())
        await held.reached()
        await asyncio.sleep(3600)
        assert not first.done()
        assert await passes()
        held.release()
        assert await first
    with faults.holding(SEAM) as held:
        second = asyncio.ensure_future(passes())
        await held.reached()
    assert await second


async def test_a_seam_that_nobody_reaches_is_an_error(mbactor_loop: object) -> None:
    with faults.holding(SEAM, at=2) as held:
        await passes()
        with pytest.raises(AssertionError, match="nobody reached the seam within 10s; 1 passages were counted"):
            await held.reached()


async def test_a_step_that_is_held_keeps_its_flow_running(mbactor: ActorSystem) -> None:
    await mbactor.spawn(Foreman, workers=1, default_time_budget="10m")
    await mbactor.spawn(Pair)
    flows = Flows(mbactor)
    with faults.holding("foreman.execute.before", node="second") as held:
        key = await flows.create(Pair.both)
        await held.reached()
        await asyncio.sleep(60)
        steps = {one.node: one.status for one in await flows.history(key)}
        assert steps == {"first": "completed", "second": "running"}
        held.release()
        assert (await flows.wait(key)).status == "completed"


SCRIPT = """
import asyncio, contextlib, sys
from mbactor import ActorSystem
from mbactor.foreman import Flows, Foreman
from mbactor.testing import faults
from tests.testing.test_faults import Pair

async def main(key):
    async with ActorSystem() as system:
        await system.spawn(Foreman, database="sqlite:///flows.db", workers=1, lease="1s")
        await system.spawn(Pair)
        flows = Flows(system)
        if not key:
            key = await flows.create(Pair.both, start=False)
            print(key, flush=True)
            await flows.start(key)
        print((await flows.wait(key)).status, flush=True)

with faults.killing("foreman.settle.before", at=2) if len(sys.argv) == 1 else contextlib.nullcontext():
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else ""))
"""


def test_a_process_dies_at_the_passage_that_was_told_and_its_flow_goes_on_in_the_next(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [sys.executable, "-c", SCRIPT, *arguments],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    died = run()
    assert died.returncode == -signal.SIGKILL, died.stderr
    [key] = died.stdout.split()
    went_on = run(key)
    assert went_on.stdout.split() == ["completed"], went_on.stderr
