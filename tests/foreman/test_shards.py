"""Several databases under one Foreman: placement, cordons, shards that come and go, and those that are down."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbactor import Actor, ActorSystem, BadRequest
from mbactor.errors import FlowNotFound, InvalidSpec, MbactorError, NotAcknowledged, ShardInUse, Unavailable
from mbactor.foreman import END, Flow, FlowOptions, Flows, Foreman, Graph, task, workflow
from mbactor.foreman.committer import Committer
from mbactor.foreman.keys import parse_key
from mbactor.foreman.shards import Member, chosen
from mbactor.foreman.store.open import is_numbered, open_store, url_of_shard
from mbactor.foreman.store.operations import AddShard, Create, NewStep
from mbactor.foreman.store.rows import FlowFilter
from mbactor.foreman.store.store import StoreTrouble
from mbactor.seams import armed
from mbactor.supervisor.topology import load
from mbactor.testing.postgres import PostgresServer
from tests.foreman.postgres import Outage, numbered_databases

EXAMPLE = Path(__file__).parents[2] / "examples" / "credit_approval"


class Desk(Actor):
    host = "desk.example"

    @task
    async def stamp(self) -> dict[str, bool]:
        return {"stamped": True}

    @task
    async def sign(self, flow: Flow) -> None:
        flow["signed"] = flow.interrupt({"sign": "here"})

    @workflow
    def stamping(self) -> Graph:
        graph = Graph("Stamping")
        graph.add_transition(Desk.stamp, END)
        return graph

    @workflow
    def signing(self) -> Graph:
        graph = Graph("Signing")
        graph.add_transition(Desk.sign, END)
        return graph


def shard_of(key: str) -> int:
    return parse_key(key).shard


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await condition():
            await asyncio.sleep(0.02)


async def refused(call: Awaitable[Any], status: int) -> str:
    with pytest.raises(MbactorError) as error:
        await call
    assert error.value.status == status, error.value
    return str(error.value)


# --- which database -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "url"),
    [
        ("sqlite:///flows-%d.db", "sqlite:///flows-3.db"),
        ("postgresql://host-%d/flows_%d", "postgresql://host-3/flows_3"),
        ("postgresql://user:%d0%bf@host/flows_%d?host=%2Ftmp", "postgresql://user:%d0%bf@host/flows_3?host=%2Ftmp"),
    ],
)
def test_the_number_of_a_shard_stands_where_its_place_is(template: str, url: str) -> None:
    assert is_numbered(template)
    assert not is_numbered(url)
    assert url_of_shard(template, 3) == url


@pytest.mark.parametrize(
    ("database", "shards", "told"),
    [
        ("sqlite:///flows.db", 2, "shards: 2 the URL has no %d"),
        ("sqlite://", 2, "shards: 2 the URL has no %d"),
        ("sqlite:///flows-%d.db", 1, "shards: 1 the URL has %d, and one shard only"),
        ("sqlite:///flows-%d.db", 0, "shards: 0 given, a whole number >= 1"),
        ("sqlite:///flows-%d.db", True, "shards: True given"),
    ],
)
def test_shards_and_the_place_of_their_number_go_together(database: str, shards: Any, told: str) -> None:
    with pytest.raises(InvalidSpec, match=told):
        Foreman(database=database, shards=shards)


@settings(max_examples=60)
@given(st.text(max_size=20), st.integers(1, 12))
def test_one_more_shard_gets_keys_and_moves_none_between_the_others(key: str, count: int) -> None:
    members = [Member(number) for number in range(1, count + 2)]
    before, after = chosen(members[:-1], key), chosen(members, key)
    assert after in {before, members[-1]}


def test_keys_are_spread_over_all_shards() -> None:
    members = [Member(number) for number in range(1, 5)]
    counts = [0, 0, 0, 0]
    for number in range(4_000):
        counts[chosen(members, f"order-{number}").number - 1] += 1
    assert min(counts) > 850


@pytest.mark.anyio
async def test_the_database_of_a_shard_is_not_opened_as_that_of_another(shared_database: str) -> None:
    await (await open_store(shared_database, 2)).close()
    with pytest.raises(InvalidSpec, match="is that of shard 2 and was given as that of shard 1"):
        await open_store(shared_database)
    await (await open_store(shared_database, 2)).close()


async def test_two_shards_with_one_database_are_refused(mbactor: ActorSystem, tmp_path: Path) -> None:
    (tmp_path / "flows-2.db").symlink_to(tmp_path / "flows-1.db")
    with pytest.raises(MbactorError, match="that of shard 1 and was given as that of shard 2"):
        await mbactor.spawn(Foreman, database=f"sqlite:///{tmp_path}/flows-%d.db", shards=2)


# --- placement --------------------------------------------------------------------------------------------


async def spawn(system: ActorSystem, folder: Path, shards: int = 3, **settings: Any) -> Flows:
    await system.spawn(Desk)
    await system.spawn(Foreman, database=f"sqlite:///{folder}/flows-%d.db", shards=shards, workers=1, **settings)
    return Flows(system)


async def test_flows_are_spread_run_on_their_shard_and_are_listed_in_one_order(
    mbactor: ActorSystem, tmp_path: Path
) -> None:
    flows = await spawn(mbactor, tmp_path)
    keys = [await flows.create(Desk.stamping) for _ in range(30)]
    outcomes = [await flows.wait(key) for key in keys]
    assert {outcome.status for outcome in outcomes} == {"completed"}
    assert {shard_of(key) for key in keys} == {1, 2, 3}
    page = await flows.list(limit=20)
    rest = await flows.list(limit=20, cursor=page.next_cursor)
    assert sorted(flow.flow_key for flow in page.flows + rest.flows) == sorted(keys)
    assert page.notes == []
    assert [shard_of(flow.flow_key) for flow in (await flows.list(shard=2)).flows] == [2] * len(
        [key for key in keys if shard_of(key) == 2]
    )
    with pytest.raises(FlowNotFound):
        await flows.snapshot("4-1-" + "0" * 16)
    info = await flows.shards()
    assert [(one.shard, one.state, one.error, one.flows) for one in info] == [
        (number, "active", None, 0) for number in (1, 2, 3)
    ]


async def test_a_thread_stays_on_its_shard_though_it_is_cordoned(mbactor: ActorSystem, tmp_path: Path) -> None:
    flows = await spawn(mbactor, tmp_path)
    first = await flows.create(Desk.stamping)
    await flows.cordon(shard_of(first))
    keys = [await flows.create(Desk.stamping, {}, FlowOptions(thread_key=first)) for _ in range(8)]
    assert {shard_of(key) for key in keys} == {shard_of(first)}


async def test_an_idempotency_key_finds_its_flow_whatever_becomes_of_the_shards(
    mbactor: ActorSystem, tmp_path: Path
) -> None:
    flows = await spawn(mbactor, tmp_path, shards=2)

    async def create(number: int) -> str:
        return await flows.create(Desk.signing, {}, FlowOptions(idempotency_key=f"order-{number}"))

    keys = [(await asyncio.gather(*(create(number) for _ in range(3))))[0] for number in range(12)]
    assert [await create(number) for number in range(12)] == keys
    assert {shard_of(key) for key in keys} == {1, 2}
    await flows.cordon(1)
    assert [await create(number) for number in range(12)] == keys
    await flows.add_shard()
    assert [await create(number) for number in range(12)] == keys
    # A Foreman that has not learnt of the new one would not find what has its key there.
    assert {shard_of(await create(number)) for number in range(12, 40)} == {2}
    await asyncio.sleep(60)
    assert [await create(number) for number in range(12)] == keys
    assert {shard_of(await create(number)) for number in range(40, 80)} == {2, 3}
    joined = FlowOptions(idempotency_key="order-1", thread_key=next(key for key in keys if shard_of(key) == 1))
    assert await flows.create(Desk.signing, {}, joined) == keys[1]


async def test_flows_that_share_a_concurrency_key_share_its_places_on_one_shard(
    mbactor: ActorSystem, tmp_path: Path
) -> None:
    flows = await spawn(mbactor, tmp_path)
    for customer in range(6):
        options = FlowOptions(concurrency_key=f"customer-{customer}", concurrency_limit=2)
        keys = [await flows.create(Desk.signing, {}, options) for _ in range(4)]
        order = f"order-of-{customer}"
        with_an_order = FlowOptions(concurrency_key=options.concurrency_key, concurrency_limit=2, idempotency_key=order)
        keys.append(await flows.create(Desk.signing, {}, with_an_order))
        assert len({shard_of(key) for key in keys}) == 1
        assert await flows.create(Desk.signing, {}, with_an_order) == keys[-1]
        queued = [one.queued for one in (await flows.list(concurrency_key=f"customer-{customer}")).flows]
        assert queued == [True, True, True, False, False]
    assert {shard_of(one.flow_key) for one in (await flows.list()).flows} == {1, 2, 3}


# --- shards that come and go ---------------------------------------------------------------------------


async def test_a_cordoned_shard_is_drained_and_can_then_be_removed(mbactor: ActorSystem, tmp_path: Path) -> None:
    flows = await spawn(mbactor, tmp_path)
    keys = [await flows.create(Desk.signing) for _ in range(30)]
    there = [key for key in keys if shard_of(key) == 2]
    assert "gets new flows; cordon it" in await refused(flows.remove_shard(2), 409)
    await flows.cordon(2)
    assert {shard_of(await flows.create(Desk.stamping)) for _ in range(20)} == {1, 3}
    assert [(one.shard, one.state, one.flows) for one in await flows.shards()][1] == (2, "cordoned", len(there))
    with pytest.raises(ShardInUse, match=f"shard 2 has {len(there)} open flows"):
        await flows.remove_shard(2)
    for key in there:
        await flows.wait(key)
        await flows.resume(key, "Ada")
        assert (await flows.wait(key)).status == "completed"
    assert (await flows.shards())[1].state == "drained"
    await flows.remove_shard(2)
    assert [one.shard for one in await flows.shards()] == [1, 3]
    with pytest.raises(FlowNotFound):
        await flows.snapshot(there[0])
    assert "keeps the roll" in await refused(flows.remove_shard(1), 409)
    assert "no such shard; there are 1, 3" in await refused(flows.cordon(2), 400)
    await flows.cordon(1)
    await flows.cordon(3)
    assert "no shard takes new flows; cordoned: 1, 3" in await refused(flows.create(Desk.stamping), 503)
    await flows.uncordon(3)
    assert shard_of(await flows.create(Desk.stamping)) == 3


@pytest.mark.anyio
async def test_what_became_of_the_shards_outlives_the_foreman(tmp_path: Path) -> None:
    async with ActorSystem() as system:
        flows = await spawn(system, tmp_path, shards=3)
        assert await flows.add_shard() == 4
        await flows.cordon(3)
        await flows.cordon(2)
        await flows.remove_shard(2)
    async with ActorSystem() as system:
        flows = await spawn(system, tmp_path, shards=3)
        assert [(one.shard, one.state) for one in await flows.shards()] == [
            (1, "active"),
            (3, "drained"),
            (4, "active"),
        ]
        assert await flows.add_shard() == 5


async def test_a_shard_is_added_while_others_work(mbactor: ActorSystem, tmp_path: Path) -> None:
    flows = await spawn(mbactor, tmp_path, shards=2)
    assert await flows.add_shard() == 3
    # Only once every Foreman has learnt of it.
    assert {shard_of(await flows.create(Desk.stamping)) for _ in range(20)} == {1, 2}
    await asyncio.sleep(6)
    keys = [await flows.create(Desk.stamping) for _ in range(40)]
    assert {shard_of(key) for key in keys} == {1, 2, 3}
    assert {(await flows.wait(key)).status for key in keys} == {"completed"}


async def test_what_has_an_idempotency_key_does_not_wait_for_a_shard_that_is_being_added(
    mbactor: ActorSystem, tmp_path: Path
) -> None:
    flows = await spawn(mbactor, tmp_path, shards=2)
    adding = asyncio.create_task(flows.add_shard())
    keys: list[str] = []
    while not adding.done():
        keys.append(await flows.create(Desk.stamping, {}, FlowOptions(idempotency_key=f"order-{len(keys)}")))
    assert await adding == 3
    assert keys
    assert {shard_of(key) for key in keys} <= {1, 2}


async def test_a_shard_whose_database_cannot_be_used_is_not_added(mbactor: ActorSystem, tmp_path: Path) -> None:
    flows = await spawn(mbactor, tmp_path, shards=2)
    (tmp_path / "flows-3.db").mkdir()
    await refused(flows.add_shard(), 500)
    assert [one.shard for one in await flows.shards()] == [1, 2]


@pytest.fixture(params=["file", "postgres"])
def numbered(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of five empty databases of each kind."""
    if request.param == "file":
        return f"sqlite:///{tmp_path}/flows-%d.db"
    server: PostgresServer = request.getfixturevalue("mbactor_postgres_server")
    name = f"numbered_{abs(hash(request.node.name)) % 10**9}"
    server._sql(*(f"CREATE SCHEMA {name}_{number}" for number in range(1, 6)))
    return f"{server.url}&search_path={name}_%d"


