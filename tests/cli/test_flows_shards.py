"""`mbactor flows cordon`, `drain`, `add-shard` ...: the shards of a Foreman, with one beside the commands and without."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mbactor import Actor, ActorSystem
from mbactor.cli.main import main
from mbactor.foreman import END, Flow, Flows, Foreman, Graph, task, workflow
from mbactor.foreman.store.open import open_store, url_of_shard
from mbactor.testing.postgres import PostgresServer
from tests.foreman.postgres import Outage, numbered_databases


class Till(Actor):
    host = "till.example"

    @task
    async def asked(self, flow: Flow) -> None:
        flow.interrupt("sure?")

    @workflow
    def sale(self) -> Graph:
        graph = Graph("Sale")
        graph.add_transition(Till.asked, END)
        return graph


def run(url: str, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["flows", *arguments], env={"MBACTOR_DATABASE": url})


def told(url: str, *arguments: str) -> str:
    done = run(url, *arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(url: str, *arguments: str) -> tuple[int, str]:
    done = run(url, *arguments)
    return done.exit_code, done.stderr.removeprefix("error: ").strip()


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Two shards, whose Foreman has ended."""
    url = f"sqlite:///{tmp_path}/flows-%d.db"
    asyncio.run(made(url, 2))
    return url


async def made(url: str, shards: int) -> None:
    """Let a Foreman run until it has put its shards on the roll."""
    async with ActorSystem() as system:
        await system.spawn(Foreman, database=url, shards=shards)
        store = await open_store(url_of_shard(url, 1))
        while len(await store.roll()) < shards:
            await asyncio.sleep(0.01)
        await store.close()


def states(url: str) -> dict[int, str]:
    return {one["shard"]: one.get("state", "active") for one in json.loads(told(url, "shards", "--json"))}


def test_shards_come_and_go_while_no_foreman_runs(url: str) -> None:
    assert told(url, "add-shard") == f"shard 3: added, database {url.replace('%d', '3')}\n"
    assert states(url) == {1: "active", 2: "active", 3: "active"}
    assert refused(url, "remove-shard", "3", "--yes") == (
        4, "shard 3 gets new flows; cordon it and wait until it is drained",
    )  # fmt: skip
    assert told(url, "cordon", "3") == "shard 3: drained, no flow on it is open\n"
    assert states(url)[3] == "drained"
    assert told(url, "uncordon", "3") == "shard 3: active, gets new flows\n"
    assert told(url, "drain", "3") == "shard 3: drained, no flow on it is open\n"
    assert refused(url, "remove-shard", "3")[0] == 1  # nobody says yes
    assert states(url)[3] == "drained"
    assert told(url, "remove-shard", "3", "--yes") == "shard 3: removed; its database is left as it is\n"
    assert states(url) == {1: "active", 2: "active"}
    assert told(url, "add-shard").startswith("shard 4: added")


def test_what_cannot_be_done_with_a_shard_is_said(url: str, tmp_path: Path) -> None:
    assert refused(url, "cordon", "7") == (2, "shard=7: no such shard; there are 1, 2")
    assert refused(url, "remove-shard", "1", "--yes")[0] == 4
    assert refused(url, "drain", "2", "--within", "soon")[0] == 2
    told(url, "cordon", "1")
    told(url, "cordon", "2")
    one = url.replace("%d", "1")
    code, why = refused(one, "shards")
    assert (code, "is that of shard 1 of several (there is 2, too); give the URL with %d" in why) == (2, True), why
    alone = f"sqlite:///{tmp_path}/alone.db"
    asyncio.run(made(alone, 1))
    code, why = refused(alone, "add-shard")
    assert (code, "the Foreman has one database" in why) == (2, True), why
    assert told(alone, "cordon", "1") == "shard 1: drained, no flow on it is open\n"
    assert states(alone) == {1: "drained"}


async def told_beside(url: str, *arguments: str) -> str:
    return await asyncio.to_thread(told, url, *arguments)


async def until(flows: Flows, shard: int, state: str) -> None:
    while {one.shard: one.state for one in await flows.shards()}.get(shard) != state:
        await asyncio.sleep(0.01)


