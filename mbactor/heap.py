"""What the C library does with large blocks of memory.

    keep_large_blocks()        # once, before sockets are read

glibc gives a block of 128 KB or more back to the system as soon as it is freed; once it has done so, it keeps blocks of
up to that size. asyncio reads from a socket into a block of 256 KB, which is cut to what came before it is freed, and
does not count: each read may cost three system calls and a page fault, as much as all else that is done for a small
message. The copies of a message of 64 KB are such blocks too.
"""

from __future__ import annotations

from functools import cache

BLOCK = 1024 * 1024
"""Bytes of the largest block that is kept: a message of a broker has no more, unless that is told otherwise."""


@cache
def keep_large_blocks() -> None:
    """Have this process use a freed block again. It keeps up to twice `BLOCK` of memory that nobody uses.

    Where somebody has set glibc's thresholds (`MALLOC_MMAP_THRESHOLD_` and so on), they stay; other C libraries do as
    they do.
    """
    bytes(BLOCK)