@pytest.mark.anyio
async def test_shards_that_are_added_at_the_same_moment_get_numbers_of_their_own(numbered: str) -> None:
    adding = asyncio.Barrier(3)
    first = [True, True, True]

    async def hold(operations: list[Any]) -> None:
        """All three have chosen a number before any of them writes it."""
        if first and any(isinstance(one, AddShard) for one in operations):
            first.pop()
            await adding.wait()

    async with ActorSystem("one") as one, ActorSystem("two") as two, ActorSystem("three") as three:
        clients = []
        for system in (one, two, three):
            await system.spawn(Foreman, database=numbered, shards=2, workers=1)
            clients.append(Flows(system))
        with armed("foreman.write.before", hold):
            assert sorted(await asyncio.gather(*(flows.add_shard() for flows in clients))) == [3, 4, 5]
        (store, *rest) = [await open_store(url_of_shard(numbered, number), number) for number in range(1, 6)]
        assert await store.roll() == dict.fromkeys(range(1, 6), "active")
        for opened in (store, *rest):
            await opened.close()


async def test_a_foreman_with_one_database_cannot_add_another(mbactor: ActorSystem) -> None:
    await mbactor.spawn(Foreman)
    with pytest.raises(BadRequest, match="has one database"):
        await Flows(mbactor).add_shard()


