"""Work of the lowest priority on every core, so that none of them halts while something else waits.

    python -m benchmarks.awake CORE     works on that core until its input ends

A core with nothing to do halts, and to wake one can take longer than the work it is woken for: tens of microseconds in
a virtual machine. A server under load has other work to do and does not halt. Work of the class SCHED_IDLE makes way at
once for any other, so that what is measured beside it waits for no core and wakes none.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from benchmarks.bed import process

POSSIBLE = hasattr(os, "SCHED_IDLE")
NOT_POSSIBLE = "no SCHED_IDLE here, skipped what is measured on cores that are kept awake; it is Linux's"


@asynccontextmanager
async def cores_awake() -> AsyncIterator[list[int]]:
    """No core that this process may use halts within it. The ids of the processes that see to that."""
    async with AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(process(f"what keeps core {core} awake", "benchmarks.awake", str(core)))
            for core in sorted(os.sched_getaffinity(0))
        ]
        for worker in workers:
            await worker.line()
        yield [worker.pid for worker in workers]


def main(core: int) -> None:
    """What the process does."""
    os.sched_setaffinity(0, {core})
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    ended = threading.Event()

    def wait() -> None:
        sys.stdin.buffer.read()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    print("true", flush=True)
    while not ended.is_set():
        pass


if __name__ == "__main__":
    main(int(sys.argv[1]))
