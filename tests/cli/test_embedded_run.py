"""`mbactor run` of a tree with a broker of its own: it is seen, kept running, and leaves no process behind."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import httpx
import pytest

from tests.process import PATIENCE, Served, alive, command, serving

pytestmark = pytest.mark.slow

ACTORS = """
import os
from mbactor import Actor, endpoint


class Till(Actor):
    host = "till.example"

    @endpoint
    async def pid(self) -> int:
        return os.getpid()
"""
TREE = """
version: 1
name: shop
transport: embedded
supervisor:
  max_restarts: 0
  children:
    - actor: shop:Till
    - gateway: {port: 0}
"""


def events(served: Served, name: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in list(served.errors) if f'"{name}"' in line]


def gone(pid: int) -> bool:
    deadline = time.monotonic() + PATIENCE
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not alive(pid)


def test_the_broker_is_seen_restarted_at_nobodys_charge_and_ends_with_the_run(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(ACTORS)
    (tmp_path / "shop.yaml").write_text(TREE)
    places = {"XDG_RUNTIME_DIR": str(tmp_path)}
    with serving(tmp_path / "shop.yaml", tmp_path, **places) as served:
        first = int(served.until(r"broker  broker  process (\d+)  running")[1])
        url = served.url
        os.kill(first, signal.SIGKILL)
        served.until_error(f"nats-server: the process {first} was killed by SIGKILL")
        served.until_error('"broker.started".*"restarts": 1')
        served.until_error('"bus.back"')
        shown = command("tree", "shop.yaml", "--live", "--once", cwd=tmp_path, COLUMNS="110", **places)
        [line] = [line for line in shown.stdout.splitlines() if "broker" in line]
        assert "running" in line
        assert "1" in line.split()
        assert isinstance(httpx.get(f"{url}/till.example/pid", timeout=PATIENCE).json(), int)
        started = events(served, "broker.started")
        second = int(str(started[1]["pid"]))
        assert [one["port"] for one in started] == [started[0]["port"]] * 2
        served.signal(signal.SIGTERM)
        assert served.end() == 0
        assert not alive(second)
    told = served.told()
    assert "Server is ready" in told
    assert "authorization" not in told

    with serving(tmp_path / "shop.yaml", tmp_path, **places) as served:
        pid = int(served.until(r"broker  broker  process (\d+)  running")[1])
        served.signal(signal.SIGKILL)
        served.process.wait()
        assert gone(pid)
