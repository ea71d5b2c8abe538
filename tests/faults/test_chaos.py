"""A tree over several processes in which everything fails at random: it is whole again, or has given up as it should."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from mbactor import ActorSystem, MbactorError, child
from mbactor.kernel.exit import Exit
from mbactor.supervisor.node.process import NodeProcess
from mbactor.supervisor.spec import SupervisorSpec
from tests.faults.chaos_parts import ACTORS, Clerk, House
from tests.process import alive

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

PATIENCE = 120.0
ROWS = {"north": 3, "east": 3, "south": 4}
"""Three nodes, ten supervisors, two hundred actors."""
EVENTS = 150
CLIENTS = 12


class Ledger:
    """What the clients sent, and what became of it."""

    def __init__(self) -> None:
        self.answered: set[int] = set()
        self.not_taken: set[int] = set()
        self.unknown: set[int] = set()

    async def client(self, system: ActorSystem, numbers: count[int], over: asyncio.Event) -> None:
        while not over.is_set():
            number = next(numbers)
            try:
                assert await system.ask(Clerk.put, number) == number
                self.answered.add(number)
            except MbactorError as error:
                (self.not_taken if error.taken == "no" else self.unknown).add(number)
                await asyncio.sleep(0.005)

    def check(self, journal: Path) -> None:
        written = Counter(map(int, journal.read_text().split()))
        assert not [number for number, times in written.items() if times > 1], "handled twice"
        assert not self.answered - written.keys(), "answered and not handled"
        assert not self.not_taken & written.keys(), "said to be not taken, and handled"


class Chaos:
    """Crashes actors, and kills and stops processes."""

    def __init__(self, system: ActorSystem, nodes: dict[str, NodeProcess], chance: random.Random) -> None:
        self.system = system
        self.nodes = nodes
        self.chance = chance
        self.pids: set[int] = set()
        self.did: Counter[str] = Counter()
        self._stopped: set[asyncio.Task[None]] = set()

    async def run(self, events: int) -> None:
        for _ in range(events):
            kind = self.chance.choices(("crash", "kill", "stop"), (0.8, 0.1, 0.1))[0]
            pid = self.chance.choice(list(self.nodes.values())).pid
            if kind == "crash":
                self.system.tell(Clerk.crash)
            elif pid is not None:
                self.pids.add(pid)
                if kind == "kill":
                    with suppress(ProcessLookupError):  # it was killed before, and nobody has noticed yet
                        os.kill(pid, signal.SIGKILL)
                else:
                    self._stopped.add(asyncio.create_task(self._stop(pid, self.chance.uniform(0.01, 0.4))))
            self.did[kind] += 1
            await asyncio.sleep(self.chance.uniform(0.005, 0.06))
        await asyncio.gather(*self._stopped)

    async def _stop(self, pid: int, seconds: float) -> None:
        try:
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(seconds)
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            pass  # it was killed meanwhile


def tree(journal: Path, max_restarts: int = 1_000_000) -> SupervisorSpec:
    more = {"journal": str(journal), "max_restarts": max_restarts}
    return SupervisorSpec(
        max_restarts=max_restarts,
        within="60s",
        children=[
            child(House, id=name, process=True, args={"name": name, "rows": rows, **more})
            for name, rows in ROWS.items()
        ],
    )


def nodes_of(system: ActorSystem) -> dict[str, NodeProcess]:
    root: Any = system._tree
    return {row.id: row.process for row in root.which_children() if row.process is not None}


async def desks(system: ActorSystem, wanted: int) -> dict[str, int]:
    """Who answers, and in which process, as soon as so many do."""
    found: dict[str, int] = {}
    async with asyncio.timeout(PATIENCE):
        while len(found) < wanted:
            for answer in await asyncio.gather(
                *(system.ask(Clerk.where) for _ in range(wanted)), return_exceptions=True
            ):
                if not isinstance(answer, BaseException):
                    desk, pid = answer
                    found[desk] = pid
    return found


async def test_two_hundred_actors_in_three_processes_are_whole_again_and_nothing_accepted_is_lost(
    tmp_path: Path,
) -> None:
    seed = int(os.environ.get("CHAOS_SEED", random.randrange(10**6)))
    print(f"CHAOS_SEED={seed}")
    journal, ledger, over = tmp_path / "journal", Ledger(), asyncio.Event()
    wanted = sum(ROWS.values()) * ACTORS
    async with ActorSystem(tree=tree(journal), watchdog=None) as system:
        nodes = nodes_of(system)
        chaos = Chaos(system, nodes, random.Random(seed))
        assert len(await desks(system, wanted)) == wanted == 200
        numbers = count(1)
        clients = [asyncio.create_task(ledger.client(system, numbers, over)) for _ in range(CLIENTS)]
        await chaos.run(EVENTS)
        found = await desks(system, wanted)
        over.set()
        done, late = await asyncio.wait(clients, timeout=PATIENCE)
        assert not late, "an ask was never answered"
        for client in done:
            client.result()
        assert {pid for pid in found.values() if alive(pid)} == {node.pid for node in nodes.values()}
    ledger.check(journal)
    print(dict(chaos.did), len(ledger.answered), len(ledger.not_taken), len(ledger.unknown))
    assert len(ledger.answered) > 50  # however slow the machine is
    assert min(chaos.did.values()) > 0
    assert not [pid for pid in {*chaos.pids, *found.values()} if alive(pid)]


async def test_what_fails_too_often_gives_up_as_its_budgets_say_and_leaves_no_process(tmp_path: Path) -> None:
    seed = int(os.environ.get("CHAOS_SEED", random.randrange(10**6)))
    print(f"CHAOS_SEED={seed}")
    chance, seen, kills = random.Random(seed), set[int](), 0
    async with ActorSystem(tree=tree(tmp_path / "journal", max_restarts=3), watchdog=None) as system:
        ended: asyncio.Future[Exit] = asyncio.ensure_future(system.wait())
        nodes = nodes_of(system)
        while not ended.done():
            pid = chance.choice(list(nodes.values())).pid
            if pid is not None and pid not in seen:
                seen.add(pid)
                os.kill(pid, signal.SIGKILL)
                kills += 1
            await asyncio.wait([ended], timeout=0.05)
        exit = ended.result()
        assert exit.kind == "gave_up"
        assert "SIGKILL" in str(exit.error)
        assert kills >= 4  # one may come while all of it stops
    assert not [pid for pid in seen if alive(pid)]
    assert not [node.pid for node in nodes.values() if node.pid is not None]