TOPOLOGY = """
version: 1
name: office
supervisor:
  children:
    - foreman: {{database: "sqlite:///{folder}/flows-%d.db", shards: {shards}, workers: 1}}
    - actor: tests.foreman.test_shards:Desk
"""


def test_the_example_has_an_overlay_with_shards() -> None:
    topology = load(EXAMPLE / "topology.yaml", {}, [EXAMPLE / "shards.yaml"])
    (foreman,) = [child for child in topology.supervisor.children if child.target is Foreman]
    assert foreman.args == {"database": "sqlite:///credit_flows-%d.db", "workers": 2, "shards": 2}
    Foreman(**foreman.args)


async def test_a_file_with_more_shards_is_applied_to_the_running_system(mbactor_loop: object, tmp_path: Path) -> None:
    file = tmp_path / "office.yaml"
    file.write_text(TOPOLOGY.format(folder=tmp_path, shards=2))
    async with ActorSystem("office", tree=load(file, {}).supervisor) as system:
        flows = Flows(system)
        key = await flows.create(Desk.signing)
        file.write_text(TOPOLOGY.format(folder=tmp_path, shards=4))
        await system.apply(load(file, {}))
        assert [one.shard for one in await flows.shards()] == [1, 2, 3, 4]
        # As with any new shard, first every Foreman has to learn of it.
        assert {shard_of(await flows.create(Desk.stamping)) for _ in range(60)} == {1, 2}
        await asyncio.sleep(6)
        assert {shard_of(await flows.create(Desk.stamping)) for _ in range(60)} == {1, 2, 3, 4}
        await flows.wait(key)
        await flows.resume(key, "Ada")
        assert (await flows.wait(key)).state == {"signed": "Ada"}


