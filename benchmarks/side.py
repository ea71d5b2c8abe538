"""One side of a way, in a process of its own.

    python -m benchmarks.side taker WAY LOOP URL      serves until its input ends
    python -m benchmarks.side asker WAY LOOP ADDRESS  asks what each line of its input says

A line of JSON says that it is ready: the address to ask at. Each line of an asker's input is a `Load`, and is answered
by a line with what was measured. Both end when their input does: no side outlives the benchmark, however that ended.
"""

from __future__ import annotations

import asyncio
import json
import sys

import msgspec

from benchmarks.harness import event_loops, settle_heap
from benchmarks.load import Load, run
from benchmarks.ways import WAYS, first_answer
from mbactor import observe
from mbactor.heap import keep_large_blocks


async def take(name: str, url: str, lines: asyncio.StreamReader) -> None:
    take_by = WAYS[name].take
    assert take_by is not None
    async with take_by(url) as address:
        settle_heap()
        _say(address)
        await lines.read()


async def ask(name: str, address: str, lines: asyncio.StreamReader) -> None:
    async with WAYS[name].asks(address) as asks:
        _say(address)
        answered: set[int] = set()
        while line := await lines.readline():
            load = msgspec.json.decode(line, type=Load)
            for number in set(range(load.destinations)) - answered:
                await first_answer(asks[number], load.body())
                answered.add(number)
            _say(await run(asks, load))


def _say(what: object) -> None:
    print(json.dumps(what), flush=True)


async def _input() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


def main(role: str, name: str, loop: str, address: str) -> None:
    """What the process does."""
    observe.LAST_RESORT_LIMIT = 0
    keep_large_blocks()  # as an actor system does: a floor that gives each block back would be none

    async def side() -> None:
        await (take if role == "taker" else ask)(name, address, await _input())

    with asyncio.Runner(loop_factory=event_loops()[loop]) as runner:
        runner.run(side())


if __name__ == "__main__":
    main(*sys.argv[1:])
