"""The kinds of event loops a promise has to hold on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest

from mbactor.testing import VirtualTimeLoop

T = TypeVar("T")
Factory = Callable[[], asyncio.AbstractEventLoop]


def uvloop_or_skip() -> asyncio.AbstractEventLoop:
    loop: asyncio.AbstractEventLoop = pytest.importorskip("uvloop").new_event_loop()
    return loop


LOOPS: dict[str, Factory] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop_or_skip,
    "virtual": VirtualTimeLoop,
}


def run(work: Coroutine[Any, Any, T], loop: Factory = asyncio.SelectorEventLoop) -> T:
    try:
        with asyncio.Runner(loop_factory=loop) as runner:
            return runner.run(work)
    finally:
        work.close()  # where the loop is not there and the test is skipped, the work never began