@pytest.mark.anyio
async def test_all_foremen_of_the_same_databases_follow_what_one_was_told(tmp_path: Path) -> None:
    async with ActorSystem("one") as one, ActorSystem("two") as two:
        first = await spawn(one, tmp_path, shards=2, lease=0.4)
        second = await spawn(two, tmp_path, shards=2, lease=0.4)
        await first.add_shard()
        await first.cordon(2)

        async def known() -> bool:
            return [(info.shard, info.state) for info in await second.shards()] == [
                (1, "active"), (2, "drained"), (3, "active"),
            ]  # fmt: skip

        await until(known)
        keys = [await second.create(Desk.signing) for _ in range(20)]
        assert {shard_of(key) for key in keys} <= {1, 3}
        assert {(await first.wait(key)).status for key in keys} == {"interrupted"}


@pytest.mark.anyio
async def test_a_flow_that_was_put_on_a_shard_as_it_was_removed_is_not_lost(tmp_path: Path) -> None:
    """The other Foreman has not learnt of the cordon when the shard is removed."""
    async with ActorSystem("one") as one, ActorSystem("two") as two:
        first = await spawn(one, tmp_path, shards=2, lease=2)
        second = await spawn(two, tmp_path, shards=2, lease=2)
        while shard_of((await second.run(Desk.stamping)).flow_key) != 1:
            pass  # it reads the roll before it writes there
        await first.cordon(2)
        await first.remove_shard(2)
        keys = [await second.create(Desk.signing) for _ in range(20)]
        there = [key for key in keys if shard_of(key) == 2]
        assert there

        async def found() -> bool:
            return [(info.shard, info.state, info.flows) for info in await first.shards()][1:] == [
                (2, "cordoned", len(there))
            ]

        await until(found)
        assert (await first.wait(there[0])).status == "interrupted"


