"""`mbactor run` of processes that know each other by a NATS server alone."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from mbactor import Actor, ActorSystem, endpoint
from mbactor.errors import ActorCrashed, NoSuchActor, NotAcknowledged
from tests.nats import NatsServer, nats_server
from tests.process import command, serving

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ACTORS = """
import asyncio, os
from mbactor import Actor, endpoint


class Till(Actor):
    host = "till.example"

    @endpoint
    async def pid(self) -> int:
        return os.getpid()

    @endpoint
    async def hang(self) -> None:
        await asyncio.Event().wait()

    @endpoint
    async def settings(self) -> list[str | float | bool]:
        node = self.ref.cell.node
        return [node.locality, node.ack_window, node.max_body, node.coalesce]


class Branch(Till):
    host = "branch.example"
"""
TREE = """
version: 1
name: shop
transport: {transport}
supervisor:
  children:
    - actor: shop_of_nats:Till
      shutdown: 1s
"""


class Till(Actor):
    """What is asked here, and served by the processes under test only."""

    host = "till.example"

    @endpoint
    async def pid(self) -> int:
        raise NotImplementedError

    @endpoint
    async def hang(self) -> None:
        raise NotImplementedError


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with nats_server(tmp_path) as running:
        yield running


def write(folder: Path, transport: str) -> Path:
    (folder / "shop_of_nats.py").write_text(ACTORS)
    file = folder / "shop.yaml"
    file.write_text(TREE.format(transport=transport))
    return file


async def test_the_settings_of_a_file_hold_in_its_process_and_in_those_of_its_children(
    server: NatsServer, tmp_path: Path
) -> None:
    file = write(tmp_path, server.url)
    settings = "locality: eu-west\nack_window: 300ms\nmax_body: 2000000\ncoalesce: false"
    branch = "    - {actor: shop_of_nats:Branch, process: true}"
    file.write_text(f"{file.read_text().replace('name: shop', settings)}{branch}\n")
    async with ActorSystem("asks", server.url, "shops") as system:
        with serving(file, tmp_path, MBACTOR_PLANE="shops") as running:
            await asyncio.to_thread(running.until, "Ctrl-C stops it")
            for host in ("till.example", "branch.example"):
                told = (await system.request("POST", f"https://{host}/settings")).json()
                assert told == ["eu-west", 0.3, 2_000_000, False], host


async def test_processes_find_each_other_share_the_work_and_die(server: NatsServer, tmp_path: Path) -> None:
    file = write(tmp_path, server.url)
    async with ActorSystem("asks", server.url) as system:
        with pytest.raises(NoSuchActor):
            await system.ask(Till.pid)
        with serving(file, tmp_path) as one, serving(file, tmp_path) as two:
            for running in (one, two):
                await asyncio.to_thread(running.until, "Ctrl-C stops it")
            pids = {await system.ask(Till.pid) for _ in range(50)}
            assert pids == {one.process.pid, two.process.pid}
            two.signal(signal.SIGKILL)
            two.process.wait()
            async with asyncio.timeout(60):
                while {await system.ask(Till.pid) for _ in range(20)} != {one.process.pid}:
                    pass
            hanging = asyncio.ensure_future(system.ask(Till.hang))
            await asyncio.sleep(0)
            await system.node.remote.flush()
            one.signal(signal.SIGKILL)
            one.process.wait()
            with pytest.raises((NotAcknowledged, ActorCrashed)):
                await asyncio.wait_for(hanging, 60)
            began = time.monotonic()
            with pytest.raises(NoSuchActor):
                await system.ask(Till.pid)
            assert time.monotonic() - began < 10, "half of the time budget"
        with serving(file, tmp_path) as three:
            await asyncio.to_thread(three.until, "Ctrl-C stops it")
            assert await system.ask(Till.pid) == three.process.pid
            three.signal(signal.SIGTERM)
            assert await asyncio.to_thread(three.end) == 0


async def test_it_is_told_which_broker_and_plane_it_is_found_at_and_whether_it_is_there(
    server: NatsServer, tmp_path: Path
) -> None:
    with serving(
        write(tmp_path, server.url.replace("//", "//ann:s3cret@")), tmp_path, MBACTOR_PLANE="shops"
    ) as running:
        await asyncio.to_thread(running.until, f"^over {server.url}, plane shops$")
        shown = ("tree", "--live", "--once", str(tmp_path / "shop.yaml"))
        assert "unready" not in (await asyncio.to_thread(partial(command, *shown, cwd=tmp_path))).stdout
        server.kill()
        await asyncio.to_thread(running.until_error, "bus.cut")
        told = (await asyncio.to_thread(partial(command, *shown, cwd=tmp_path))).stdout.splitlines()
        assert told[1].startswith(f"! unready: the connection to {server.url} is lost")
        assert "s3cret" not in "".join(told)


def test_a_file_is_checked_without_connecting_and_a_run_without_the_broker_ends_in_a_sentence(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    file = write(tmp_path, server.url.replace("//", "//ann:s3cret@"))
    assert command("check", str(file), cwd=tmp_path).returncode == 0
    done = command("run", str(file), cwd=tmp_path)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith(f"error: nobody listens at {server.url} (")
    assert "s3cret" not in done.stdout + done.stderr
    wrong = command("check", str(write(tmp_path, "nats://h:x")), cwd=tmp_path)
    assert wrong.returncode == 2
    assert "nats://host:port expected" in wrong.stdout + wrong.stderr
