"""Network namespaces for a test: a machine of its own for whatever runs in them, with a link that can be cut."""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")
_NEWNET = 0x40000000
_PLACES = Path("/var/run/netns")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


class Namespace:
    """One machine, reached from here over a link: `here` and `there` are its two ends."""

    def __init__(self, number: int) -> None:
        self.name = f"mbactor-{os.getpid()}-{number}"
        self._link = f"mb{os.getpid() % 100_000}n{number}"
        third, fourth = os.getpid() % 250, number * 4
        self.here, self.there = (f"198.18.{third}.{fourth + one}" for one in (1, 2))  # a range for such tests

    def make(self) -> None:
        _ip("netns", "add", self.name)
        _ip("link", "add", self._link, "type", "veth", "peer", "name", "net0", "netns", self.name)
        _ip("addr", "add", f"{self.here}/30", "dev", self._link)
        _ip("-n", self.name, "addr", "add", f"{self.there}/30", "dev", "net0")
        _ip("-n", self.name, "link", "set", "lo", "up")
        _ip("-n", self.name, "link", "set", "net0", "up")
        self.heal()

    def cut(self) -> None:
        """Nothing gets through, and nobody is told."""
        _ip("link", "set", self._link, "down")

    def heal(self) -> None:
        _ip("link", "set", self._link, "up")

    def remove(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run something with a loop of its own, in a thread whose sockets are that machine's."""

        def enter() -> T:
            place = os.open(_PLACES / self.name, os.O_RDONLY)
            try:
                if ctypes.CDLL(None, use_errno=True).setns(place, _NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            finally:
                os.close(place)
            return asyncio.run(_awaited(work))

        with ThreadPoolExecutor(1, self.name) as thread:  # which is nobody's afterwards: it stays in there
            return await asyncio.get_running_loop().run_in_executor(thread, enter)


async def _awaited(work: Callable[[], Awaitable[T]]) -> T:
    return await work()


@contextmanager
def namespaces(count: int) -> Iterator[list[Namespace]]:
    """So many machines. The test is skipped where they cannot be had."""
    if shutil.which("ip") is None:
        pytest.skip("no program `ip` (iproute2), so no network namespaces")
    made = [Namespace(number) for number in range(count)]
    try:
        try:
            for one in made:
                one.make()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"`{' '.join(error.cmd)}` is not permitted here: {error.stderr.strip()}")
        yield made
    finally:
        for one in made:
            one.remove()