async def test_workers_that_crash_over_and_over_take_nothing_but_their_shard(
    mbactor: ActorSystem, tmp_path: Path
) -> None:
    flows = await spawn(mbactor, tmp_path, shards=2)
    waiting = await flows.create(Desk.signing)
    await flows.wait(waiting)
    other = 3 - shard_of(waiting)
    await flows.cordon(shard_of(waiting))
    crashes: list[float] = []

    async def crash(**_: Any) -> None:
        crashes.append(asyncio.get_running_loop().time())
        raise RuntimeError("a fault of the worker")

    with armed("foreman.execute.before", crash):
        broken = await flows.create(Desk.stamping)
        assert shard_of(broken) == other
        for _ in range(30):  # one that is lost again and again waits, so others take its place
            await asyncio.sleep(2)
            with suppress(MbactorError):
                await flows.create(Desk.stamping)
        assert len(crashes) > 10
        assert (await flows.snapshot(waiting)).status == "interrupted"

    async def is_done() -> bool:
        with suppress(Unavailable):
            return (await flows.snapshot(broken)).status == "completed"
        return False

    await until(is_done)


# --- shards that are down ------------------------------------------------------------------------------------


@pytest.fixture
def three_databases(mbactor_postgres_server: PostgresServer, mbactor_loop: object, request: Any) -> str:
    return numbered_databases(mbactor_postgres_server, request.node.name, 3)


@pytest.mark.mbactor(real_time=True)
async def test_a_shard_that_is_down_at_the_start_takes_nothing_from_the_others(
    mbactor: ActorSystem, mbactor_postgres_server: PostgresServer, three_databases: str
) -> None:
    outage = Outage(mbactor_postgres_server, three_databases)
    for shard in (1, 2, 3):
        outage.begin(shard)
    with pytest.raises(MbactorError, match="does not answer"):
        await mbactor.spawn(Foreman, database=three_databases, shards=3, workers=1)
    outage.end(2)
    outage.end(3)
    await mbactor.spawn(Desk)
    await mbactor.spawn(Foreman, database=three_databases, shards=3, workers=1)
    flows = Flows(mbactor)
    keys = [(await flows.run(Desk.stamping)).flow_key for _ in range(20)]
    assert {shard_of(key) for key in keys} == {2, 3}

    async def is_told() -> bool:
        page = await flows.list()
        return [note.partition(":")[0] for note in page.notes] == ["shard 1 is not in this list"]

    await until(is_told)
    assert len((await flows.list()).flows) == 20
    assert "does not answer" in str((await flows.shards())[0].error)

    async def is_down() -> bool:
        return "shard 1 is down: " in await refused(flows.snapshot("1-1-" + "0" * 16), 503)

    await until(is_down)
    assert "shard 1 is down: " in await refused(flows.cordon(2), 503)
    outage.end(1)

    async def is_back() -> bool:
        return (await flows.shards())[0].error is None

    await until(is_back)

    async def gets_flows() -> bool:
        return shard_of((await flows.run(Desk.stamping)).flow_key) == 1

    await until(gets_flows)


