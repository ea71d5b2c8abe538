"""A partition supervisor runs n children alike, and a key always finds the same of them."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbactor import Actor, ActorSystem, BadRequest, InvalidSpec, Unavailable, child, endpoint
from mbactor.supervisor.dynamic import DynamicSupervisor
from mbactor.supervisor.partition import PartitionSupervisor, partition_of
from mbactor.supervisor.spec import MOST_REPLICAS
from mbactor.supervisor.topology import TopologyError, load
from tests.supervisor.parts import Yard, running, until
from tests.supervisor.world import leaf

pytestmark = pytest.mark.anyio


class Cart(Actor):
    def __init__(self) -> None:
        self.items: list[str] = []

    @endpoint
    async def add(self, sku: str) -> list[str]:
        self.items.append(sku)
        return self.items

    @endpoint
    async def crash(self) -> None:
        raise ValueError("boom")


@pytest.fixture
async def system() -> AsyncIterator[ActorSystem]:
    async with ActorSystem() as system:
        yield system


# --- the choice -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "place"),
    [("", 4), ("customer-17", 1), ("größer", 6), (b"\x00\xff", 4), (17, 4), ("17", 4), (-1, 6), (2**80, 0)],
)
def test_a_key_chooses_the_same_partition_for_ever(key: Any, place: int) -> None:
    assert partition_of(key, 8) == place


def test_a_key_chooses_the_same_partition_in_every_process() -> None:
    code = "from mbactor.supervisor.partition import partition_of; print([partition_of(f'k{n}', 8) for n in range(64)])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == str([partition_of(f"k{n}", 8) for n in range(64)])


@given(st.text() | st.binary() | st.integers(), st.integers(1, 100))
def test_every_key_has_a_partition(key: Any, partitions: int) -> None:
    assert 0 <= partition_of(key, partitions) < partitions


def test_keys_that_count_up_are_spread_evenly() -> None:
    counts = Counter(partition_of(n, 8) for n in range(8000))
    assert len(counts) == 8
    assert max(counts.values()) < 1.2 * min(counts.values())


@pytest.mark.parametrize("key", [None, 1.5, True, ("a", 1), ["a"]])
def test_what_is_no_key_is_refused(key: Any) -> None:
    with pytest.raises(BadRequest, match="a text, bytes or a whole number expected"):
        partition_of(key, 8)


# --- the supervisor -------------------------------------------------------------------------------------------


async def test_a_key_keeps_its_partition_when_that_is_restarted(system: ActorSystem) -> None:
    carts = await system.spawn(PartitionSupervisor, child(Cart), partitions=4)
    assert [row.id for row in carts.which_children()] == ["cart-1", "cart-2", "cart-3", "cart-4"]
    mine = carts.partition("customer-17")
    assert carts.partition("customer-17") == mine
    assert await mine.ask(Cart.add, sku="tea") == ["tea"]
    other = next(carts.partition(n) for n in range(100) if carts.partition(n) != mine)
    assert await other.ask(Cart.add, sku="milk") == ["milk"]
    mine.tell(Cart.crash)
    assert await mine.ask(Cart.add, sku="rum") == ["rum"]
    assert carts.partition("customer-17") == mine
    assert await other.ask(Cart.add, sku="oats") == ["milk", "oats"]


async def test_a_partition_that_waits_for_its_restart_is_still_the_one_of_its_keys() -> None:
    yard = Yard()
    async with running(yard, PartitionSupervisor(leaf("p"), partitions=3, max_restarts=5)) as pool:
        assert isinstance(pool, PartitionSupervisor)
        id = pool.partition_id("a")
        part = pool.partition("a")
        assert part is yard.parts[id]
        await pool.terminate_child(id)
        assert pool.partition("a") is part
        assert await pool.restart_child(id) is part
        part.crash()
        await until(lambda: pool.count_children().active == 3)
        assert pool.partition("a") is part
        assert pool.count_children().specs == 3


async def test_partitions_may_be_supervisors(system: ActorSystem) -> None:
    pools = await system.spawn(PartitionSupervisor, child(DynamicSupervisor, id="pool"), partitions=2)
    ref = await pools.partition("a").start_child(child(Cart, id="a"))
    assert await ref.ask(Cart.add, sku="tea") == ["tea"]
    assert [row.id for row in pools.partition("a").which_children()] == ["a"]


async def test_partitions_are_fixed() -> None:
    class Parts(PartitionSupervisor):
        children = (leaf("p"),)
        partitions = 2

    async with running(Yard(), Parts()) as pool:
        with pytest.raises(InvalidSpec, match="child 'x' given to top, whose 2 partitions are fixed"):
            await pool.start_child(leaf("x"))
        await pool.terminate_child("p-1")
        with pytest.raises(InvalidSpec, match="child 'p-1' of top is one of 2 partitions"):
            await pool.delete_child("p-1")
        assert [row.id for row in pool.which_children()] == ["p-1", "p-2"]


async def test_one_partition_has_a_number_too() -> None:
    async with running(Yard(), PartitionSupervisor(leaf("p"), partitions=1)) as pool:
        assert [row.id for row in pool.which_children()] == ["p-1"]


async def test_outside_a_tree_there_is_no_partition() -> None:
    with pytest.raises(Unavailable):
        PartitionSupervisor(leaf("p"), partitions=1).partition("a")
    unstarted = Yard().bound(PartitionSupervisor(leaf("p"), partitions=1))
    assert isinstance(unstarted, PartitionSupervisor)
    with pytest.raises(Unavailable):
        unstarted.partition("a")


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"partitions": 2}, "children: 0 given, 1 expected"),
        ({"child": leaf("p")}, "partitions: 0 given, a whole number from 1 to 10000 expected"),
        ({"child": leaf("p"), "partitions": True}, "partitions: True given"),
        ({"child": leaf("p"), "partitions": MOST_REPLICAS + 1}, "partitions: 10001 given"),
        ({"child": leaf("p", replicas=2), "partitions": 2}, "child 'p': replicas: 2 given, 1 expected here"),
        ({"child": Cart, "partitions": 2}, r"child\(Cart\) expected"),
    ],
)
async def test_a_faulty_partition_supervisor_is_refused(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidSpec, match=problem):
        await Yard().bound(PartitionSupervisor(**given)).start()


# --- in a file ------------------------------------------------------------------------------------------------

FILE = """
version: 1
supervisor:
  children:
    - supervisor: carts
      partitions: {partitions}
      max_restarts: 7
      children:
        - actor: tests.supervisor.test_partition:Cart
{more}
"""


def read(folder: Path, partitions: str, more: str = "") -> Any:
    (folder / "tree.yaml").write_text(dedent(FILE).format(partitions=partitions, more=more))
    return load(folder / "tree.yaml", {})


def test_a_file_says_how_many_of_its_one_child_a_supervisor_runs(tmp_path: Path) -> None:
    (spec,) = read(tmp_path, "3").supervisor.children
    assert (spec.id, spec.target, spec.kind) == ("carts", PartitionSupervisor, "supervisor")
    inner = spec.target(**spec.args).spec()
    assert [one.id for one in inner.children] == ["cart-1", "cart-2", "cart-3"]
    assert inner.max_restarts == 7


@pytest.mark.parametrize(
    ("partitions", "more", "problem"),
    [
        ("0", "", "'0' given, a whole number >= 1 and <= 10000 expected"),
        (
            "2",
            "        - {actor: tests.supervisor.test_partition:Cart, id: other}",
            "2 children given beside `partitions`",
        ),
        ("2", "          replicas: 2", "2 children given beside `partitions`, 1 expected"),
        ("99999", "", "'99999' given, a whole number >= 1 and <= 10000 expected"),
    ],
)
def test_a_file_with_faulty_partitions_is_refused(tmp_path: Path, partitions: str, more: str, problem: str) -> None:
    with pytest.raises(TopologyError, match=problem):
        read(tmp_path, partitions, more)
