"""What the C library does with large blocks of memory, and the garbage collector with what lives long.

    keep_large_blocks()        # once, before sockets are read
    settle()                   # once the tree of a process that does nothing else is up

glibc gives a block of 128 KB or more back to the system as soon as it is freed; once it has done so, it keeps blocks of
up to that size. asyncio reads from a socket into a block of 256 KB, which is cut to what came before it is freed, and
does not count: each read may cost three system calls and a page fault, as much as all else that is done for a small
message. The copies of a message of 64 KB are such blocks too.
"""

from __future__ import annotations

import gc
from functools import cache

BLOCK = 1024 * 1024
"""Bytes of the largest block that is kept: a message of a broker has no more, unless that is told otherwise."""

YOUNG = 10_000
"""The garbage collector looks at the young objects when there are so many more than were freed. Python's 700 are those
of a hundred messages in flight: they are alive each time, and the look soon goes through all that lives.
"""


@cache
def keep_large_blocks() -> None:
    """Have this process use a freed block again. It keeps up to twice `BLOCK` of memory that nobody uses.

    Where somebody has set glibc's thresholds (`MALLOC_MMAP_THRESHOLD_` and so on), they stay; other C libraries do as
    they do.
    """
    bytes(BLOCK)


def settle() -> None:
    """Keep what is there by now out of the garbage collector's way: each look through that takes a tenth of a second,
    in which the loop stands still. And have it look at what comes and goes less often.
    """
    gc.freeze()
    _, *older = gc.get_threshold()
    gc.set_threshold(YOUNG, *older)
