"""A process with an actor system uses large blocks of memory again, without asking the system for them each time."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from mbactor import ActorSystem, heap
from tests.loops import run

TIMES = 500
ASKED = f"""
import os
import resource
import runpy

ours, theirs = os.pipe()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range({TIMES}):
        os.write(theirs, b"x")
        os.read(ours, 256 * 1024)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

at_first = faults()
runpy.run_path({heap.__file__!r})["keep_large_blocks"]()
faults()
print(at_first, faults())
"""
"""In a process that has freed no large block yet: which of them have, while they import, is a matter of luck. What was
read is less than the block, which is cut to it and so not freed as a large one.
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries do as they do")
def test_the_block_that_something_was_read_into_is_used_again() -> None:
    done = subprocess.run([sys.executable, "-S", "-c", ASKED], capture_output=True, text=True, check=True)
    at_first, then = map(int, done.stdout.split())
    assert at_first >= TIMES
    assert then < TIMES / 10


def test_a_process_with_an_actor_system_keeps_large_blocks() -> None:
    async def work() -> None:
        heap.keep_large_blocks.cache_clear()
        async with ActorSystem():
            assert heap.keep_large_blocks.cache_info().currsize == 1

    run(work())


SETTLED = """
import gc
from mbactor.heap import settle

before = gc.get_threshold()
settle()
print(gc.get_freeze_count() > 0, gc.get_threshold()[0], gc.get_threshold()[1:] == before[1:])
"""


def test_what_is_there_when_a_process_settles_is_no_garbage() -> None:
    told = subprocess.run([sys.executable, "-c", SETTLED], capture_output=True, text=True, check=True).stdout
    assert told.split() == ["True", str(heap.YOUNG), "True"]
