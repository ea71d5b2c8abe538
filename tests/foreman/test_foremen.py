"""All Foremen of a system have one database: another one is refused, in a file and when it starts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mbactor import ActorSystem, MbactorError, Supervisor, child
from mbactor.foreman import Foreman
from mbactor.foreman.store.open import open_store
from mbactor.supervisor.topology import TopologyError, load
from tests.nats import nats_server


@pytest.mark.anyio
async def test_a_foreman_beside_one_with_another_database_is_a_failed_start(tmp_path: Path) -> None:
    one, other = (f"sqlite:///{tmp_path}/{name}.db" for name in ("one", "other"))
    async with ActorSystem() as system:
        await system.spawn(Foreman, database=one, workers=1)
        await system.spawn(Foreman, database=one.replace("one.db", "./one.db"), workers=1)
        for refused in (other, "sqlite://"):
            with pytest.raises(MbactorError) as raised:
                await system.spawn(Foreman, database=refused, workers=1)
            told = (
                f"database {refused} given, and the Foreman that runs in this system has database sqlite:///{tmp_path}"
            )
            assert told in str(raised.value)
    async with ActorSystem() as system:
        await system.spawn(Foreman, database=other, workers=1)


@pytest.mark.anyio
async def test_over_a_bus_a_foreman_hears_of_one_that_has_another_database(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """They may have the same URL, as of a file, on two machines."""
    with nats_server(tmp_path_factory.mktemp("nats")) as nats:
        async with ActorSystem("one", transport=nats.url) as one, ActorSystem("two", transport=nats.url) as two:
            await one.spawn(Foreman, database=f"sqlite:///{tmp_path}/one.db", workers=1)
            with pytest.raises(
                MbactorError, match=f"that runs in this system has database sqlite:///{tmp_path}/one.db"
            ):
                await two.spawn(Foreman, database=f"sqlite:///{tmp_path}/two.db", workers=1)
            await two.spawn(Foreman, database=f"sqlite:///{tmp_path}/one.db", workers=1)


@pytest.mark.parametrize("beside", [0, 1])
async def test_a_foreman_that_restarts_does_not_wait_for_its_own_answer(
    mbactor: ActorSystem, beside: int, tmp_path: Path
) -> None:
    """What is asked of an actor that restarts waits for its successor, and here the one that asks starts that."""
    database = f"sqlite:///{tmp_path}/flows.db"
    foremen = [child(Foreman, id=f"foreman-{n}", args={"workers": 1, "database": database}) for n in range(beside + 1)]
    await mbactor.spawn(child(Supervisor, id="top", args={"children": foremen}))
    now = asyncio.get_running_loop().time
    for _ in range(3):
        begun = now()
        await mbactor.supervisor("top").renew_child("foreman-0")
        assert now() - begun < 1


@pytest.mark.anyio
async def test_each_database_keeps_an_identity_of_its_own(shared_database: str) -> None:
    first = await open_store(shared_database)
    await first.close()
    again, other = await open_store(shared_database), await open_store("sqlite://")
    assert first.identity == again.identity != other.identity
    await again.close()
    await other.close()


FOREMEN = """
version: 1
supervisor:
  children:
    - foreman: {{database: "{0}"}}
    - supervisor: inner
      children:
        - foreman: {{id: another, database: "{1}"}}
"""


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("sqlite:///a.db", "sqlite:///./a.db", True),
        ("postgresql://ann:pw@h/flows", "postgres://bob@h:5432/flows", True),
        ("sqlite:///a.db", "sqlite:///b.db", False),
        ("sqlite://", "sqlite://", False),
        ("postgresql://ann:pw@h/flows", "postgresql://ann:pw@h/flows?search_path=shop", False),
        ("postgresql://ann:pw@h/flows", "sqlite:///a.db", False),
    ],
)
def test_a_file_whose_foremen_have_different_databases_is_refused(
    tmp_path: Path, one: str, other: str, alike: bool
) -> None:
    file = tmp_path / "tree.yaml"
    file.write_text(FOREMEN.format(one, other))
    if alike:
        load(file, {})
        return
    with pytest.raises(TopologyError) as refused:
        load(file, {})
    (problem,) = refused.value.problems
    assert problem.startswith(f"{file}:8:44: supervisor.children[1].children[0].foreman.database: database {other[:6]}")
    assert f"and the Foreman at {file}:5:7 has" in problem
    assert "pw" not in problem


@pytest.mark.parametrize(
    ("child", "problem"),
    [
        ("{supervisor: p, partitions: 2, children: [foreman: {}]}", "beside it, made of the same lines, has"),
        ('{supervisor: "mbactor.foreman:Foreman", replicas: 2}', "beside it, made of the same lines, has"),
        (
            '{supervisor: "mbactor.foreman:Foreman", replicas: 2, args: {database: "sqlite:///${replica}.db"}}',
            "database sqlite:///2.db given",
        ),
    ],
)
def test_several_foremen_of_the_same_lines_need_one_database_too(tmp_path: Path, child: str, problem: str) -> None:
    file = tmp_path / "tree.yaml"
    file.write_text(f"version: 1\nsupervisor:\n  children:\n    - {child}\n")
    with pytest.raises(TopologyError, match=problem):
        load(file, {})


def test_one_partition_is_one_foreman(tmp_path: Path) -> None:
    file = tmp_path / "tree.yaml"
    file.write_text("version: 1\nsupervisor: {children: [{supervisor: p, partitions: 1, children: [foreman: {}]}]}\n")
    load(file, {})


def test_a_database_that_is_a_secret_is_not_shown_where_it_is_not_the_same(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("sqlite:///hidden.db")
    file = tmp_path / "tree.yaml"
    file.write_text(FOREMEN.format("sqlite:///a.db", "${file:url}"))
    with pytest.raises(TopologyError, match="a secret given, and the Foreman at") as refused:
        load(file, {})
    assert "hidden" not in str(refused.value)