@pytest.mark.mbactor(real_time=True)
async def test_a_shard_that_goes_down_later_loses_nothing_and_is_told_by_name(
    mbactor: ActorSystem, mbactor_postgres_server: PostgresServer, three_databases: str
) -> None:
    outage = Outage(mbactor_postgres_server, three_databases)
    await mbactor.spawn(Desk)
    await mbactor.spawn(Foreman, database=three_databases, shards=3, workers=1)
    flows = Flows(mbactor)
    keys = [(await flows.run(Desk.signing)).flow_key for _ in range(20)]
    there = [key for key in keys if shard_of(key) == 2]
    outage.begin(2)
    # From the first moment on.
    assert {shard_of(key) for key in await asyncio.gather(*(flows.create(Desk.stamping) for _ in range(50)))} == {1, 3}

    async def is_down() -> bool:
        return "shard 2 is down: " in await refused(flows.snapshot(there[0]), 503)

    await until(is_down)
    assert "shard 2 is down: " in await refused(flows.cancel(there[0]), 503)
    assert (await flows.shards())[1].error is not None
    assert {shard_of((await flows.run(Desk.stamping)).flow_key) for _ in range(20)} == {1, 3}
    key = FlowOptions(idempotency_key="new")
    assert "shard 2 is down" in await refused(flows.create(Desk.stamping, {}, key), 503)
    outage.end(2)

    async def is_back() -> bool:
        return (await flows.shards())[1].error is None

    await until(is_back)
    await flows.resume(there[0], "Ada")
    assert (await flows.wait(there[0])).state == {"signed": "Ada"}


@pytest.mark.mbactor(real_time=True)
async def test_what_a_shard_may_have_taken_before_it_went_down_keeps_neither_others_nor_the_stop(
    mbactor_postgres_server: PostgresServer, three_databases: str
) -> None:
    outage = Outage(mbactor_postgres_server, three_databases)
    store = await open_store(url_of_shard(three_databases, 2), 2)
    committer = Committer(store, lambda _: None)

    def new() -> Create:
        return Create("f" * 16, "url", "name", "hash", b"{}", NewStep("start", "0" * 16, 1, 100, state=b"{}"))

    async def lost(**_: Any) -> None:
        # By then the others have been handed in behind it.
        outage.begin(2)
        raise ConnectionResetError("the answer was lost")

    with armed("foreman.commit.after", lost):
        first = asyncio.ensure_future(committer.commit(new()))
        await asyncio.sleep(0)
        hasty = asyncio.ensure_future(committer.commit(new(), patient=False))
        with pytest.raises(StoreTrouble, match="a commit was not answered"):
            await hasty  # it may be created on another shard
    with pytest.raises(StoreTrouble, match="a commit was not answered"):
        await committer.commit(new(), patient=False)
    assert not first.done()  # nobody may create that again
    patient = asyncio.ensure_future(committer.commit(new()))
    await committer.close()
    with pytest.raises(NotAcknowledged, match="whether this was written is not known"):
        await first
    with pytest.raises(StoreTrouble):
        await patient
    outage.end(2)
    await store.close()
    again = await open_store(url_of_shard(three_databases, 2), 2)
    assert len(await again.flows(FlowFilter())) == 1
    await again.close()


@pytest.mark.mbactor(real_time=True)
async def test_a_removed_shard_that_is_down_hinders_nobody_and_is_looked_at_when_it_is_back(
    mbactor: ActorSystem, mbactor_postgres_server: PostgresServer, three_databases: str
) -> None:
    outage = Outage(mbactor_postgres_server, three_databases)
    await mbactor.spawn(Desk)
    await mbactor.spawn(Foreman, database=three_databases, shards=3, workers=1, lease=0.4)
    flows = Flows(mbactor)

    async def states() -> list[tuple[int, str]]:
        return [(one.shard, one.state) for one in await flows.shards()]

    while shard_of(left := (await flows.run(Desk.signing)).flow_key) != 3:
        pass
    outage.begin(3)
    # As another Foreman does that has found it drained, before it knew of the flow.
    connection = await asyncpg.connect(url_of_shard(three_databases, 1))
    await connection.execute("UPDATE mbactor_shard SET state = 'removed' WHERE shard = 3")
    await connection.close()

    async def is_gone() -> bool:
        return [number for number, _ in await states()] == [1, 2]

    await until(is_gone)
    await flows.cordon(2)
    await flows.uncordon(2)
    assert await states() == [(1, "active"), (2, "active")]
    outage.end(3)

    async def is_back() -> bool:
        return [(one.state, one.flows) for one in await flows.shards() if one.shard == 3] == [("cordoned", 1)]

    await until(is_back)
    assert (await flows.snapshot(left)).status == "interrupted"
