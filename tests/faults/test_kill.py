"""The whole process is killed in the middle of its flows: none that was acknowledged is lost, none ends twice."""

from __future__ import annotations

import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.work import NODES
from tests.process import PATIENCE, serving

TREE = """
version: 1
name: work
supervisor:
  children:
    - foreman: {database: "sqlite:///flows.db", workers: 2, lease: 1s}
    - actor: tests.faults.work:Work
    - gateway: {port: "${PORT}"}
"""

FLOWS = 200


def _begin(client: httpx.Client, url: str, number: int, keys: dict[int, str]) -> None:
    try:
        response = client.post(f"{url}/work.example/begin", json={"number": number})
    except httpx.HTTPError:
        return
    if response.status_code == 200:
        keys[number] = response.json()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_no_acknowledged_flow_is_lost_and_none_ends_twice(tmp_path: Path, seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    topology = tmp_path / "topology.yaml"
    topology.write_text(TREE)
    keys: dict[int, str] = {}
    deaths = sorted(chance.randrange(20, FLOWS - 20) for _ in range(2))
    begun = 0
    for death in [*deaths, None]:
        with serving(topology, tmp_path) as served, httpx.Client(timeout=PATIENCE) as client:
            url = served.url
            with ThreadPoolExecutor(16) as pool:
                asked = [pool.submit(_begin, client, url, n, keys) for n in range(begun, FLOWS)]
                while death is not None and len(keys) < death and not all(one.done() for one in asked):
                    time.sleep(0.001)
                if death is not None:
                    served.signal(signal.SIGKILL)
            begun = max(keys) + 1
            if death is None:
                _check(client, url, keys, tmp_path)
                served.signal(signal.SIGTERM)
                assert served.end() == 0, served.told()


def _check(client: httpx.Client, url: str, keys: dict[int, str], folder: Path) -> None:
    def ask(name: str, **arguments: Any) -> Any:
        deadline = time.monotonic() + PATIENCE
        while (response := client.post(f"{url}/work.example/{name}", json=arguments)).status_code == 408:
            assert time.monotonic() < deadline, "a busy machine may take longer than a time budget, but not for ever"
        assert response.status_code == 200, response.text
        return response.json()

    def ended(item: tuple[int, str]) -> None:
        number, key = item
        outcome = ask("end", flow_key=key)
        assert outcome["status"] == "completed", outcome
        assert outcome["state"] == {"number": number, "sumDone": 3, "result": number * 2}, outcome
        nodes = ask("nodes", flow_key=key)
        assert sorted(nodes) == [[node, "completed"] for node in NODES]

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ended, keys.items()))
    assert ask("count") >= len(keys)
    ran = (folder / "runs.txt").read_text().splitlines()
    assert len({line.split()[0] for line in ran}) >= 4 * len(keys), "each step has a key of its own"
