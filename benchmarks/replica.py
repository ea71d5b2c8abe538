"""A process with a Foreman, and actors for its tasks, that share a database with others.

    python -m benchmarks.replica LOOP URL

A line of JSON says that it is ready. Each line of its input says how many flows to keep in flight, and for how long; a
line with what was measured answers it. It ends when its input does.
"""

from __future__ import annotations

import asyncio
import json
import sys

from benchmarks.flows import LEASE, LINEAR, Load, Nothing, drive
from benchmarks.harness import event_loops, settle_heap
from mbactor import ActorSystem, observe
from mbactor.foreman import Flows, Foreman


async def serve(url: str) -> None:
    async with ActorSystem() as system:
        await system.spawn(Foreman, database=url, lease=LEASE)
        await system.spawn(Nothing)
        settle_heap()
        _say("ready")
        lines = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        while line := await lines.readline():
            asked = json.loads(line)
            load = Load("a replica", Nothing.linear, {"number": 1}, LINEAR, asked["in_flight"], asked["seconds"])
            _say(await drive(Flows(system), load, _nothing))


async def _nothing() -> float:
    return 0.0


def _say(what: object) -> None:
    print(json.dumps(what), flush=True)


def main(loop: str, url: str) -> None:
    """What the process does."""
    observe.LAST_RESORT_LIMIT = 0
    with asyncio.Runner(loop_factory=event_loops()[loop]) as runner:
        runner.run(serve(url))


if __name__ == "__main__":
    main(*sys.argv[1:])