def test_a_foreman_follows_and_a_shard_is_drained_when_its_last_flow_has_ended(url: str) -> None:
    async def go() -> None:
        async with ActorSystem() as system:
            # It follows the roll every quarter of a lease.
            await system.spawn(Foreman, database=url, shards=2, lease="400ms")
            await system.spawn(Till)
            flows = Flows(system)
            keys = [(await flows.run(Till.sale)).flow_key for _ in range(8)]
            mine = [key for key in keys if key.startswith("2-")]
            while not mine:
                keys.append((await flows.run(Till.sale)).flow_key)
                mine = [key for key in keys if key.startswith("2-")]
            count = f"{len(mine)} open flow{'s' * (len(mine) > 1)}"
            assert await told_beside(url, "cordon", "2") == f"shard 2: cordoned, {count}\n"
            await until(flows, 2, "cordoned")
            assert (await flows.create(Till.sale)).startswith("1-")
            late = await asyncio.to_thread(run, url, "drain", "2", "--within", "50ms")
            assert (late.exit_code, late.stderr) == (
                3, f"shard 2: cordoned, {count}\nshard 2: not drained after 50ms; it stays cordoned\n",
            )  # fmt: skip
            draining = asyncio.create_task(told_beside(url, "drain", "2"))
            for key in mine:
                await flows.cancel(key)
            assert await draining == "shard 2: drained, no flow on it is open\n"
            await told_beside(url, "remove-shard", "2", "--yes")
            while [one.shard for one in await flows.shards()] != [1]:
                await asyncio.sleep(0.01)

    asyncio.run(go())


def test_whoever_waits_for_a_shard_that_is_uncordoned_is_told(url: str) -> None:
    async def go() -> None:
        async with ActorSystem() as system:
            await system.spawn(Foreman, database=url, shards=2)
            await system.spawn(Till)
            flows = Flows(system)
            while not (await flows.run(Till.sale)).flow_key.startswith("2-"):
                pass
            draining = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "mbactor", "flows", "drain", "2", "--database", url,
                stdout=subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            assert draining.stderr is not None
            assert b"cordoned" in await draining.stderr.readline()
            await told_beside(url, "uncordon", "2")
            assert b"somebody has uncordoned it" in await draining.stderr.readline()
            assert await draining.wait() == 4

    asyncio.run(go())


def test_a_fingerprint_changes_with_what_happens(url: str) -> None:
    async def make() -> str:
        async with ActorSystem() as system:
            await system.spawn(Foreman, database=url, shards=2)
            await system.spawn(Till)
            return (await Flows(system).run(Till.sale)).flow_key

    key = asyncio.run(make())
    first = told(url, "fingerprint", key)
    assert first.endswith(" interrupted\n")
    assert told(url, "fingerprint", key) == first
    told(url, "cancel", key)
    found: dict[str, Any] = json.loads(told(url, "fingerprint", key, "--json"))
    assert found["status"] == "cancelled"
    assert found["fingerprint"] not in first


def test_while_shard_1_is_down_the_flows_of_the_others_are_seen_and_steered(
    mbactor_postgres_server: PostgresServer, tmp_path: Path
) -> None:
    url = numbered_databases(mbactor_postgres_server, "cli", 2)

    async def fill() -> dict[int, str]:
        async with ActorSystem() as system:
            await system.spawn(Till)
            await system.spawn(Foreman, database=url, shards=2)
            flows, keys = Flows(system), dict[int, str]()
            while len(keys) < 2:
                key = (await flows.run(Till.sale)).flow_key
                keys[int(key[0])] = key
            return keys

    keys = asyncio.run(fill())
    file = tmp_path / "topology.yaml"
    file.write_text(
        f"version: 1\nname: t\ntransport: local\nsupervisor:\n  children:\n"
        f"    - foreman: {{database: {json.dumps(url)}, shards: 2}}\n"
    )
    outage = Outage(mbactor_postgres_server, url)
    outage.begin(1)

    def by_file(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["flows", *arguments, "-f", str(file)])

    listed = by_file("list")
    assert listed.exit_code == 0, listed.output
    assert keys[2] in listed.stdout
    assert "shard 1 is not in this list" in listed.stderr
    assert by_file("resume", keys[2]).exit_code == 0
    code, said = by_file("show", keys[1]).exit_code, by_file("show", keys[1]).stderr
    assert (code, "shard 1 is down" in said) == (1, True)
    code, said = refused(url, "list")
    assert (code, "-f FILE, which says how many there are" in said) == (1, True)
    outage.begin(2)
    assert by_file("list").exit_code == 1
